"""Learngenes that are fitted on examples: in function space, where their layers share parameters."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_learngene import AutoLearngene, resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.calibration.examples import Examples
from hf_learngene.calibration.held_back import held_back
from hf_learngene.errors import CalibrationError, InvalidSizeError, UnknownOptionError
from hf_learngene.learngenes.card import learngene_card
from hf_learngene.learngenes.fine.model import is_matrix
from hf_learngene.learngenes.refit import ScalerRefit, StageRefit
from hf_learngene.learngenes.weighted_fit import shared_matrix
from hf_learngene.pruning.moments import Moments
from testing.examples import examples_for
from testing.families import inputs_for, tiny_model
from testing.learngenes import OPTIONS, kinds_that


KINDS = kinds_that(refits=True)
FAMILIES = [("vit", "ViTForImageClassification"), ("bert", "BertForMaskedLM"), ("modernbert", "ModernBertForMaskedLM")]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_family = pytest.mark.parametrize(("family", "name"), FAMILIES)
ROOM = {"fine": {"num_groups": 2, "rank": None}, "wave": {"template_share": 0.7}}  # for two whole layers of three


def on(model, count=32):
    return {"calibration": examples_for(model, count), "calibration_top_up": False}


def options_of(kind):
    return {**OPTIONS[kind], **ROOM.get(kind, {})}


def output_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_a_shared_matrix_does_best_what_its_layers_want():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 50, n, generator=generator, dtype=torch.float64) for n in (4, 3))
    sums = [Moments(), Moments()]
    for moments, inputs, wanted in zip(sums, x, y, strict=True):
        moments.add(inputs, wanted)
    zeros = torch.zeros(3, 5, dtype=torch.float64)
    weight, bias = shared_matrix(sums, zeros[:, :4], zeros[:, 4], ridge=1e-9)
    whole = torch.cat([x.reshape(100, 4), torch.ones(100, 1)], 1)
    wanted = torch.linalg.lstsq(whole, y.reshape(100, 3)).solution.T
    torch.testing.assert_close(torch.cat([weight, bias[:, None]], 1), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "sws"])
@every_family
def test_scalers_are_those_of_least_squares(kind, family, name):
    """No small change of a layer's scalers brings its matrix nearer to what is wanted of it."""
    learngene = AutoLearngene.from_ancestry(tiny_model(family, name), kind, **options_of(kind))
    generator = torch.Generator().manual_seed(0)
    for template, info in learngene.components.items():
        if not is_matrix(info):
            continue
        part = learngene.scaler(template, "scalers" if kind == "wave" else "sigma")
        x, y = (torch.randn(90, n, generator=generator, dtype=torch.float64) for n in reversed(info.shape))
        before = part.detach().clone()
        with torch.no_grad():
            learngene.fit_scalers(template, info, 1, x.T @ x / 90, x.T @ y / 90)
        assert torch.equal(part[[0, 2]], before[[0, 2]])
        made = learngene.materialise(template, info, learngene.target())[1]
        (x @ made.T - y).pow(2).mean().backward()
        assert part.grad[1].abs().max() < 1e-4
        part.grad = None


@every_family
def test_layers_that_can_be_one_are_found(family, name):
    """A model whose layers are the same in each stage, given back from one that has lost its matrices."""
    wanted = AutoLearngene.from_ancestry(tiny_model(family, name), "sws", num_stages=2).initialize()
    anatomy = anatomy_of(wanted.config, type(wanted))
    with Examples(examples_for(wanted, 64), wanted) as examples:
        staged = StageRefit(wanted, anatomy, [0, 0, 1], examples, examples, ridge=1e-9)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tensor in anatomy.tensors.values():
                if tensor.layer is not None and tensor.kind == "linear":
                    parameter = staged.model.get_parameter(tensor.name)
                    noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                    parameter.add_(0.02 * noise * parameter.std())
        before = staged.error(2)
        staged.run()
        after = staged.error(2)
    assert after < 1e-3 * before


@every_kind
@every_family
def test_it_comes_nearer_to_its_ancestry(kind, family, name):
    source = tiny_model(family, name)
    plain = AutoLearngene.from_ancestry(source, kind, **options_of(kind))
    fitted = AutoLearngene.from_ancestry(source, kind, **options_of(kind), **on(source, 64))
    assert plain.config.calibration is None
    assert fitted.config.calibration["examples"] == "given"
    assert fitted.config.calibration["count"] == 64
    with Examples(examples_for(source, 64), source) as examples:
        mine, held = held_back(examples)
        far, near = (ScalerRefit(one, source, mine, held).error(2) for one in (plain, fitted))
    assert near == pytest.approx(fitted.config.calibration["distance"])
    assert near < far
    assert fitted.stored_share == plain.stored_share
    assert [p.requires_grad for p in fitted.parameters()] == [p.requires_grad for p in plain.parameters()]


