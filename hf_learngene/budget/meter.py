"""`Budget`: a ceiling as the caller gave it. `Meter`: the same for one source, and what counts against it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from hf_learngene.errors import InvalidSizeError, UnknownOptionError


@dataclass(frozen=True)
class Quantity:
    """Something that a model has more or less of.

    Attributes:
        name: the keyword of a budget.
        said: the same in words.
        units: what may stand behind a number -> how much it is.
        per: the unit of tables, and its name in the singular.
        example: for error messages.
    """

    name: str
    said: str
    units: Mapping[str, float]
    per: tuple[float, str]
    example: str


_COUNTED = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}
QUANTITIES = {
    q.name: q
    for q in (
        Quantity("params", "parameters", _COUNTED, (1e6, "million"), "'20M', 20_000_000"),
        Quantity("flops", "FLOPs", {**_COUNTED, "g": 1e9, "t": 1e12}, (1e9, "GFLOP"), "'4G', 4_000_000_000"),
        Quantity("latency", "seconds", {"": 1, "s": 1, "ms": 1e-3, "us": 1e-6}, (1e-3, "ms"), "'20ms', '1.5s'"),
    )
}


@dataclass(frozen=True)
class Budget:
    """A ceiling as it was asked for.

    Attributes:
        quantity: `params`, `flops` or `latency`.
        amount: a number, a number with a unit, or a share of the source's.
    """

    quantity: str
    amount: str | int | float

    @classmethod
    def of(cls, **given: Any) -> Self | None:
        """The one budget among keywords; None where none of them is given.

        Raises:
            UnknownOptionError: more than one.

        Example:
            >>> Budget.of(params=None, flops=0.5, latency=None)
            Budget(quantity='flops', amount=0.5)
        """
        asked = {name: amount for name, amount in given.items() if amount is not None}
        if len(asked) > 1:
            raise UnknownOptionError(
                f"{' and '.join(asked)} are budgets, and one is kept at a time; give one of them."
            )
        return next((cls(name, amount) for name, amount in asked.items()), None)

    def ceiling(self, source: float) -> float:
        """The most there may be, where the source has `source`.

        Raises:
            InvalidSizeError: an amount that is no number.

        Example:
            >>> Budget("params", "1.5M").ceiling(86e6), Budget("flops", 0.25).ceiling(8e9), Budget("latency", "20ms").ceiling(1)
            (1500000, 2000000000, 0.02)
        """
        known, amount = QUANTITIES[self.quantity], self.amount
        share = isinstance(amount, float) and amount <= 1
        if isinstance(amount, str):
            match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", amount)
            if match and match[2].lower() in known.units:
                amount = float(match[1]) * known.units[match[2].lower()]
                share = not match[2] and amount < 1
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 < amount < math.inf:
            raise InvalidSizeError(
                f"{self.quantity} is a number such as {known.example} or 0.25 (a share); it was {self.amount!r}."
            )
        most = amount * source if share else amount
        return most if self.quantity == "latency" else math.floor(most)


@dataclass(frozen=True, eq=False)
class Meter:
    """A budget of one source.

    Attributes:
        budget: as it was asked for.
        ceiling: the most there may be.
        source: how much the source has.
        estimate: sizes -> how much a model of these sizes has, told at once.
        exact: the same, of a model that is built for it (and timed, where it is about latency).
    """

    budget: Budget
    ceiling: float
    source: float
    estimate: Callable[[Mapping[str, Any]], float]
    exact: Callable[[Mapping[str, Any]], float]

    @property
    def quantity(self) -> Quantity:
        return QUANTITIES[self.budget.quantity]

    @property
    def shrinks(self) -> bool:
        """Whether the budget is smaller than the source."""
        return self.ceiling < self.source

    def told(self, amount: float) -> str:
        """An amount with its unit, for people.

        Example:
            >>> Meter(Budget("latency", 0.5), 1.0, 2.0, len, len).told(0.0123)
            '12.3 ms'
        """
        if self.budget.quantity == "params":
            return f"{amount:,.0f} parameters"
        unit, name = self.quantity.per
        return f"{amount / unit:,.3g} {name}{'s' if name == 'GFLOP' else ''}"


__all__ = ["QUANTITIES", "Budget", "Meter", "Quantity"]
