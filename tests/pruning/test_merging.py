"""Layers that run side by side: heads and units of several layers in one, and nothing lost where nothing is to lose."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_learngene import resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.types import Dim
from hf_learngene.maps.selection import beside
from hf_learngene.pruning.merging import merges_layers, side_by_side
from testing.examples import examples_for
from testing.families import inputs_for, tiny_model


def quiet(model, layer, role):
    """A layer whose attention (`o`) or ffn (`ffn_out`) writes nothing."""
    anatomy = anatomy_of(model.config, type(model))
    with torch.no_grad():
        for tensor in anatomy.tensors.values():
            if tensor.layer == layer and tensor.role == role and len(tensor.dims) == 2:
                model.get_submodule(tensor.module).weight.zero_()
                model.get_submodule(tensor.module).bias.zero_()
    return model


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("vit", "ViTForImageClassification"),
        ("dinov2", "Dinov2ForImageClassification"),
        ("bert", "BertForSequenceClassification"),
    ],
)
def test_an_attention_and_the_ffn_of_the_next_layer_are_one_layer(family, name):
    source = tiny_model(family, name, {"num_hidden_layers": 2})
    source = quiet(quiet(source, 0, "ffn_out"), 1, "o")
    anatomy = anatomy_of(source.config, type(source))
    for norm in [n for n in anatomy.norms if n.layer is not None][:-1] if anatomy.post_norm else ():
        torch.nn.init.ones_(source.get_submodule(norm.name).weight)  # norms that follow one another are one
        torch.nn.init.zeros_(source.get_submodule(norm.name).bias)
    made = resize(source, method="calibrated", calibration=examples_for(source), num_hidden_layers=1, ridge=1e-12)
    inputs = inputs_for(source)
    with torch.no_grad():
        wanted, found = source(**inputs).logits, made(**inputs).logits
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6


def test_the_source_is_not_changed_by_a_look_at_its_layers():
    source = tiny_model("dinov2", "Dinov2ForImageClassification")
    before = {n: p.detach().clone() for n, p in source.named_parameters()}
    resize(source, calibration=examples_for(source), num_hidden_layers=2)
    assert all(torch.equal(p, before[n]) for n, p in source.named_parameters())


@pytest.mark.parametrize(
    ("family", "name", "merges"),
    [
        ("vit", "ViTForImageClassification", True),
        ("dinov2", "Dinov2ForImageClassification", True),
        ("bert", "BertForSequenceClassification", True),
        ("electra", "ElectraForMaskedLM", True),
        ("mpnet", "MPNetModel", False),  # a table of relative positions for the heads of all layers
        ("beit", "BeitForImageClassification", False),  # tables of relative positions of each layer's own
        ("albert", "AlbertForSequenceClassification", False),  # one layer
        ("modernbert", "ModernBertForSequenceClassification", False),  # layers that see the near, and layers that see all
    ],
)  # fmt: skip
def test_which_layers_can_run_side_by_side(family, name, merges):
    model = tiny_model(family, name)
    assert merges_layers(anatomy_of(model.config, type(model))) == merges


def test_heads_of_fused_parts_lie_beside_their_like():
    a, b = torch.arange(12.0), torch.arange(12.0, 24.0)
    whole = beside([a, b], 0, Dim("heads", 12, parts=3))
    assert whole.unflatten(0, (3, 8))[1].tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    assert beside([a, b], 0, Dim("heads", 12, parts=3, by_head=True)).tolist() == list(range(24))


@settings(max_examples=30)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=9), st.data())
def test_every_layer_is_in_one_place(costs, data):
    depth = data.draw(st.integers(1, len(costs)))
    found = side_by_side(costs, depth)
    assert len(found) == depth
    assert [i for layers in found.values() for i in layers] == list(range(len(costs)))
    assert all(layers[0] == first for first, layers in found.items())


def test_layers_that_do_nothing_are_put_to_others():
    assert list(side_by_side([5, 4, 3, 0, 0, 0], 3)) == [0, 1, 2]
    assert list(side_by_side([1] * 12, 6)) == [0, 2, 4, 6, 8, 10]


@given(st.lists(st.floats(0, 1e3), min_size=3, max_size=9), st.integers(0, 2**16), st.data())
def test_rounding_does_not_choose(costs, seed, data):
    cheap = data.draw(st.integers(1, len(costs) - 2))
    costs[cheap] = 0.5 * min(costs)  # as good with either neighbour
    depth = data.draw(st.integers(1, len(costs)))
    noise = torch.randn(len(costs), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rounded = (torch.tensor(costs, dtype=torch.float64) * (1 + 1e-14 * noise)).tolist()
    assert side_by_side(costs, depth) == side_by_side(rounded, depth)
