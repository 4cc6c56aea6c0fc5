"""The width, with every head and layer kept, that a budget allows: what a refitted model misses least (docs/calibrated.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hf_learngene.anatomy import Anatomy
from hf_learngene.budget.meter import Meter
from hf_learngene.errors import InvalidSizeError


Sizes = Mapping[str, Any]

_EVEN = 8  # widths are multiples of it where the source's is
_SMALLEST_HEAD = 8
_OF_WIDTH = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")


def fit_width(anatomy: Anatomy, meter: Meter, fixed: Sizes, whole: Callable[[Sizes], Sizes]) -> dict[str, int] | None:
    """The largest width within a budget at which the source's heads all stay, made smaller; the ffn keeps its ratio.

    Args:
        anatomy (`Anatomy`): the source.
        meter (`Meter`): the budget.
        fixed (`Mapping`): sizes that the caller gave; they are kept.
        whole: sizes -> the same with all that follow from them; refuses those that do not divide.

    Returns:
        `dict[str, int]`: width and heads; None where the caller gave one of them, where heads cannot be made smaller as they
        are (rotated positions, norms of queries and keys), or where that takes heads of fewer than 8 dimensions.
    """
    width, heads = anatomy.sizes["hidden_size"], anatomy.sizes.get("num_attention_heads", 0)
    if not heads or not meter.shrinks or any(name in fixed for name in _OF_WIDTH):
        return None
    if anatomy.rotary or anatomy.normalised_heads or anatomy.sizes.get("num_key_value_heads", heads) != heads:
        return None
    step = math.lcm(heads, _EVEN) if width % _EVEN == 0 else heads
    for size in range(width // step * step, heads * _SMALLEST_HEAD - 1, -step):
        found = {"hidden_size": size, "num_attention_heads": heads}
        if "head_dim" in anatomy.fields:
            found["head_dim"] = size // heads
        try:
            sizes = whole({**found, **fixed})
            if meter.estimate(sizes) <= meter.ceiling and meter.exact(sizes) <= meter.ceiling:
                return found
        except InvalidSizeError:  # a width that the family cannot have
            continue
    return None


__all__ = ["fit_width"]
