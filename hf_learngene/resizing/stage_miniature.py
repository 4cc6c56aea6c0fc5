"""Sizes of a miniature of a hierarchy that grows: each stage changes in the same kinds of ways as the large one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.config_fields import as_pair
from hf_learngene.anatomy.stages import sizes_of_stage, staged


_WIDTH = 8  # of the first stage
_LABELS = 3
_MOST = 3  # times as wide, or so many blocks more


def stage_sizes(
    source: Anatomy, part: PreTrainedConfig, grown: Mapping[str, Any], side: int | None, shallow: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes of the small source and of its target.

    Args:
        source: the large source's anatomy.
        part: the section of its config that holds the sizes.
        grown: sizes of the large target.
        side: what a larger image is cut to; some families need one of their windows behind the last stage.
        shallow: whether there may be fewer blocks; some families count on as many as a stage has.
    """
    old: dict[str, Any] = {**source.sizes, "num_labels": min(_LABELS, source.sizes["num_labels"])}
    if side is not None and "image_size" in source.fields:
        height, width = (min(length, side) for length in as_pair(part.image_size))
        old["image_size"] = height if height == width else (height, width)
    new = {n: v for n, v in grown.items() if "." not in n} | {
        n: old[n] for n in ("num_labels", "image_size") if n in old
    }
    factor = source.stage_fields["hidden_size"].factor
    for stage, own in enumerate(source.parts):
        width = _WIDTH * (factor**stage if factor is not None else stage + 1)
        small, large = _stage(own, sizes_of_stage(grown, stage), width, shallow)
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
