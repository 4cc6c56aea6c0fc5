"""Layers that are alike, one behind the other: what a learngene shares weights along, in a model of one depth or of stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.stages import listed


def in_series(anatomy: Anatomy) -> dict[str, TensorInfo]:
    """Every tensor of a model, with its series as `template` and its place in there as `layer`.

    A series is all layers of a model of one depth. In a hierarchy it is the blocks of one stage, or of those that alternate
    (Swin's plain and shifted windows) every other one: a pair has the same place in two series, and so stays a pair. A first
    block of another kind (Hiera's, which holds the transition between two stages) is in no series and has no layer here.
    """
    if not anatomy.num_stages:
        return dict(anatomy.tensors)
    return {name: _placed(info, anatomy) for name, info in anatomy.tensors.items()}


def _placed(info: TensorInfo, anatomy: Anatomy) -> TensorInfo:
    if info.layer is None or info.stage is None:
        return info
    kind = anatomy.blocks[info.stage]
    if info.layer < kind.lead:
        return dataclasses.replace(info, layer=None, template=info.name)
    place, turn = divmod(info.layer - kind.lead, kind.period)
    own = info.template.replace(".{}.", f".turn{turn}.{{}}.") if kind.period > 1 else info.template
    return dataclasses.replace(info, layer=place, template=own)


def places_in(tensors: Mapping[str, TensorInfo]) -> dict[str, dict[int, str]]:
    """Series -> place -> parameter, of tensors of `in_series`."""
    found: dict[str, dict[int, str]] = {}
    for name, info in tensors.items():
        if info.layer is not None:
            found.setdefault(info.template, {})[info.layer] = name
    return found


def length_of(anatomy: Anatomy, stage: int | None) -> int:
    """Places of the series of a stage, or of a model without stages. Half a pair of blocks that alternate has one too."""
    part = anatomy.of_stage(stage)
    return -(-max(0, part.num_layers - part.lead) // part.period)


def recorded(anatomy: Anatomy, own: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes that were asked for, for people and records: of a hierarchy, lists over all its stages."""
    if not anatomy.num_stages:
        return dict(own)
    asked = {name.partition(".")[0] for name in own}
    return {name: value for name, value in listed({**anatomy.sizes, **own}).items() if name in asked}


def smaller_sizes(anatomy: Anatomy) -> dict[str, Any]:
    """An example of a descendant's sizes, in the words of the config: three quarters of the depth."""
    if not anatomy.num_stages:
        return {"num_hidden_layers": max(1, round(0.75 * anatomy.num_layers))}
    depths = []
    for part in anatomy.parts:
        turns = max(1, round(0.75 * length_of(anatomy, part.stage)))
        depths.append(min(part.num_layers, part.lead + turns * part.period))
    return {anatomy.stage_fields["num_hidden_layers"].native: depths}


def depth_and_width(anatomy: Anatomy) -> str:
    """A model's size in words: `12 layers, width 768`, or `stages of 2, 2, 6, 2 blocks, widths 96, 192, 384, 768`."""
    if not anatomy.num_stages:
        return f"{anatomy.num_layers} layers, width {anatomy.sizes['hidden_size']}"
    depths, widths = (listed(anatomy.sizes)[n] for n in ("num_hidden_layers", "hidden_size"))
    return f"stages of {', '.join(map(str, depths))} blocks, widths {', '.join(map(str, widths))}"


__all__ = ["depth_and_width", "in_series", "length_of", "places_in", "recorded", "smaller_sizes"]
