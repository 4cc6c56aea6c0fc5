"""The width and depth in the source's proportions that a budget allows; where the width stays, the ffn and depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hf_learngene.anatomy import Anatomy
from hf_learngene.budget.meter import Meter
from hf_learngene.errors import InvalidSizeError


Sizes = Mapping[str, Any]

_PARTS = 16  # of an ffn


def fit(
    anatomy: Anatomy,
    meter: Meter,
    fixed: Sizes,
    whole: Callable[[Sizes], Sizes],
) -> dict[str, int]:
    """The width and depth that come nearest to a budget from below.

    Widths are multiples of the head size. Among sizes about as near to the budget, the one whose depth and width are most nearly
    in the source's proportion wins: the miss and the distortion are weighed 4 to 1 on a log scale. A source that shrinks becomes
    neither wider nor deeper, and one that grows neither narrower nor shallower. Where the caller keeps the width of a source that
    shrinks, its ffn takes the place of the width, in sixteenths.

    Args:
        anatomy (`Anatomy`): the source.
        meter (`Meter`): the budget.
        fixed (`Mapping`): sizes that the caller gave; they are kept.
        whole: sizes -> the same with all that follow from them; refuses those that do not divide.

    Raises:
        InvalidSizeError: the smallest size is above the budget, or the largest below half of it; names both.
    """
    step, width, depth = anatomy.sizes.get("head_dim", 1), anatomy.sizes["hidden_size"], anatomy.num_layers
    grows = not meter.shrinks and _measured(meter, whole, fixed) <= meter.ceiling
    if grows and anatomy.norms_that_need_multiples():
        step = width  # only whole multiples grow without loss
    up = 8 if grows else 1
    widths = [n for n in {*range(step, up * width + 1, step), width} if not grows or n >= width]
    depths = [n for n in range(1, (4 if grows else 1) * depth + 1) if not grows or n >= depth]
    if anatomy.shared_layers:
        depths = [depth]
    across = "hidden_size"
    if "hidden_size" in fixed:
        widths = [fixed["hidden_size"]]
        if meter.shrinks and (ffn := anatomy.sizes.get("intermediate_size")) and "intermediate_size" not in fixed:
            across, width, widths = (
                "intermediate_size",
                ffn,
                sorted({max(1, ffn * n // _PARTS) for n in range(1, _PARTS + 1)}),
            )
    if "num_hidden_layers" in fixed:
        depths = [fixed["num_hidden_layers"]]
    found: dict[tuple[int, int], tuple[float, Sizes]] = {}
    refusal: InvalidSizeError | None = None
    for w in widths:
        try:
            at_width = whole({across: w, **fixed})
        except InvalidSizeError as error:
            refusal = error.with_traceback(None)  # its frames hold whatever the callers have
            continue
        for d in depths:
            sizes: Sizes = {**at_width, "num_hidden_layers": d}
            found[w, d] = meter.estimate(sizes), sizes
    if refusal is not None and not found:
        raise refusal

    def cost(size: tuple[int, int]) -> tuple[float, int, int]:
        miss = abs(math.log(found[size][0] / meter.ceiling))
        distortion = abs(math.log((size[0] / width) / (size[1] / depth)))
        return 4 * miss + distortion, *size

    amounts = [amount for amount, _ in found.values()]
    least, most = min(amounts), max(amounts)
    off, measured = 1.0, False  # how far an estimate was below what the model then had
    unbuilt: InvalidSizeError | None = None
    for size in sorted(found, key=cost):
        amount, sizes = found[size]
        if amount * off > meter.ceiling or 2 * most < meter.ceiling:
            continue
        try:
            reached = meter.exact(sizes)
        except InvalidSizeError as error:  # a width that the family cannot be built with, beside widths of its own
            unbuilt = error.with_traceback(None)
            continue
        if reached <= meter.ceiling:
            return {across: size[0], "num_hidden_layers": size[1]}
        off = max(off, reached / amount)
        measured = True
    if unbuilt is not None and not measured:
        raise unbuilt
    reached = most if most < meter.ceiling else least * off
    raise InvalidSizeError(
        f"No size of `{anatomy.model_type}` in the source's proportions has about {meter.told(meter.ceiling)}; the nearest has "
        f"{meter.told(reached)} and the smallest {meter.told(least * off)} (the embeddings count too)."
    )


def _measured(meter: Meter, whole: Callable[[Sizes], Sizes], fixed: Sizes) -> float:
    """What the source has with the sizes that the caller gave; infinite where they do not divide at its width."""
    try:
        return meter.estimate(whole(fixed))
    except InvalidSizeError:
        return math.inf


__all__ = ["fit"]
