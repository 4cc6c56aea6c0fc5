"""Widths that several fields count together: what of them grows, what shrinks, and what the refusals say."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import plan, resize, verify
from hf_learngene.anatomy import anatomy_of
from hf_learngene.errors import InvalidSizeError, LossyGrowthError
from testing.families import inputs_for, tiny_model
from testing.numerics import EXACT


AXES = {
    ("convbert", "ConvBertModel", "encoder.layer.0.attention.self.query.weight"): ("hidden_size",),
    ("lilt", "LiltModel", "encoder.layer.0.layout_output.dense.weight"): ("hidden_size", "channel_shrink_ratio"),
    ("xmod", "XmodModel", "encoder.layer.0.output.adapter_modules.en_XX.dense1.weight"): (
        "hidden_size",
        "adapter_reduction_factor",
    ),
    ("roc_bert", "RoCBertModel", "embeddings.map_inputs_layer.weight"): (
        "hidden_size",
        "pronunciation_embed_dim",
        "shape_embed_dim",
    ),
}


@pytest.mark.parametrize(("case", "fields"), AXES.items(), ids=lambda c: c[0] if isinstance(c, tuple) else None)
def test_the_fields_of_an_axis_are_known(case, fields):
    kind, name, tensor = case
    model = tiny_model(kind, name)
    dims = anatomy_of(model.config, type(model)).tensors[tensor].dims
    assert fields in [d.counted_together for d in dims]


def test_two_axes_of_the_same_field_are_not_taken_for_one():
    model = tiny_model("lilt", "LiltModel")
    anatomy = anatomy_of(model.config, type(model))
    stream = anatomy.tensors["layout_embeddings.LayerNorm.weight"].dims[0]
    corner = anatomy.tensors["layout_embeddings.x_position_embeddings.weight"].dims[1]
    assert (stream.size, corner.size) == (6, 4)
    assert stream.axis != corner.axis


@pytest.mark.parametrize(
    ("kind", "name", "asked"),
    [
        ("convbert", "ConvBertModel", {"num_hidden_layers": 5, "intermediate_size": 64}),
        ("lilt", "LiltModel", {"num_hidden_layers": 7, "intermediate_size": 80}),
        ("mobilebert", "MobileBertForMaskedLM", {"num_hidden_layers": 5, "intermediate_size": 64}),
        ("layoutlmv3", "LayoutLMv3Model", {"num_hidden_layers": 5, "intermediate_size": 64}),
        ("xmod", "XmodForMaskedLM", {"hidden_size": 48}),
    ],
)
def test_what_is_exact_grows(kind, name, asked):
    source = tiny_model(kind, name)
    assert verify(source, resize(source, method="lemon", **asked), inputs_for(source)).relative <= EXACT


@pytest.mark.parametrize("kind", ["convbert", "lilt", "mobilebert"])
def test_a_width_that_is_not_exact_is_refuted(kind):
    name = {"convbert": "ConvBertModel", "lilt": "LiltModel", "mobilebert": "MobileBertForMaskedLM"}[kind]
    with pytest.raises(LossyGrowthError, match="cannot be grown without loss"):
        plan(tiny_model(kind, name), method="lemon", hidden_size=48)


@pytest.mark.parametrize(
    ("kind", "name", "asked"),
    [
        ("convbert", "ConvBertModel", {"hidden_size": 16}),
        ("roc_bert", "RoCBertModel", {"hidden_size": 16}),
        # at 16 nothing is left beside the embeddings in its head
        ("mobilebert", "MobileBertForMaskedLM", {"hidden_size": 18, "num_attention_heads": 3}),
    ],
)
def test_a_width_does_not_shrink_where_it_is_not_known_what_stands_where(kind, name, asked):
    with pytest.raises(InvalidSizeError, match="in a way of their own: what stands where is not known"):
        plan(tiny_model(kind, name), method="weight_selection", **asked)


def test_heads_in_a_width_of_their_own_stay():
    with pytest.raises(InvalidSizeError, match="true_hidden_size.*in a way of their own"):
        plan(
            tiny_model("mobilebert", "MobileBertModel"),
            method="weight_selection",
            true_hidden_size=6,
            intra_bottleneck_size=6,
        )


def test_a_private_width_shrinks():
    small = resize(tiny_model("xmod", "XmodModel").float(), method="weight_selection", hidden_size=16)
    assert small.encoder.layer[0].output.adapter_modules["en_XX"].dense1.weight.shape == (8, 16)
    small = resize(tiny_model("lilt", "LiltModel").float(), method="weight_selection", intermediate_size=20)
    assert small.encoder.layer[0].layout_intermediate.dense.weight.shape == (5, 6)


@pytest.mark.parametrize("size", [16, 48])
def test_tables_that_add_up_to_the_width_are_shown(size):
    model = tiny_model("layoutlmv3", "LayoutLMv3Model")
    with pytest.raises(InvalidSizeError, match=r"add up to it.*coordinate_size=4.*shape_size=4.*Keep hidden_size=24"):
        plan(model, hidden_size=size)


@pytest.mark.parametrize(("kind", "name"), [("convbert", "ConvBertModel"), ("lilt", "LiltModel")])
def test_auto_selects_weights_where_pruning_cannot_look_inside(kind, name):
    model = tiny_model(kind, name).float()
    small = resize(model, num_hidden_layers=2)
    assert small.config.learngene["passes"][0]["method"] == "weight_selection"
    assert all(torch.isfinite(t).all() for t in small(**inputs_for(small)).values() if isinstance(t, torch.Tensor))
    with pytest.raises(InvalidSizeError, match="calibrated looks at what goes on inside the layers"):
        plan(model, method="calibrated", num_hidden_layers=2)


def test_the_proof_says_which_size_is_exact_alone():
    model = tiny_model("xmod", "XmodForMaskedLM")
    wanted = (
        "Exact alone: hidden_size=48, num_attention_heads=6; intermediate_size=64. Not exact: num_hidden_layers=5."
    )
    with pytest.raises(LossyGrowthError, match=wanted):
        plan(model, method="lemon", hidden_size=48, intermediate_size=64, num_hidden_layers=5)
    with pytest.raises(LossyGrowthError) as refused:
        plan(model, method="lemon", num_hidden_layers=5)
    assert "Exact alone" not in str(refused.value)
