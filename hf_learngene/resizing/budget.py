"""A config for a parameter budget, in the source's proportions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.types import FFN, HEADS, HIDDEN, KV_HEADS, LABELS, POSITIONS, VOCAB
from hf_learngene.errors import InvalidSizeError


_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
# What a budget chooses, or what follows from that.
_CHOSEN = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "image_size",
    "patch_size",
)
_AXES = {
    "intermediate_size": FFN,
    "mlp_ratio": FFN,
    "vocab_size": VOCAB,
    "max_position_embeddings": POSITIONS,
    "num_labels": LABELS,
}


def parse_budget(params: str | int | float, source: int) -> int:
    """Number of parameters from `20_000_000`, `"20M"`, `"1.5B"`, or a share of the source such as `0.25`.

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


def counter(anatomy: Anatomy, fixed: Mapping[str, Any]) -> Callable[[int, int], int]:
    """Parameters at a width and depth in the source's proportions, from the anatomy alone.

    Sizes in `fixed` count as they are given there, whatever the width.
    """
    follows = {HIDDEN, HEADS, FFN, KV_HEADS, *anatomy.linked}
    share = {
        _AXES.get(n, n): v / anatomy.sizes[n] for n, v in fixed.items() if n in anatomy.sizes and n not in _CHOSEN
    }
    follows -= share.keys() - ({FFN} if "mlp_ratio" in fixed else set())  # a ratio still follows the width
    totals: dict[tuple[bool, int], float] = {}  # (in a layer, power of the width) -> parameters
    for tensor in anatomy.tensors.values():
        key = tensor.layer is not None, sum(d.axis in follows for d in tensor.dims)
        size = math.prod(d.size * share.get(d.axis, 1.0) for d in tensor.dims)
        totals[key] = totals.get(key, 0.0) + size

    def count(hidden: int, depth: int) -> int:
        ratio, layers = hidden / anatomy.sizes["hidden_size"], depth / anatomy.num_layers
        return round(sum(n * ratio**power * (layers if layered else 1) for (layered, power), n in totals.items()))

    return count


def fit(anatomy: Anatomy, params: str | int | float, fixed: Mapping[str, Any]) -> dict[str, int]:
    """Width and depth whose parameter count is nearest to `params`.

    Widths are multiples of the head size. Among sizes about as near to the budget, the one whose depth and width are
    most nearly in the source's proportion wins: the miss and the distortion are weighed 4 to 1 on a log scale.

    Args:
        anatomy (`Anatomy`): the source.
        params (`str`, `int` or `float`): the budget.
        fixed (`Mapping`): sizes that the caller gave; they stay.

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

    count = counter(anatomy, fixed)

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
