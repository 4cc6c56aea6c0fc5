"""Which layers of a source run side by side as one layer of a shallower model."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.types import DISTANCES, FFN, HEAD_COUNT, HEADS, HIDDEN, KV_HEADS, RELATIVE, RELATIVE_LINE


GRID = 2**32  # steps of the largest cost
_INSIDE = (FFN, HEADS, KV_HEADS)
_ROLES = ("q", "k", "v", "qkv", "o", "ffn_in", "ffn_out")


def merges_layers(anatomy: Anatomy) -> bool:
    """Whether heads and ffn units of several layers can be those of one: layers of attention and ffn, all alike."""
    if anatomy.shared_layers or anatomy.per_layer or anatomy.layers_read_from_outside:
        return False
    if any(
        d.axis in (DISTANCES, HEAD_COUNT, RELATIVE, RELATIVE_LINE) for t in anatomy.tensors.values() for d in t.dims
    ):
        return False  # what each head has beside its matrices
    for layer in range(anatomy.num_layers):
        mine = [t for t in anatomy.tensors.values() if t.layer == layer]
        norms = [n for n in anatomy.norms if n.layer == layer and n.axis == HIDDEN]
        closing = [anatomy.post_norm and n is norms[-1] for n in norms]
        if len(norms) != 2 or any(n.writes_stream != anatomy.post_norm for n in norms):
            return False
        if [n.closes_layer for n in norms] != closing:
            return False
        inner = [t for t in mine if any(d.axis in _INSIDE for d in t.dims)]
        if not all(t.kind in ("linear", "bias") and t.role in _ROLES for t in inner):
            return False
        writers = [t.role for t in inner if len(t.dims) == 2 and t.writes_stream]
        if sorted(writers) != ["ffn_out", "o"]:
            return False
    return anatomy.num_layers > 0


def side_by_side(costs: Sequence[float], depth: int) -> dict[int, tuple[int, ...]]:
    """Which layers that follow one another become one of `depth`: all in order, by the first of each.

    Of layers that are one, only the room of one is left: those do well together of which all but one cost little, and the more
    there are, the less each keeps. The sum of (number - 1) x (costs but the largest) is least.

    Args:
        costs: what is lost without each layer.
        depth: how many there are to be.

    Example:
        >>> side_by_side([1.0, 1.0, 1.0, 1.0], 2), side_by_side([1.0, 1.0, 0.0, 0.0], 2)
        ({0: (0, 1), 2: (2, 3)}, {0: (0,), 1: (1, 2, 3)})
    """
    least = 1e-3 * max(sum(costs) / len(costs), 1e-30)  # where several do as well, they are spread evenly
    steps = GRID / (max(costs) + least)
    # whole numbers: pairs with one cheap layer between them are a tie, which rounding would break otherwise on each machine
    weights = [round((c + least) * steps) for c in costs]

    @functools.cache
    def best(start: int, left: int) -> tuple[int, tuple[int, ...]]:
        """The least sum for what follows `start`, and the first layers."""
        if left == 1:
            return _lost(weights[start:]), (start,)
        ends = range(start + 1, len(weights) - left + 2)
        found = ((end, *best(end, left - 1)) for end in ends)
        cost, firsts = min((_lost(weights[start:end]) + rest, firsts) for end, rest, firsts in found)
        return cost, (start, *firsts)

    firsts = best(0, depth)[1]
    return {a: tuple(range(a, b)) for a, b in zip(firsts, [*firsts[1:], len(costs)], strict=True)}


def _lost(weights: Sequence[int]) -> int:
    return (len(weights) - 1) * (sum(weights) - max(weights))


__all__ = ["merges_layers", "side_by_side"]
