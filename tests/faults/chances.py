"""Draws with weights, from a `random.Random` or from the one that hypothesis hands out."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any


def chance(rng: Random, percent: int) -> bool:
    """True in so many of a hundred draws. The smallest draw is False, so what is shrunk has nothing of what it decides."""
    return rng.randrange(100) >= 100 - percent


def weighted(rng: Random, weights: Mapping[Any, int]) -> Any:
    """A key, as often as its weight says."""
    return rng.choice([value for value, weight in weights.items() for _ in range(weight)])
