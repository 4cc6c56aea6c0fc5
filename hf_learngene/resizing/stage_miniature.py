"""Sizes of a miniature of a hierarchy that grows: each stage changes in the same kinds of ways as the large one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.stages import sizes_of_stage, staged


_WIDTH = 8  # of the first stage
_SIDE = 224  # of a larger image: the grids behind every stage are those of a plain one
_LABELS = 3
_MOST = 3  # times as wide, or so many blocks more


def stage_sizes(
    source: Anatomy, grown: Mapping[str, Any], image: bool, shallow: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes of the small source and of its target.

    Args:
        source: the large source's anatomy.
        grown: sizes of the large target.
        image: whether a large image may be smaller; some families need one of their windows behind the last stage.
        shallow: whether there may be fewer blocks; some families count on as many as a stage has.
    """
    old: dict[str, Any] = {**source.sizes, "num_labels": min(_LABELS, source.sizes["num_labels"])}
    if image and isinstance(old.get("image_size"), int):
        old["image_size"] = min(old["image_size"], _SIDE)
    new = {n: v for n, v in grown.items() if "." not in n} | {
        n: old[n] for n in ("num_labels", "image_size") if n in old
    }
    factor = source.stage_fields["hidden_size"].factor
    for stage, part in enumerate(source.parts):
        width = _WIDTH * (factor**stage if factor is not None else stage + 1)
        small, large = _stage(part, sizes_of_stage(grown, stage), width, shallow)
        old |= {staged(name, stage): value for name, value in small.items()}
        new |= {staged(name, stage): value for name, value in large.items()}
    return old, {**old, **new}


def _stage(
    part: Anatomy, grown: Mapping[str, int], width: int, shallow: bool
) -> tuple[dict[str, int], dict[str, int]]:
    real = part.sizes
    depth = real["num_hidden_layers"]
    if shallow:
        depth = min(depth, max(2, part.period + depth % part.period))
    more = min(_MOST, max(0, grown["num_hidden_layers"] - real["num_hidden_layers"]))
    small = {"hidden_size": width, "num_hidden_layers": depth}
    large = {
        "hidden_size": _alike(width, real["hidden_size"], grown["hidden_size"]),
        "num_hidden_layers": depth + more,
    }
    if "num_attention_heads" in real:
        heads = small["num_attention_heads"] = min(2, real["num_attention_heads"])
        large["num_attention_heads"] = _alike(heads, real["num_attention_heads"], grown["num_attention_heads"])
    if "mlp_ratio" in real and "mlp_ratio" in grown:
        small["mlp_ratio"], large["mlp_ratio"] = real["mlp_ratio"], grown["mlp_ratio"]
    for sizes in (small, large):
        if "num_attention_heads" in sizes:
            sizes["head_dim"] = sizes["hidden_size"] // sizes["num_attention_heads"]
    return small, large


def _alike(small: int, old: int, new: int) -> int:
    """The size that `small` becomes, as `old` becomes `new`."""
    if new == old:
        return small
    return min(new // old, _MOST) * small if new % old == 0 else new // old * small + max(1, small // 2)


__all__ = ["stage_sizes"]
