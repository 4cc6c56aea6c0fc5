"""Parameter counts at any sizes, and the sizes in the source's proportions that a parameter budget asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.types import FFN, HEAD_COUNT, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LABELS, POSITIONS, VOCAB
from hf_learngene.errors import InvalidSizeError


_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
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
_FOLLOW_WIDTH = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
# a budget sees to the width itself; what the caller gave of these does not change the parameters in proportion
_NOT_COUNTED = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "image_size", "patch_size",
)  # fmt: skip


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
    return round(params * source) if isinstance(params, float) and params <= 1 else round(params)


def parameter_count(anatomy: Anatomy) -> Callable[[Mapping[str, float]], int]:
    """A function from sizes to parameter counts, from the anatomy alone. Sizes that are left out are the source's.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from hf_learngene.anatomy import anatomy_of
        >>> count = parameter_count(anatomy_of(BertConfig(), BertModel))
        >>> count({}), count({"num_hidden_layers": 6}), count({"intermediate_size": 1536})
        (109482240, 66955008, 81152256)
    """
    totals: dict[tuple[bool, tuple[str, ...]], int] = {}
    for tensor in anatomy.tensors.values():
        key = tensor.layer is not None, tuple(sorted(d.axis for d in tensor.dims))
        totals[key] = totals.get(key, 0) + tensor.numel
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
        for (layered, axes), size in totals.items():
            total += size * math.prod(by_axis.get(a, 1.0) for a in axes) * (layers if layered else 1)
        return round(total)

    return count


def fit(anatomy: Anatomy, params: str | int | float, fixed: Mapping[str, Any]) -> dict[str, int]:
    """The width and depth whose parameter count is nearest to a budget.

    Widths are multiples of the head size. Among sizes about as near to the budget, the one whose depth and width are
    most nearly in the source's proportion wins: the miss and the distortion are weighed 4 to 1 on a log scale.

    Args:
        anatomy (`Anatomy`): the source.
        params (`str`, `int` or `float`): the budget.
        fixed (`Mapping`): sizes that the caller gave; they are kept.

    Raises:
        InvalidSizeError: no size comes within a factor of two; names the smallest or largest there is.
    """
    budget = parse_budget(params, anatomy.num_parameters)
    step, width, depth = anatomy.sizes.get("head_dim", 1), anatomy.sizes["hidden_size"], anatomy.num_layers
    if budget > anatomy.num_parameters and anatomy.norms_that_need_multiples():
        step = width  # only whole multiples grow without loss
    widths = (
        [fixed["hidden_size"]]
        if "hidden_size" in fixed
        else [step * i for i in range(1, 1 + max(1, 8 * width // step))]
    )
    depths = [fixed["num_hidden_layers"]] if "num_hidden_layers" in fixed else list(range(1, 4 * depth + 1))
    if anatomy.shared_layers:
        depths = [depth]

    known = parameter_count(anatomy)
    given = {n: v for n, v in fixed.items() if n in anatomy.sizes and n not in _NOT_COUNTED}

    def count(hidden: int, layers: int) -> int:
        """In the source's proportions."""
        follows = {n: anatomy.sizes[n] * hidden / width for n in _FOLLOW_WIDTH if n in anatomy.sizes}
        return known({**follows, "hidden_size": hidden, "num_hidden_layers": layers, **given})

    def cost(size: tuple[int, int]) -> tuple[float, int, int]:
        miss = abs(math.log(count(*size) / budget))
        distortion = abs(math.log((size[0] / width) / (size[1] / depth)))
        return 4 * miss + distortion, *size

    best = min(((w, d) for w in widths for d in depths), key=cost)
    reached = count(*best)
    if not 0.5 <= reached / budget <= 2:
        bound = min(count(w, d) for w in widths for d in depths)
        raise InvalidSizeError(
            f"No size of `{anatomy.model_type}` in the source's proportions has about {budget:,} parameters; the nearest has "
            f"{reached:,} and the smallest {bound:,} (the embeddings count too)."
        )
    return {"hidden_size": best[0], "num_hidden_layers": best[1]}
