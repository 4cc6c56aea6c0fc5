"""The sizes of a core that has a given share of its ancestry's parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from hf_learngene.anatomy import Anatomy
from hf_learngene.budget.count import parameter_count
from hf_learngene.errors import InvalidSizeError


SHARES = tuple(n / 8 for n in range(8, 0, -1))  # of each size, that are looked at
# What it costs to make a size smaller by the square of its logarithm. The residual stream is in every matrix; in post-norm
# families, whose stream cannot be rotated, it costs most (docs/calibrated.md).
WIDTH, WIDTH_AFTER_NORMS, HEAD, FFN = 2.0, 8.0, 1.0, 1.0


def core_sizes(anatomy: Anatomy, share: float, given: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of a core, by canonical name, that has at most this share of the ancestry's parameters.

    Depth and the number of heads stay; width, head size and ffn are made smaller together, each as far as it costs the least.

    Args:
        anatomy: the ancestry's.
        share: above 0, at most 1.
        given: sizes that are fixed, by canonical name.

    Raises:
        InvalidSizeError: no core is that small; names the share of the smallest.

    Example:
        >>> from transformers import ViTConfig, ViTModel
        >>> from hf_learngene.anatomy import anatomy_of
        >>> vit = anatomy_of(ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536), ViTModel)
        >>> core_sizes(vit, 1 / 3, {})
        {'num_attention_heads': 6, 'head_dim': 40, 'hidden_size': 192, 'intermediate_size': 960}
    """
    if share == 1:
        return dict(given)
    count = parameter_count(anatomy)
    most = share * anatomy.num_parameters
    found = sorted((count(sizes), cost, tuple(sizes.items())) for sizes, cost in _cores(anatomy, given))
    within = [(cost, -amount, sizes) for amount, cost, sizes in found if amount <= most]
    if not within:
        raise InvalidSizeError(
            f"No core of this `{anatomy.model_type}` has {share:.3g} of its parameters: the smallest that is looked at has "
            f"{found[0][0] / anatomy.num_parameters:.3g} (the embeddings count too). Give that share, or sizes by name."
        )
    chosen = dict(min(within)[2])
    if not anatomy.head_dim_honoured:  # it follows from width and heads
        del chosen["head_dim"]
    return chosen


def _cores(anatomy: Anatomy, given: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], float]]:
    """Sizes, and what they cost."""
    own = anatomy.sizes
    heads = given.get("num_attention_heads", own["num_attention_heads"])
    weights = {"hidden_size": WIDTH_AFTER_NORMS if anatomy.post_norm else WIDTH, "head_dim": HEAD}
    weights |= {"intermediate_size": FFN, "mlp_ratio": FFN}
    free = [n for n in weights if n in own and (n != "head_dim" or anatomy.head_dim_honoured)]
    values = [_steps(given, own[name], name, heads if name == "hidden_size" else 1) for name in free]
    for chosen in itertools.product(*values):
        sizes = dict(zip(free, chosen, strict=True))
        sizes = {"num_attention_heads": heads, "head_dim": sizes["hidden_size"] / heads, **sizes}
        cost = sum(weight * math.log(sizes[n] / own[n]) ** 2 for n, weight in weights.items() if n in own)
        yield {**given, **sizes}, cost


def _steps(given: Mapping[str, Any], own: int, name: str, unit: int) -> list[int]:
    """Values of a size that are looked at: the given one, or shares of the ancestry's in whole units."""
    if name in given:
        return [given[name]]
    return sorted({size for share in SHARES if (size := round(own * share / unit) * unit)}, reverse=True)


__all__ = ["core_sizes"]
