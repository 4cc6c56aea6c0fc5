"""How long a calibrated shrink takes is said before it, where it is long."""

from __future__ import annotations

import pytest
from transformers.utils import logging

from hf_learngene import resize
from hf_learngene.calibration.examples import Examples
from hf_learngene.pruning import estimate
from hf_learngene.resizing import calibrating
from testing.examples import examples_for
from testing.families import tiny_model


@pytest.fixture
def vit():
    return tiny_model("vit", "ViTForImageClassification")


@pytest.mark.parametrize("count", [3, 8, 70])
@pytest.mark.parametrize("quick", [True, False])
def test_it_grows_with_the_examples(vit, count, quick, monkeypatch):
    passes = []

    def seconds(model, batch):
        passes.append(len(batch["pixel_values"]))
        return 0.02 if quick else 0.5

    monkeypatch.setattr(estimate, "_seconds", seconds)
    with Examples(examples_for(vit, count), vit) as examples:
        found = estimate.seconds_needed(vit, examples)
    few, batch = min(count, estimate.TIMED), min(count, 32)
    assert passes == ([few, few, batch] if quick else [few, few])
    assert found == pytest.approx(estimate.PASSES * (0.02 * count / batch if quick else 0.5 * count / few))


@pytest.mark.parametrize(
    ("long", "method", "said"), [(0.0, "calibrated", True), (1e9, "calibrated", False), (0.0, "minitron", False)]
)
def test_only_a_long_refit_is_announced(vit, long, method, said, monkeypatch, caplog):
    monkeypatch.setattr(calibrating, "LONG", long)
    logging.enable_propagation()
    resize(vit, method=method, calibration=examples_for(vit, 96), intermediate_size=16)
    told = [r.getMessage() for r in caplog.records if "takes about" in r.getMessage()]
    assert len(told) == said
    assert not said or "Calibrating on 96 examples takes about" in told[0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(16, "20 seconds"), (74, "70 seconds"), (75, "2 minutes"), (100, "2 minutes"), (400, "7 minutes")],
)
def test_a_time_is_said_as_one_says_it(seconds, words):
    assert estimate.spoken(seconds) == words
