"""Examples that say next to nothing, and a refit that goes wrong: a model that works, or an error, never one that blows up."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    SiglipConfig,
    SiglipForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEModel,
)

from hf_learngene import errors, resize
from hf_learngene.calibration.examples import Examples
from hf_learngene.pruning import refit
from hf_learngene.pruning.moments import Moments
from hf_learngene.pruning.refit_check import acceptable
from hf_learngene.pruning.running import output_of


COUNT = 96
TINY = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 2}
IMAGES = {**TINY, "image_size": 12, "patch_size": 4}


def randomised(model, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval()


def vit(dtype=torch.float32):
    return randomised(ViTForImageClassification(ViTConfig(**IMAGES, num_labels=4)), dtype)


def siglip(dtype=torch.float32):
    return randomised(SiglipForImageClassification(SiglipConfig(vision_config=IMAGES, num_labels=4)), dtype)


def mae(dtype=torch.float32):
    return randomised(ViTMAEModel(ViTMAEConfig(**IMAGES)), dtype)


def bert(dtype=torch.float32):
    return randomised(
        BertForSequenceClassification(BertConfig(**TINY, vocab_size=61, max_position_embeddings=20, num_labels=4)),
        dtype,
    )


def mpnet(dtype=torch.float32):
    config = MPNetConfig(**TINY, vocab_size=61, max_position_embeddings=20, num_labels=4)
    return randomised(MPNetForSequenceClassification(config), dtype)


def examples(model, kind="ordinary", count=COUNT, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def one():
        if model.main_input_name == "input_ids":
            return {"input_ids": torch.randint(5, 60, (10,), generator=generator)}
        return {"pixel_values": torch.randn(3, 12, 12, generator=generator)}

    rows = [one() for _ in range(count)]
    if kind == "identical":
        return rows[:1] * count
    if kind == "two":
        return rows[:2] * (count // 2)
    if kind == "zero":
        return [{n: torch.zeros_like(v) for n, v in rows[0].items()}] * count
    if kind == "constant":
        return [{n: torch.full_like(v, i / count) for n, v in rows[0].items()} for i in range(count)]
    return rows


def outputs(model, given):
    return torch.cat([output_of(model, b) for b in Examples(given, model).batches()])


KINDS = ["identical", "zero", "two", "constant"]
SHRUNK = [
    (vit, {"hidden_size": 16}), (vit, {"intermediate_size": 20}), (vit, {"num_hidden_layers": 1}),
    (vit, {"num_attention_heads": 3, "head_dim": 4}), (siglip, {"hidden_size": 16}), (mae, {"params": 0.7}),
    (bert, {"hidden_size": 16}), (bert, {"num_hidden_layers": 1}),
]  # fmt: skip


# each size on two kinds, each kind on half of the sizes
@pytest.mark.parametrize(
    ("make", "sizes", "kind"), [(*case, KINDS[(i + j) % 4]) for i, case in enumerate(SHRUNK) for j in (0, 1)]
)
def test_what_the_examples_do_not_show_stays_in_bounds(make, sizes, kind):
    source = make()
    if kind == "constant" and source.main_input_name == "input_ids":
        kind = "zero"
    made = resize(source, calibration=examples(source, kind), method="auto", **sizes)
    unseen = examples(source, seed=7)
    found, wanted = outputs(made, unseen), outputs(source, unseen)
    assert float(found.pow(2).mean()) < 20 * float(wanted.pow(2).mean())
    seen = outputs(made, examples(source, kind)), outputs(source, examples(source, kind))
    if seen[0].shape == seen[1].shape:
        assert float((seen[0] - seen[1]).norm()) < 0.5 * float(seen[1].norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["identical", "zero"])
def test_in_half_precision_too(dtype, kind):
    source = vit(dtype)
    made = resize(source, calibration=examples(source, kind), hidden_size=16, num_hidden_layers=1)
    assert made.dtype == dtype
    unseen = examples(source, seed=7)
    assert float(outputs(made, unseen).pow(2).mean()) < 20 * float(outputs(source, unseen).pow(2).mean())


def test_one_example_makes_a_model_or_says_that_it_is_too_little():
    source = vit()
    made = resize(source, calibration=examples(source, count=1), num_hidden_layers=1)
    unseen = examples(source, seed=7)
    assert float(outputs(made, unseen).pow(2).mean()) < 20 * float(outputs(source, unseen).pow(2).mean())
    with pytest.raises(errors.CalibrationError, match="10 tokens .* at least 27"):
        resize(source, calibration=examples(source, count=1), calibration_top_up=False, hidden_size=16)


# ---- the check


def wild(ridge_that_helps):
    """`Moments.solve` as it is from some ridge on; below, off by more than the weights themselves."""
    solve = Moments.solve

    def solved(self, prior, with_bias, ridge):
        weight, bias = solve(self, prior, with_bias, ridge)
        return (weight if ridge >= ridge_that_helps else -20 * weight), bias

    return solved


# which layers of an MPNet and which directions of a ViT are kept does not depend on the ridge
@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (vit, {"hidden_size": 16, "num_attention_heads": 3, "head_dim": 8, "intermediate_size": 40}),
        (mpnet, {"num_hidden_layers": 1}),
    ],
    ids=["vit", "mpnet"],
)
def test_a_refit_that_goes_wrong_is_done_again_with_a_larger_ridge(make, sizes, monkeypatch):
    source = make()
    wanted = resize(source, calibration=examples(source), method="calibrated", ridge=0.1, **sizes)
    monkeypatch.setattr(Moments, "solve", wild(0.05))
    made = resize(source, calibration=examples(source), method="calibrated", ridge=1e-3, **sizes)
    for a, b in zip(made.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [vit, bert, mae])
def test_a_refit_that_no_ridge_helps_is_refused(make, monkeypatch):
    source = make()
    monkeypatch.setattr(Moments, "solve", wild(math.inf))
    with pytest.raises(errors.RefitError, match="further from its source than before.*minitron"):
        resize(source, calibration=examples(source), hidden_size=16)


@pytest.mark.parametrize("sizes", [{"hidden_size": 16}, {"intermediate_size": 20}, {"num_hidden_layers": 1}])
@pytest.mark.parametrize("make", [vit, bert, mae, siglip])
def test_ordinary_examples_are_fitted_once(make, sizes, monkeypatch):
    source, fits, fit = make(), [], refit.Refit._fit

    def counted(self, *given):
        fits.append(self)
        return fit(self, *given)

    monkeypatch.setattr(refit.Refit, "_fit", counted)
    resize(source, calibration=examples(source), method="calibrated", **sizes)
    assert len(fits) == 1


def test_what_is_acceptable():
    assert acceptable(0.5, 0.4)
    assert acceptable(0.0, 1e-9)  # at its own size nothing is lost, and rounding is no loss
    assert not acceptable(0.5, 0.6)
    assert not acceptable(math.inf, math.inf)
    assert acceptable(math.inf, 3.0)
