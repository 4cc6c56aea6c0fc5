"""How often the tokens of a batch count in sums: those of given examples more often than those of made-up ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


GIVEN_COUNTS = 4  # made-up tokens that a given one stands for, in their number and in every sum


class Weighted(dict[str, Tensor]):
    """A batch of the model's inputs whose tokens count several times in sums.

    Attributes:
        times: how often.

    Example:
        >>> import torch
        >>> batch = Weighted({"input_ids": torch.tensor([[5, 6]])}, times=4)
        >>> times_of(batch), times_of(dict(batch))
        (4, 1)
    """

    def __init__(self, columns: Mapping[str, Tensor], times: int) -> None:
        super().__init__(columns)
        self.times = times


def times_of(batch: Mapping[str, Any]) -> int:
    """How often the tokens of a batch count: once, where nothing else is said."""
    return getattr(batch, "times", 1)


def like(batch: Mapping[str, Any], columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """Columns made of a batch's, which count as often."""
    times = times_of(batch)
    return columns if times == 1 else Weighted(columns, times)


__all__ = ["GIVEN_COUNTS", "Weighted", "like", "times_of"]
