"""The sizes of a task: one for each axis, or an error that says where they part."""

from __future__ import annotations

import dataclasses

import pytest

from hf_learngene.anatomy import anatomy_like, anatomy_of
from hf_learngene.errors import InvalidSizeError
from hf_learngene.maps import LayerMap
from hf_learngene.maps.task import ResizeTask, WidthChange
from testing.families import model_class, tiny_config


def task(**sizes):
    cls = model_class("ViTModel")
    source = anatomy_of(tiny_config("vit", "pixel_values"), cls)
    config = tiny_config("vit", "pixel_values", **sizes)
    config.pooler_output_size = config.hidden_size
    return ResizeTask(source, anatomy_like(source, config, cls), LayerMap.pick([0]))


def test_changes_have_names():
    made = task(hidden_size=48, num_attention_heads=6)
    change = made.width_changes(made.target.tensors["layers.0.attention.q_proj.weight"])[1]
    assert change == WidthChange(dim=1, axis="hidden", side="in", old=24, new=48)
    assert made.heads[0].number == 3
    assert made.heads[1].size == 8
    assert made.groups[1].queries == 1
    assert made.width_changes(made.target.tensors["layers.0.mlp.fc1.bias"]) == []


def test_an_axis_with_two_sizes_is_refused():
    made = task(hidden_size=48, num_attention_heads=6)
    tensors = dict(made.target.tensors)
    pooler = tensors["pooler.dense.weight"]
    tensors[pooler.name] = dataclasses.replace(
        pooler, dims=tuple(dataclasses.replace(d, size=24) for d in pooler.dims)
    )
    with pytest.raises(
        InvalidSizeError, match="hidden would go from 24 to 24 in `pooler.dense.weight`.* 24 to 48 elsewhere"
    ):
        dataclasses.replace(made, target=dataclasses.replace(made.target, tensors=tensors)).axis_sizes  # noqa: B018
