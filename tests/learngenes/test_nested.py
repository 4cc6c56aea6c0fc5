"""Nested order: a sorted core computes the same, and its smaller sizes are its first parts."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json

import pytest
import torch

from hf_learngene import AutoLearngene, resize, verify
from hf_learngene.errors import UnknownOptionError, UnsupportedFamilyError
from hf_learngene.learngenes import CondensedConfig
from hf_learngene.learngenes.condensed.nested import nested_pass
from hf_learngene.pruning.rotations import nested_map, turned_map
from hf_learngene.resizing.weights import Transfer
from testing.families import case_id, inputs_for, listed, tiny_model


DIRECTIONS, ENTRIES = "directions", "entries"
STREAMS = [
    ("vit", "ViTForImageClassification", DIRECTIONS),
    ("dinov2", "Dinov2ForImageClassification", DIRECTIONS),
    ("dinov2", "Dinov2Model", None),  # its output is the residual stream itself
    ("beit", "BeitForImageClassification", ENTRIES),  # keys have no bias that could take up a norm's shift
    ("bert", "BertForMaskedLM", ENTRIES),
    ("bert", "BertForSequenceClassification", ENTRIES),
    ("electra", "ElectraForMaskedLM", ENTRIES),
    ("modernbert", "ModernBertForMaskedLM", ENTRIES),
]
vit_and_bert = pytest.mark.parametrize(("family", "name"), [(f, n) for f, n, _ in (STREAMS[0], STREAMS[4])])


def looked_at(model, count=64):
    generator = torch.Generator().manual_seed(3)
    if model.main_input_name == "pixel_values":
        size = model.config.image_size
        return [{"pixel_values": torch.randn(3, size, size, generator=generator)} for _ in range(count)]
    return [{"input_ids": torch.randint(5, model.config.vocab_size, (9,), generator=generator)} for _ in range(count)]


def condensed(model, **options):
    examples = {"calibration": looked_at(model), "calibration_top_up": False}
    return AutoLearngene.from_ancestry(model, "condensed", **{"stored_share": 1, **examples, **options})


@functools.cache
def whole(family, name):
    return condensed(tiny_model(family, name).double())


def output_of(model, inputs):
    with torch.no_grad():
        outputs = model(**inputs)
    return next(v for k, v in outputs.items() if isinstance(v, torch.Tensor) and k != "loss")


def assert_same(model, wanted, tolerance=1e-10):
    inputs = inputs_for(wanted)
    torch.testing.assert_close(output_of(model, inputs), output_of(wanted, inputs), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("family", "name", "stream"), STREAMS)
def test_a_sorted_core_computes_the_same(family, name, stream):
    learngene, source = whole(family, name), tiny_model(family, name).double()
    assert learngene.config.order["stream"] == stream
    assert sorted(learngene.config.order["layers"]) == list(range(source.config.num_hidden_layers))
    assert_same(learngene.initialize(), source)
    assert learngene.stored_share == pytest.approx(1.0)


def one_of_each_family():
    """The first class of each family whose layers do not share one set of weights."""
    first = {}
    for kind, extra, name in listed():
        if kind != "albert":
            first.setdefault(kind, (kind, extra, name))
    return list(first.values())


@pytest.mark.slow
@pytest.mark.every_family
@pytest.mark.parametrize("case", one_of_each_family(), ids=case_id)
def test_sorting_loses_nothing_in_any_family(case):
    kind, extra, name = case
    source = tiny_model(kind, name, extra).double()
    batch = inputs_for(source, batch=64)
    examples = [{key: values[i] for key, values in batch.items()} for i in range(64)]
    options = {"stored_share": 1, "calibration": examples, "calibration_top_up": False}
    if kind == "wavlm":  # nothing shows what a whole attention in one function computes inside
        with pytest.raises(UnsupportedFamilyError, match="in one function.*nested=False leaves the core unsorted"):
            AutoLearngene.from_ancestry(source, "condensed", **options)
        options["nested"] = False
    if kind in ("convbert", "lilt"):
        with pytest.raises(
            UnsupportedFamilyError, match=r"in a way of their own\..*nested=False leaves the core unsorted"
        ):
            AutoLearngene.from_ancestry(source, "condensed", **options)
        options["nested"] = False
    learngene = AutoLearngene.from_ancestry(source, "condensed", **options)
    assert verify(source, learngene.initialize(), dtype=torch.float64).relative < 1e-10
    assert learngene.weights(learngene.config_at({"num_hidden_layers": 2}))


@vit_and_bert
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"intermediate_size": 40}, {"intermediate_size": 16}),
        ({"hidden_size": 24}, {"hidden_size": 16}),
        ({"num_hidden_layers": 2}, {"num_hidden_layers": 2, "intermediate_size": 24, "hidden_size": 16}),
    ],
)
def test_what_is_smaller_is_the_first_part_of_what_is_larger(family, name, first, then):
    """The slice of a slice is the slice."""
    learngene = whole(family, name)
    between = learngene.initialize(calibration=None, **first)
    straight = learngene.initialize(calibration=None, **then)
    depth = between.config.num_hidden_layers
    order = {"layers": list(range(depth)), "stream": learngene.config.order["stream"]}
    step = next(p for p in learngene._passes(learngene.target(straight.config)) if p.method.name == "nested")
    again = nested_pass(dataclasses.replace(step, source_config=between.config, config=straight.config), order)
    for key, tensor in Transfer(between, again).weights().items():
        torch.testing.assert_close(tensor, straight.get_parameter(key).detach(), rtol=0, atol=1e-10, msg=key)


def modules(model, *ends):
    found = [m for n, m in model.named_modules() if n.endswith(ends) and hasattr(m, "weight")]
    assert found
    return found


@vit_and_bert
def test_units_that_nothing_reads_leave_first(family, name):
    source = copy.deepcopy(tiny_model(family, name).double())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for out in (
            modules(source, "mlp.fc2")
            if family == "vit"
            else modules(source, "layer.0.output.dense", "layer.1.output.dense", "layer.2.output.dense")
        ):
            dead = torch.randperm(out.in_features, generator=generator)[: out.in_features // 2]
            out.weight[:, dead] = 0
    made = condensed(source).initialize(calibration=None, intermediate_size=source.config.intermediate_size // 2)
    assert_same(made, source)


def test_dimensions_of_heads_that_say_nothing_leave_first():
    source = copy.deepcopy(tiny_model("vit", "ViTForImageClassification").double())
    heads = source.config.num_attention_heads
    size = source.config.hidden_size // heads
    dead = (torch.arange(heads)[:, None] * size + torch.arange(1, size, 2)).flatten()
    with torch.no_grad():
        for matrix in modules(source, "q_proj", "k_proj", "v_proj"):
            matrix.weight[dead] = 0
            matrix.bias[dead] = 0
        for matrix in modules(source, "o_proj"):
            matrix.weight[:, dead] = 0
    made = condensed(source).initialize(calibration=None, num_attention_heads=heads, head_dim=size // 2)
    assert_same(made, source)


def test_layers_that_do_nothing_leave_first():
    source = copy.deepcopy(tiny_model("vit", "ViTForImageClassification").double())
    with torch.no_grad():
        for end in ("layers.1.attention.o_proj", "layers.1.mlp.fc2"):
            for module in modules(source, end):
                module.weight.zero_()
                module.bias.zero_()
    learngene = condensed(source)
    assert learngene.config.order["layers"][-1] == 1
    assert_same(learngene.initialize(calibration=None, num_hidden_layers=2), source)


def test_grown_and_sliced_back_it_is_the_source():
    source = tiny_model("vit", "ViTForImageClassification").double()
    grown = resize(source, hidden_size=2 * source.config.hidden_size, method="lemon")
    made = condensed(grown).initialize(
        calibration=None,
        hidden_size=source.config.hidden_size,  # without a refit, copies of heads and units are of no use alone
        num_attention_heads=grown.config.num_attention_heads,
        head_dim=grown.config.hidden_size // grown.config.num_attention_heads,
        intermediate_size=grown.config.intermediate_size,
    )
    assert_same(made, source, 1e-6)


@pytest.mark.parametrize("centred", [True, False])
def test_maps_of_a_turned_stream_are_nested(centred):
    for old, between, new in (12, 8, 5), (9, 8, 2), (7, 7, 3):
        twice = nested_map(old, between, centred) @ nested_map(between, new, centred)
        torch.testing.assert_close(twice, nested_map(old, new, centred))
    x = torch.randn(50, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turn = turned_map(x.T @ x, centred)
    torch.testing.assert_close(turn.T @ turn, torch.eye(12, dtype=torch.float64))


def test_scales_and_shifts_of_norms_that_were_trained_go_into_what_reads_them():
    learngene = copy.deepcopy(whole("vit", "ViTForImageClassification"))
    folded = copy.deepcopy(learngene)
    generator = torch.Generator().manual_seed(5)
    names = {t.template: t for t in learngene.components.values()}
    with torch.no_grad():
        for template in (n for n in names if "layernorm_before.weight" in n or "layernorm_after.weight" in n):
            for layer in range(learngene.anatomy.num_layers):
                scale, shift = (learngene.part(template.replace("weight", w), str(layer)) for w in ("weight", "bias"))
                scale.copy_(torch.rand(len(scale), generator=generator) + 0.5)
                shift.copy_(torch.randn(len(shift), generator=generator))
                for reader, info in learngene.anatomy.templates.items():
                    if info.norm == template.removesuffix(".weight") and reader.endswith("weight"):
                        weight = folded.part(reader, str(layer))
                        folded.part(reader.replace("weight", "bias"), str(layer)).add_(weight @ shift)
                        weight.mul_(scale)
    sizes = {"hidden_size": 16}
    wanted, found = (one.weights(one.config_at(sizes)) for one in (folded, learngene))
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[key], msg=key)


@vit_and_bert
def test_slices_are_differentiable(family, name):
    learngene = copy.deepcopy(whole(family, name)).train()
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24}
    weights = learngene.weights(learngene.config_at(sizes))
    sum(w.pow(2).sum() for w in weights.values()).backward()
    kept = set(learngene.config.order["layers"][:2])
    for template in learngene.components:
        for layer in range(learngene.anatomy.num_layers):
            assert (learngene.part(template, str(layer)).grad is not None) == (layer in kept)


def test_it_is_saved_and_loaded_with_its_order_and_without_one_too(tmp_path):
    learngene = condensed(tiny_model("vit", "ViTForImageClassification"))
    learngene.save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2}
    again = AutoLearngene.from_pretrained(tmp_path)
    assert again.config.order == learngene.config.order
    wanted = learngene.weights(learngene.config_at(sizes))
    assert all(torch.equal(t, wanted[n]) for n, t in again.weights(again.config_at(sizes)).items())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["order"], config["nested"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    plain = AutoLearngene.from_pretrained(tmp_path)
    assert plain.config.order is None
    assert plain.weights(plain.config_at(sizes)).keys() == wanted.keys()


@pytest.mark.parametrize(
    "order",
    [{"layers": [0, 1]}, {"layers": [0, 0, 1], "stream": None}, [2, 1, 0], {"layers": [2, 1, 0], "stream": "x"}],
)
def test_what_is_no_order_is_refused(order):
    config = tiny_model("vit", "ViTForImageClassification").config
    with pytest.raises(UnknownOptionError, match="order names"):
        CondensedConfig(base_config=config, base_architecture="ViTForImageClassification", order=order)


def test_without_examples_there_is_no_order():
    source = tiny_model("vit", "ViTForImageClassification")
    assert AutoLearngene.from_ancestry(source, "condensed", stored_share=1, calibration=None).config.order is None
    assert condensed(source, nested=False).config.order is None
