"""What calibration is made of: cached passes, closed-form fits, maps of heads and of the residual stream, examples in batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_learngene import resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.calibration.examples import Examples
from hf_learngene.methods import Calibrated
from hf_learngene.pruning.activations import Runner
from hf_learngene.pruning.moments import Moments
from hf_learngene.pruning.optimal_brain_surgeon import kept_units
from hf_learngene.pruning.rotations import head_maps, stream_map, value_map, without_ones
from hf_learngene.pruning.running import execution_order
from hf_learngene.resizing.table import fit_table
from testing.examples import examples_for
from testing.families import exact_deberta, tiny_model
from testing.numerics import assert_close_for


@pytest.fixture(scope="module", autouse=True)
def _exact():
    exact_deberta()


def bert():
    return tiny_model("bert", "BertModel")


def model_of(family, name, **extra):
    return tiny_model(family, name, extra or None)


def test_what_a_step_left_is_told_as_it_is(monkeypatch):
    source = model_of("vit", "ViTForImageClassification")
    examples, fits, refine = examples_for(source, 40), [], Calibrated.refine

    def kept(*given):
        fits.extend(refine(*given))
        return fits

    monkeypatch.setattr(Calibrated, "refine", kept)
    made = resize(source, calibration=examples, calibration_top_up=False, intermediate_size=20)
    inputs = []
    handle = made.classifier.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    wanted = torch.cat([source(**b).logits for b in Examples(examples, source).batches()]).detach()
    found = torch.cat([made(**b).logits for b in Examples(examples, made).batches()]).detach()
    handle.remove()
    # the recipe left the classifier as it was, and it is the last step: all else is as it was then
    unfitted = source.classifier(torch.cat(inputs)).detach()
    spread = (wanted - wanted.mean(0)).pow(2).sum()
    (step,) = (f for f in fits if f.name == "classifier")
    assert step.tokens == 40
    assert step.before == pytest.approx(float((unfitted - wanted).pow(2).sum() / spread), rel=1e-6)
    assert step.after == pytest.approx(float((found - wanted).pow(2).sum() / spread), rel=1e-6)
    assert step.after < step.before
    (line,) = (line for line in fit_table(fits).splitlines() if line.startswith("classifier"))
    assert line.split() == ["classifier", "40", f"{step.before:.3f}", f"{step.after:.3f}"]
    assert len(fit_table(fits).splitlines()) == len(fits) + 1


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("vit", "ViTForImageClassification"),
        ("bert", "BertForSequenceClassification"),
        ("albert", "AlbertForSequenceClassification"),
        ("deberta-v2", "DebertaV2ForTokenClassification"),
    ],
)
def test_finished_layers_stand_in_for_themselves(family, name):
    source = model_of(family, name)
    anatomy = anatomy_of(source.config, type(source))
    batches = list(Examples(examples_for(source), source).batches())
    names = [n.name for n in anatomy.norms if n.layer in (None, 2)]
    names = execution_order(source, batches[0], names)
    runner = Runner(source, anatomy)
    try:
        whole = [runner.capture(i, b, inputs=names[-1:]) for i, b in enumerate(batches)]
        runner.cache_prefix(1, batches)
        runner.cache_prefix(2, batches)
        short = [runner.capture(i, b, inputs=names[-1:]) for i, b in enumerate(batches)]
    finally:
        runner.close()
    for a, b in zip(whole, short, strict=True):
        assert_close_for(a.inputs[names[-1]][-1], b.inputs[names[-1]][-1])


@settings(max_examples=25)
@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 20), st.booleans())
def test_least_squares_finds_what_is_there(inputs, outputs, seed, with_bias):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, inputs, generator=generator, dtype=torch.float64) + 1
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64) if with_bias else torch.zeros(outputs)
    moments = Moments()
    for part in (x[:20], x[20:]):
        moments.add(part, part @ weight.T + bias)
    solved, level = moments.solve(torch.zeros_like(weight), with_bias, ridge=1e-13)
    torch.testing.assert_close(solved, weight, rtol=1e-6, atol=1e-6)
    assert (level is not None) == with_bias
    assert float(moments.error(solved, level)) <= 1e-8 * float(moments.spread() + 1)
    same, _ = moments.solve(weight, with_bias, ridge=10.0)
    torch.testing.assert_close(same, weight, rtol=1e-9, atol=1e-9)


def test_copies_of_a_unit_cost_nothing():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    x = torch.cat([x, x[:, :2]], 1)
    kept = kept_units(x.T @ x / 200, torch.randn(4, 8, generator=generator), 6).tolist()
    assert {2, 3, 4, 5} <= set(kept)
    assert len({i % 6 for i in kept}) == 6


@given(st.integers(2, 12), st.integers(2, 16))
def test_a_turned_stream_keeps_its_variance(old, new):
    basis = without_ones(old)
    torch.testing.assert_close(basis.T @ basis, torch.eye(old - 1, dtype=torch.float64))
    x = torch.randn(30, old, generator=torch.Generator().manual_seed(old), dtype=torch.float64)
    centred = x - x.mean(1, keepdim=True)
    turned = x @ stream_map(centred.T @ centred / 30, new, centred=True)
    assert float(turned.mean(1).abs().max()) < 1e-9
    if new >= old:
        torch.testing.assert_close(turned.var(1, correction=0), x.var(1, correction=0))


def test_heads_of_low_rank_lose_nothing():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    q, k = draw(100, 3) @ draw(3, 8), draw(100, 8)
    a, b = head_maps(q.T @ q / 100, k.T @ k / 100, 3)
    torch.testing.assert_close(q @ a @ (k @ b).T, q @ k.T, rtol=1e-6, atol=1e-6)
    v, reader = draw(100, 8), draw(5, 2) @ draw(2, 8)
    into, back = value_map(v.T @ v / 100, reader, 2)
    torch.testing.assert_close(v @ into @ back @ reader.T, v @ reader.T, rtol=1e-6, atol=1e-6)


def test_padding_made_here_is_masked():
    batch = next(
        Examples(
            [{"input_ids": [5, 6, 7]}, {"input_ids": [8]}],
            bert(),
        ).batches()
    )
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_some_of_the_batches():
    examples = Examples([{"input_ids": [i // 2]} for i in range(100)], bert())
    numbers = [int(b["input_ids"][0, 0]) for b in examples.part([0, 2]).batches()]
    assert numbers == [0, 48]