@every_kind
def test_what_is_right_already_stays(kind):
    source = tiny_model(*FAMILIES[0])
    whole = {"rank": None, "num_vectors": 60}  # enough for every layer
    room = {
        "sws": {"num_stages": 3},
        "fine": {"num_groups": 3, **whole},
        "wave": {"template_share": 1.0, "num_vectors": 60},
    }
    learngene = AutoLearngene.from_ancestry(source, kind, **{**OPTIONS[kind], **room[kind]}, **on(source))
    inputs = inputs_for(source)
    torch.testing.assert_close(
        output_of(learngene.initialize(), inputs), output_of(source, inputs), rtol=1e-3, atol=1e-3
    )


@every_kind
def test_saved_it_tells_what_it_was_fitted_on(kind, tmp_path):
    source = tiny_model(*FAMILIES[0])
    learngene = AutoLearngene.from_ancestry(source, kind, **options_of(kind), **on(source))
    learngene.save_pretrained(tmp_path)
    again = AutoLearngene.from_pretrained(tmp_path)
    assert again.config.calibration == learngene.config.calibration
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), learngene.parameters(), strict=True))
    assert '"examples": "given"' in learngene_card(again)


def test_made_up_examples_do_too():
    source = tiny_model(*FAMILIES[0])
    learngene = AutoLearngene.from_ancestry(source, "sws", num_stages=2, calibration="synthetic", calibration_size=8)
    assert learngene.config.calibration["examples"] == "synthetic"


@every_kind
def test_it_is_the_same_again_and_leaves_random_state_alone(kind):
    source = tiny_model(*FAMILIES[0])
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, two = (AutoLearngene.from_ancestry(source, kind, **options_of(kind), **on(source)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# ---- descendants


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_on_examples_a_size_is_made_of_the_auxiliary_model(kind):
    source = tiny_model(*FAMILIES[0])
    learngene = AutoLearngene.from_ancestry(source, kind, **OPTIONS[kind])
    auxiliary = learngene.initialize()
    looks = on(source, 64)
    wanted = resize(auxiliary, num_hidden_layers=2, **looks)
    made = learngene.initialize(num_hidden_layers=2, **looks)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), wanted.parameters(), strict=True))
    inputs = inputs_for(source)
    for sizes in ({}, {"num_hidden_layers": 5}):
        torch.testing.assert_close(
            output_of(learngene.initialize(**sizes, **looks), inputs),
            output_of(auxiliary, inputs),
            rtol=1e-9,
            atol=1e-9,
        )


def test_widths_that_a_kind_has_no_rule_for_are_made_on_examples():
    source = tiny_model(*FAMILIES[0])
    learngene = AutoLearngene.from_ancestry(source, "tleg")
    sizes = {"hidden_size": source.config.hidden_size // source.config.num_attention_heads}
    with pytest.raises(InvalidSizeError, match="makes models of every depth"):
        learngene.initialize(**sizes)
    assert learngene.initialize(**sizes, **on(source, 64)).config.hidden_size == sizes["hidden_size"]


# ---- scalers of another size


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "sws"])
def test_scalers_of_another_size_are_fitted_without_training(kind):
    source = tiny_model(*FAMILIES[0])
    learngene = AutoLearngene.from_ancestry(source, kind, **options_of(kind))
    examples = examples_for(source, 64)
    adapted = learngene.adapt(examples, num_hidden_layers=2, steps=0)
    start = learngene.for_size(num_hidden_layers=2)
    for name, parameter in adapted.shared.named_parameters():
        assert torch.equal(parameter, start.shared.get_parameter(name))
    wanted = learngene.initialize(num_hidden_layers=2, calibration=examples)
    with Examples(examples, wanted) as seen:
        far, near = (ScalerRefit(one, wanted, *held_back(seen)).error(1) for one in (start, adapted))
    assert near < far if kind == "wave" else near <= far
    assert not adapted.training


def test_a_frozen_head_stays():
    source = tiny_model(*FAMILIES[0])
    learngene = AutoLearngene.from_ancestry(source, "wave", **options_of("wave"))
    adapted = learngene.adapt(examples_for(source, 48), num_hidden_layers=2, steps=0)
    for name, parameter in adapted.outside.named_parameters():
        assert torch.equal(parameter, learngene.outside.get_parameter(name))


