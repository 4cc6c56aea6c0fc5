"""Depths of the descendants that sandwich training trains beside the auxiliary model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.stages import staged
from hf_learngene.errors import InvalidSizeError


Range = tuple[int | None, int | None]


def depths_to_draw(anatomy: Anatomy, depths: Range, widths: Sequence[int] | None = None) -> dict[str, list[int]]:
    """Depths that descendants are drawn from, by canonical name of the size; of a hierarchy, of every stage.

    Args:
        anatomy: of the auxiliary model.
        depths: least and largest. Default: a third of the auxiliary model's, and one less than it; of a stage, up to its own,
            since another stage may be the smaller one. Blocks that alternate come in whole turns, where there are some.
        widths: that are drawn beside them; a hierarchy keeps its own.

    Raises:
        InvalidSizeError: no depth lies between them, or none but the auxiliary model's own; widths, for a hierarchy.
    """
    if not anatomy.num_stages:
        return {"num_hidden_layers": _between(anatomy.num_layers, anatomy.num_layers - 1, depths)}
    if widths:
        raise InvalidSizeError("A learngene keeps the widths of a hierarchy: leave sandwich_widths out.")
    found = {}
    for part in anatomy.parts:
        every = _between(part.num_layers, part.num_layers, depths)
        whole = [depth for depth in every if (depth - part.lead) % part.period == 0]
        found[staged("num_hidden_layers", part.stage or 0)] = whole or every
    if all(choices == [anatomy.sizes[name]] for name, choices in found.items()):
        raise InvalidSizeError(
            "No stage of the auxiliary model can have fewer blocks than it has, so there is nothing to draw: leave "
            "sandwich_weight at 0, or set sandwich_max_layers above its depths."
        )
    return found


def drawn_depths(
    choices: Mapping[str, Sequence[int]], own: Mapping[str, int], generator: torch.Generator
) -> dict[str, int]:
    """One depth of each; of several stages, such that not all are the auxiliary model's `own`."""
    found = {name: _one_of(each, generator) for name, each in choices.items()}
    others = {n: [d for d in each if d != own[n]] for n, each in choices.items()}
    free = [name for name, each in others.items() if each]
    if len(found) > 1 and all(found[n] == own[n] for n in found):
        name = free[int(torch.randint(len(free), (), generator=generator))]
        found[name] = _one_of(others[name], generator)
    return found


def _one_of(values: Sequence[int], generator: torch.Generator) -> int:
    return values[int(torch.randint(len(values), (), generator=generator))]


def _between(own: int, largest: int, depths: Range) -> list[int]:
    least, most = depths
    least = least if least is not None else max(1, round(own / 3))
    most = most if most is not None else max(least, largest)
    if not 1 <= least <= most:
        raise InvalidSizeError(
            f"sandwich_min_layers lies between 1 and sandwich_max_layers ({most}, by default one less than the auxiliary "
            f"model's {own}); it was {least}."
        )
    return list(range(least, most + 1))


__all__ = ["depths_to_draw", "drawn_depths"]
