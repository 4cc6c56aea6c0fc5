"""Sizes of a hierarchy within a budget: one share of every width and one of every depth; and which sizes a search tries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.stages import sizes_of_stage, staged
from hf_learngene.budget.meter import Meter
from hf_learngene.errors import InvalidSizeError


Sizes = Mapping[str, Any]

_PARTS = 16  # of every width


def fit_stages(anatomy: Anatomy, meter: Meter, fixed: Sizes, whole: Callable[[Sizes], Sizes]) -> dict[str, int]:
    """The widths and depths, one share each for all stages, that come nearest to a budget from below.

    The miss and the difference of both shares are weighed 4 to 1 on a log scale, as for a model of one width. Widths keep the
    head size; where the caller keeps the widths, the ffn's ratio takes their place.

    Args:
        anatomy: the source.
        meter: the budget.
        fixed: sizes that the caller gave; they are kept.
        whole: sizes -> the same with all that follow from them; refuses those that do not divide.

    Raises:
        InvalidSizeError: the budget is no smaller than the source, or no size is that small; names the smallest.
    """
    if not meter.shrinks:
        raise InvalidSizeError(
            f"A budget shrinks a hierarchy, and {meter.told(meter.ceiling)} are no less than what `{anatomy.model_type}` has "
            f"({meter.told(meter.source)}). Give the sizes to grow it: "
            f"{', '.join(f.native for f in anatomy.stage_fields.values())}."
        )
    found: list[tuple[float, float, dict[str, int], Sizes]] = []
    for wide, widths in _across(anatomy, fixed):
        for deep, depths in _along(anatomy, fixed):
            try:
                sizes = whole({**widths, **depths, **fixed})
            except InvalidSizeError:
                continue
            amount = meter.estimate(sizes)
            miss = abs(math.log(amount / meter.ceiling))
            found.append((4 * miss + abs(math.log(wide / deep)), amount, {**widths, **depths}, sizes))
    off = 1.0  # how far an estimate was below what the model then had
    for _, amount, chosen, sizes in sorted(found, key=lambda one: (one[0], sorted(one[2].items()))):
        if amount * off > meter.ceiling:
            continue
        reached = meter.exact(sizes)
        if reached <= meter.ceiling:
            return chosen
        off = max(off, reached / amount)
    least = min((amount for _, amount, _, _ in found), default=meter.source) * off
    raise InvalidSizeError(
        f"No size of `{anatomy.model_type}` in the source's proportions has at most {meter.told(meter.ceiling)}; the smallest "
        f"has {meter.told(least)}."
    )


def _across(anatomy: Anatomy, fixed: Sizes) -> list[tuple[float, dict[str, int]]]:
    """Shares of all widths, each with the widths; where the caller gave these, of all ffns."""
    if any(name.startswith("hidden_size.") for name in fixed):
        return _ffns(anatomy) or [(1.0, {})]
    found: list[tuple[float, dict[str, int]]] = []
    for n in range(_PARTS, 0, -1):
        widths = {}
        for stage, part in enumerate(anatomy.parts):
            step = part.sizes.get("head_dim", 1)
            widths[staged("hidden_size", stage)] = max(1, round(part.sizes["hidden_size"] * n / _PARTS / step)) * step
        if (factor := anatomy.stage_fields["hidden_size"].factor) is not None:
            first = widths[staged("hidden_size", 0)]
            widths = {staged("hidden_size", s): first * factor**s for s in range(anatomy.num_stages)}
        share = widths[staged("hidden_size", 0)] / anatomy.parts[0].sizes["hidden_size"]
        if widths not in [known for _, known in found]:
            found.append((share, widths))
    return found


def _ffns(anatomy: Anatomy) -> list[tuple[float, dict[str, int]]]:
    names = [n for n in anatomy.sizes if n.partition(".")[0] == "mlp_ratio"]
    most = max((anatomy.sizes[n] for n in names), default=0)
    return [(r / most, {n: max(1, round(anatomy.sizes[n] * r / most)) for n in names}) for r in range(most, 0, -1)]


def _along(anatomy: Anatomy, fixed: Sizes) -> list[tuple[float, dict[str, int]]]:
    """Shares of all depths, each with the depths."""
    most = max(part.num_layers for part in anatomy.parts)
    if any(name.startswith("num_hidden_layers.") for name in fixed):
        return [(1.0, {})]
    return [
        (
            n / most,
            {
                staged("num_hidden_layers", s): max(1, round(p.num_layers * n / most))
                for s, p in enumerate(anatomy.parts)
            },
        )
        for n in range(most, 0, -1)
    ]


def searched_sizes(anatomy: Anatomy) -> dict[str, tuple[int, int]]:
    """What a search by measured error tries of a hierarchy, by name: the source's size, and the step down from it.

    Depths and, where the config says them in whole numbers, the ratios of the ffns, each by stage or for all as the config has
    it. Widths stay: a caller gives them.
    """
    depths = [staged("num_hidden_layers", stage) for stage in range(anatomy.num_stages)]
    ratios = [n for n in anatomy.sizes if n.partition(".")[0] == "mlp_ratio"]
    return {name: (anatomy.sizes[name], 1) for name in (*ratios, *depths)}


def last_rank(anatomy: Anatomy, sizes: Sizes) -> int:
    """Units of the last stage's ffn, if some of them leave: at least so many tokens are needed there, which has the fewest."""
    stage = anatomy.num_stages - 1
    old, new = (sizes_of_stage(s, stage) for s in (anatomy.sizes, {**anatomy.sizes, **sizes}))
    before, after = (s["hidden_size"] * s.get("mlp_ratio", 1) for s in (old, new))
    return round(after) if after < before else 0


__all__ = ["fit_stages", "last_rank", "searched_sizes"]
