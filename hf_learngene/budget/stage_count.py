"""Parameter counts of a hierarchy at any sizes of its stages, from the anatomy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.stages import sizes_of_stage, staged
from hf_learngene.anatomy.types import FFN, HEAD_COUNT, HEAD_DIM, HEADS, HIDDEN, LABELS


def stage_count(anatomy: Anatomy) -> Callable[[Mapping[str, float]], int]:
    """A function from sizes of stages to parameter counts. Sizes that are left out are the source's.

    It is exact where all layers of a stage have tensors of the same sizes, and near where a first layer is another.

    Example:
        >>> from transformers import SwinConfig, SwinModel
        >>> from hf_learngene.anatomy import anatomy_of
        >>> count = stage_count(anatomy_of(SwinConfig(), SwinModel))
        >>> count({}), count({"num_hidden_layers.2": 4}), count({"mlp_ratio": 2})
        (27519354, 23966370, 18884346)
    """
    amounts: dict[tuple[int | None, tuple[str, ...]], int] = {}
    for tensor in anatomy.tensors.values():
        layered = tensor.stage if tensor.layer is not None else None
        key = layered, tuple(sorted(d.name for d in tensor.dims))
        amounts[key] = amounts.get(key, 0) + tensor.numel
    old = dict(anatomy.sizes)

    def count(sizes: Mapping[str, float]) -> int:
        new = {**old, **sizes}
        ratios = {LABELS: new["num_labels"] / old["num_labels"] if old.get("num_labels") else 1.0}
        for stage in range(anatomy.num_stages):
            before, after = (sizes_of_stage(s, stage) for s in (old, new))
            wide = after["hidden_size"] / before["hidden_size"]
            heads = after.get("num_attention_heads", 1) / before.get("num_attention_heads", 1)
            ffn = wide * after.get("mlp_ratio", 1) / before.get("mlp_ratio", 1)
            found = {HIDDEN: wide, HEADS: wide, FFN: ffn, HEAD_COUNT: heads, HEAD_DIM: wide / heads}
            ratios |= {staged(axis, stage): ratio for axis, ratio in found.items()}
        total = 0.0
        for (layered, axes), amount in amounts.items():
            depth = 1.0 if layered is None else new[_depth(layered)] / old[_depth(layered)]
            total += amount * depth * math.prod(ratios.get(axis, 1.0) for axis in axes)
        return round(total)

    return count


def _depth(stage: int) -> str:
    return staged("num_hidden_layers", stage)


__all__ = ["stage_count"]
