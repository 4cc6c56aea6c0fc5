"""Parameter counts at any sizes, from the anatomy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.types import FFN, HEAD_COUNT, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LABELS, POSITIONS, VOCAB
from hf_learngene.budget.stage_count import stage_count


Amounts = dict[tuple[bool, tuple[str, ...]], int]

# axis -> the size that says how long it is
_SIZES = {
    HIDDEN: "hidden_size",
    FFN: "intermediate_size",
    HEAD_COUNT: "num_attention_heads",
    HEAD_DIM: "head_dim",
    VOCAB: "vocab_size",
    POSITIONS: "max_position_embeddings",
    LABELS: "num_labels",
}


def parameter_count(anatomy: Anatomy) -> Callable[[Mapping[str, float]], int]:
    """A function from sizes to parameter counts, from the anatomy alone. Sizes that are left out are the source's.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from hf_learngene.anatomy import anatomy_of
        >>> count = parameter_count(anatomy_of(BertConfig(), BertModel))
        >>> count({}), count({"num_hidden_layers": 6}), count({"intermediate_size": 1536})
        (109482240, 66955008, 81152256)
    """
    if anatomy.num_stages:
        return stage_count(anatomy)
    totals: Amounts = {}
    for tensor in anatomy.tensors.values():
        key = tensor.layer is not None, tuple(sorted(d.axis for d in tensor.dims))
        totals[key] = totals.get(key, 0) + tensor.numel
    return scaled(anatomy, totals)


def scaled(anatomy: Anatomy, amounts: Amounts) -> Callable[[Mapping[str, float]], int]:
    """A function from sizes to the sum of amounts, each of them scaled with its axes and, if it is in the layers, the depth.

    Args:
        anatomy: the source's.
        amounts: (whether in the layers, axes) -> how much the source has.
    """
    old: dict[str, float] = dict(anatomy.sizes)

    def flat(sizes: Mapping[str, float], heads: str) -> float:
        return sizes.get(heads, 1) * sizes.get("head_dim", 1)

    def ratios(sizes: Mapping[str, float]) -> dict[str, float]:
        new = {**old, **{n: sizes["hidden_size"] for n in anatomy.linked if "hidden_size" in sizes}, **sizes}
        found = {axis: new[name] / old[name] for axis, name in _SIZES.items() if name in old and name in new}
        found |= {n: new[n] / old[n] for n in old if n not in _SIZES.values() and old[n]}
        found[HEADS] = flat(new, "num_attention_heads") / flat(old, "num_attention_heads")
        found[KV_HEADS] = flat(new, "num_key_value_heads") / flat(old, "num_key_value_heads")
        if "mlp_ratio" in old:
            found[FFN] = found[HIDDEN] * new["mlp_ratio"] / old["mlp_ratio"]
        return found

    def count(sizes: Mapping[str, float]) -> int:
        by_axis, layers = (
            ratios(sizes),
            sizes.get("num_hidden_layers", anatomy.num_layers) / max(1, anatomy.num_layers),
        )
        total = 0.0
        for (layered, axes), size in amounts.items():
            total += size * math.prod(by_axis.get(a, 1.0) for a in axes) * (layers if layered else 1)
        return round(total)

    return count
