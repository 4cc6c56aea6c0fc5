"""Given examples count several times as much as those that were made up to follow them, in every sum."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_learngene.anatomy import anatomy_of
from hf_learngene.calibration import examples as module
from hf_learngene.calibration.examples import GIVEN_COUNTS, Examples
from hf_learngene.calibration.held_back import held_back
from hf_learngene.calibration.weights import times_of
from hf_learngene.learngenes.refit import StageRefit
from hf_learngene.pruning.gains import Lines
from hf_learngene.resizing.execute import execute
from hf_learngene.resizing.plan import make_plan
from hf_learngene.resizing.spec import ResizeSpec
from testing.examples import examples_for
from testing.families import tiny_model
from testing.hierarchies import images_for, native, structured, tiny_hierarchy


def of(model, given, made_up, counts, monkeypatch):
    monkeypatch.setattr(module, "GIVEN_COUNTS", counts)
    examples = Examples(given, model, more=made_up)
    assert examples.num_batches
    return examples


def test_batches_say_how_often_they_count(monkeypatch):
    model = tiny_model("bert", "BertModel")
    given, made_up = examples_for(model, 40), examples_for(model, 50, seed=1)
    examples = Examples(given, model, more=made_up)
    times = [GIVEN_COUNTS] * len(list(Examples(given, model).batches()))
    assert [times_of(b) for b in examples.batches()] == times + [1] * (examples.num_batches - len(times))
    for alone in (Examples(given, model), Examples(given, model, more=[]), Examples(None, model, more=made_up)):
        assert {times_of(b) for b in alone.batches()} == {1}
    for part in (p for p in held_back(examples) if p is not None):
        assert {times_of(b) for b in part.batches()} == {GIVEN_COUNTS, 1}
        assert [times_of(b) for b in part.part([0]).batches()] == [GIVEN_COUNTS]


def test_lines_of_tokens_that_count_twice_are_those_of_tokens_given_twice():
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(2, 30, 4, generator=generator, dtype=torch.float64)
    twice, both = Lines(), Lines()
    for lines, times in ((twice, 2), (both, 1)):
        lines.add(z, y, times)
        lines.add(z[:7], y[7:14])
    both.add(z, y)
    assert (twice.count, both.count) == (37, 67)
    ones, zeros = torch.ones(4), torch.zeros(4)
    for shift in (zeros, None):
        found, wanted = (lines.solve(ones, shift, 1e-3) for lines in (copy.copy(twice), copy.copy(both)))
        torch.testing.assert_close(found.gain, wanted.gain)
        assert (found.before, found.after) == pytest.approx((wanted.before, wanted.after))


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("vit", {"intermediate_size": 20}),
        ("vit", {"hidden_size": 12, "num_attention_heads": 2}),
        ("vit", {"num_attention_heads": 2, "head_dim": 4}),
        ("bert", {"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 20}),
        ("swin", {"mlp_ratio": 1}),
        ("convnextv2", {"hidden_sizes": [8, 12, 16, 24]}),
    ],
)
def test_a_shrink_takes_given_examples_as_if_there_were_more_of_each(kind, sizes, monkeypatch):
    if kind in ("vit", "bert"):
        model = tiny_model(kind, "ViTForImageClassification" if kind == "vit" else "BertForSequenceClassification")
        given, made_up = examples_for(model, 30), examples_for(model, 40, seed=1)
    else:
        model = structured(tiny_hierarchy(kind, "", torch.float32)).double()
        given, made_up = images_for(model, 30), images_for(model, 40, seed=1)
        sizes = {native(model, name) if name == "num_hidden_layers" else name: v for name, v in sizes.items()}
    plan = make_plan(model.config, type(model), ResizeSpec.parse(sizes, method="calibrated", calibration=given))
    many = of(model, given * 3, made_up, 1, monkeypatch)
    wanted = execute(plan, model, examples=many).state_dict()
    few = of(model, given, made_up, 3, monkeypatch)
    found = execute(plan, model, examples=few).state_dict()
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-6, msg=name)
    once = execute(plan, model, examples=of(model, given, made_up, 1, monkeypatch)).state_dict()
    assert any(not torch.allclose(value, once[name], rtol=1e-3, atol=1e-4) for name, value in found.items())


def test_what_layers_share_is_fitted_so_too(monkeypatch):
    model = tiny_model("vit", "ViTForImageClassification")
    given, made_up = examples_for(model, 30), examples_for(model, 40, seed=1)
    held = Examples(examples_for(model, 16, seed=2), model)
    states = []
    for rows, counts in ((given * 3, 1), (given, 3), (given, 1)):
        examples = of(model, rows, made_up, counts, monkeypatch)
        refit = StageRefit(model, anatomy_of(model.config, type(model)), [0, 0, 1], examples, held)
        refit.run()
        states.append(refit.model.state_dict())
    wanted, found, once = states
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-6, msg=name)
    assert any(not torch.allclose(value, once[name], rtol=1e-3, atol=1e-4) for name, value in found.items())
