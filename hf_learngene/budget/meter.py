"""`Meter`: what a budget counts, and how much of it there may be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from hf_learngene.errors import InvalidSizeError


_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


def parse_budget(params: str | int | float, source: int) -> int:
    """The number of parameters that a budget means: `20_000_000`, `"20M"`, `"1.5B"`, or a share of the source such as `0.25`.

    Raises:
        InvalidSizeError: anything else.

    Example:
        >>> parse_budget("1.5M", 86_000_000), parse_budget(0.25, 86_000_000)
        (1500000, 21500000)
    """
    if isinstance(params, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kKmMbB]?)\s*", params)
        if match:
            params = float(match[1]) * _UNITS[match[2].lower()]
            params = params if params < 1 else int(params)
    if isinstance(params, bool) or not isinstance(params, (int, float)) or not 0 < params < math.inf:
        raise InvalidSizeError(f"params is a number such as '20M', 20_000_000 or 0.25 (a share); it was {params!r}.")
    return math.floor(params * source) if isinstance(params, float) and params <= 1 else math.floor(params)


@dataclass(frozen=True, eq=False)
class Meter:
    """What a budget counts of a model, and the ceiling that a result stays under.

    Attributes:
        ceiling: the most there may be.
        source: how much of it the source has.
        estimate: sizes -> how much of it a model of these sizes has, at once; exact up to roundings of a family's own.
        exact: a config -> how much of it the model has, once it is built.
    """

    ceiling: float
    source: float
    estimate: Callable[[Mapping[str, Any]], float]
    exact: Callable[[PreTrainedConfig], float]

    @property
    def shrinks(self) -> bool:
        """Whether the budget is smaller than the source."""
        return self.ceiling < self.source
