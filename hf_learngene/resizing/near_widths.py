"""The widths nearest to one that a family refuses, found by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hf_learngene.anatomy import Anatomy


STEPS = 4  # each way; a family's own rule is a small divisor


def near_widths(source: Anatomy, sizes: Mapping[str, Any], works: Callable[[Mapping[str, Any]], bool]) -> str:
    """The nearest smaller and larger width that a family can have, in a sentence; nothing where the width is not to blame.

    Args:
        source: the source's anatomy.
        sizes: all sizes of the target that was refused.
        works: whether the family can have some sizes.
    """
    if source.num_stages or sizes["hidden_size"] == source.sizes["hidden_size"]:
        return ""
    found = [str(near) for sign in (-1, 1) if (near := _first(source, sizes, sign, works)) is not None]
    return f" Nearest widths that work: {' and '.join(found)}." if found else ""


def _first(
    source: Anatomy, sizes: Mapping[str, Any], sign: int, works: Callable[[Mapping[str, Any]], bool]
) -> int | None:
    return next((other["hidden_size"] for other in _others(source, sizes, sign) if works(other)), None)


def _others(source: Anatomy, sizes: Mapping[str, Any], sign: int) -> Iterator[dict[str, Any]]:
    """Sizes of other widths, ever further away, whose heads fill them: with the source's head size, or as many heads."""
    width: int = sizes["hidden_size"]
    heads, size = sizes.get("num_attention_heads", 1), sizes.get("head_dim", 1)
    apart = "num_attention_heads" not in sizes or source.head_dim_honoured
    step = 1 if apart else size if size == source.sizes.get("head_dim") else heads
    for number in range(1, STEPS + 1):
        other = width + sign * number * step
        if other < 1:
            return
        if apart:
            yield {**sizes, "hidden_size": other}
        elif step == size:
            yield {**sizes, "hidden_size": other, "num_attention_heads": other // size}
        else:
            yield {**sizes, "hidden_size": other, "head_dim": other // heads}


__all__ = ["near_widths"]