def test_where_examples_are_of_no_help_nothing_changes(monkeypatch):
    source = tiny_model(*FAMILIES[0])
    plain = AutoLearngene.from_ancestry(source, "wave", **options_of("wave"))

    def worse(self):
        with torch.no_grad():
            for parameter in (self.learngene.scalers if isinstance(self, ScalerRefit) else self.model).parameters():
                parameter.mul_(9)

    monkeypatch.setattr(ScalerRefit, "run", worse)
    monkeypatch.setattr(StageRefit, "run", worse)
    fitted = AutoLearngene.from_ancestry(source, "wave", **options_of("wave"), **on(source))
    assert fitted.config.calibration is None
    assert all(torch.equal(a, b) for a, b in zip(fitted.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "sws"])
def test_training_can_begin_where_the_fit_ends(kind):
    """Parts that hold next to nothing are not taken a million times: a small step is a small step."""
    source = tiny_model("vit", "ViTForImageClassification", {"num_hidden_layers": 8}, torch.float32)
    fitted = AutoLearngene.from_ancestry(
        source, kind, **({"num_groups": 4} if kind == "fine" else {}), **on(source, 96)
    )
    assert fitted.config.calibration is not None
    assert max(p.abs().max() for p in fitted.scalers.parameters()) < 1e3
    inputs = inputs_for(source)
    before = output_of(fitted.initialize(), inputs)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in fitted.shared.parameters():
            parameter.add_(1e-4 * torch.randn(parameter.shape, generator=generator).sign())
    assert (output_of(fitted.initialize(), inputs) - before).norm() < 0.5 * before.norm()


def test_examples_that_can_be_read_once_do():
    source = tiny_model(*FAMILIES[0])
    looks = {"calibration_top_up": False, "calibration_size": 40}
    streamed, listed = (
        AutoLearngene.from_ancestry(source, "sws", num_stages=2, num_hidden_layers=3, calibration=given, **looks)
        for given in (iter(examples_for(source, 64)), examples_for(source, 64)[:40])
    )
    assert all(torch.equal(a, b) for a, b in zip(streamed.parameters(), listed.parameters(), strict=True))


def test_scalers_of_another_width_are_fitted_too():
    source = tiny_model(*FAMILIES[0])
    learngene = AutoLearngene.from_ancestry(source, "wave", **OPTIONS["wave"])
    adapted = learngene.adapt(examples_for(source, 64), hidden_size=16, steps=0)
    assert adapted.initialize().config.hidden_size == 16


def test_what_was_fitted_is_not_told_of_another_size():
    source = tiny_model(*FAMILIES[0])
    learngene = AutoLearngene.from_ancestry(source, "wave", **options_of("wave"), **on(source, 64))
    assert learngene.config.calibration is not None
    assert learngene.for_size(num_hidden_layers=2).config.calibration is None


# ---- what is refused


def test_bad_input_is_refused():
    source = tiny_model(*FAMILIES[0])
    with pytest.raises(
        UnknownOptionError, match=r"`tleg` looks at no examples, so calibration= would do nothing; condensed, "
    ):
        AutoLearngene.from_ancestry(source, "tleg", **on(source))
    with pytest.raises(UnknownOptionError, match="give calibration= too"):
        AutoLearngene.from_ancestry(source, "sws", num_stages=2, calibration_size=8)
    with pytest.raises(CalibrationError, match="pixel_values"):
        AutoLearngene.from_ancestry(source, "sws", num_stages=2, calibration=[{"input_ids": [1, 2]}])
    with pytest.raises(CalibrationError, match="cannot tell"):
        AutoLearngene.from_ancestry(source, "sws", num_stages=2, **on(source, 1))
    learngene = AutoLearngene.from_ancestry(source, "sws", num_stages=2)
    with pytest.raises(UnknownOptionError, match="give calibration= too"):
        learngene.initialize(calibration_size=8)
    with pytest.raises(InvalidSizeError, match="stages says how layers are repeated"):
        learngene.initialize(stages=[0, 1], calibration="synthetic")
    wave = AutoLearngene.from_ancestry(source, "wave", **OPTIONS["wave"])
    for given, name in (({"learning_rate": 1e-3}, "learning_rate"), ({"teacher": copy.deepcopy(source)}, "teacher")):
        with pytest.raises(UnknownOptionError, match=f"{name}= would do nothing"):
            wave.adapt(examples_for(source), num_hidden_layers=2, steps=0, **given)
    with pytest.raises(InvalidSizeError, match="has no scalers"):
        learngene.adapt(examples_for(source), num_hidden_layers=2, steps=0)
