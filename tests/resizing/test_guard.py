"""The default of a shrink works or gives way: what `auto` makes is never further from its source than weight selection."""

from __future__ import annotations

import logging

import pytest
import torch

from hf_learngene import resize
from hf_learngene.errors import CalibrationError
from hf_learngene.hub.card_calibration import calibrated_on
from hf_learngene.methods import Calibrated
from hf_learngene.pruning.agreement import agreement, distance
from testing.families import inputs_for, randomise, tiny_model
from testing.towers import parted_model


FEW = {"calibration_size": 72}
SMALLER = {"depth": {"num_hidden_layers": 2}, "ffn": {"intermediate_size": 20}, "width": {"hidden_size": 16}}


def vit():
    return tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)


@pytest.fixture
def spoilt(monkeypatch):
    """A refit that leaves noise."""
    monkeypatch.setattr(
        Calibrated, "refine", lambda self, task, source, target, *_: [randomise(target, 7, 3.0), []][1]
    )


@pytest.mark.usefixtures("spoilt")
@pytest.mark.parametrize("given", [False, True])
def test_what_is_further_away_than_weight_selection_gives_way(given, caplog):
    model = vit()
    examples = {"calibration": [{"pixel_values": x} for x in torch.randn(72, 3, 12, 12)]} if given else FEW
    with caplog.at_level(logging.WARNING):
        made = resize(model, num_hidden_layers=2, **examples)
    assert "held-back examples, what 'calibrated' makes is further from the source" in caplog.text
    record = made.config.learngene
    assert [step["method"] for step in record["passes"]] == ["weight_selection"]
    assert record["fallback"]["from"] == "calibrated"
    assert "calibration" not in record
    assert "was tried first" in calibrated_on(record)
    expected = resize(model, method="weight_selection", layer_selection="uniform", num_hidden_layers=2)
    for (name, a), b in zip(made.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.usefixtures("spoilt")
def test_what_is_asked_for_by_name_is_made():
    made = resize(vit(), method="calibrated", num_hidden_layers=2, **FEW)
    assert [step["method"] for step in made.config.learngene["passes"]] == ["calibrated"]


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("siglip_vision_model", "SiglipVisionModel", "width"),  # a pooling head that attends with a probe
        ("bert", "BertForMaskedLM", "depth"),
        ("wavlm", "WavLMModel", "ffn"),
        ("reformer", "ReformerForMaskedLM", "width"),  # two residual streams side by side
        ("reformer", "ReformerForMaskedLM", "depth"),
        ("vitdet", "VitDetModel", "depth"),  # no norm behind its last layer
        ("visual_bert", "VisualBertModel", "width"),
    ],
)
def test_the_default_works_or_gives_way(kind, name, change):
    model = tiny_model(kind, name, dtype=torch.float32)
    made = resize(model, **SMALLER[change], **FEW)
    other = resize(model, method="weight_selection", layer_selection="uniform", **SMALLER[change])
    if "fallback" in made.config.learngene or made.config.learngene["passes"][0]["method"] == "weight_selection":
        return
    inputs = [inputs_for(model, seed, batch=16) for seed in range(2)]
    assert distance(model, made, inputs) < 1.2 * distance(model, other, inputs)


def test_a_model_that_cannot_take_made_up_examples_is_shrunk_without():
    model = parted_model("VisionEncoderDecoderModel", torch.float32)
    made = resize(model, encoder={"num_hidden_layers": 2}, **FEW)
    assert made.config.learngene["passes"][0]["method"] == "weight_selection"
    with pytest.raises(CalibrationError, match="cannot take calibration examples"):
        resize(model, method="calibrated", encoder={"num_hidden_layers": 2}, **FEW)


def test_a_model_is_at_no_distance_from_itself_and_a_noisy_one_is_not():
    model, noisy = vit(), vit()
    randomise(noisy, 3)
    inputs = [inputs_for(model, batch=8)]
    assert distance(model, model, inputs) == 0.0
    assert distance(model, noisy, inputs) > 0.1
    with torch.no_grad():
        noisy.classifier.weight.fill_(float("inf"))
    assert distance(model, noisy, inputs) == float("inf")


def test_two_towers_agree_by_the_one_that_was_resized():
    model, other = (parted_model("CLIPModel", torch.float32) for _ in range(2))
    randomise(other.text_model, 5)
    batch = inputs_for(model, batch=8)

    class One:
        def batches(self):
            yield batch

    assert agreement(model, other, One()).value < 0.9
