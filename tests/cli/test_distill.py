"""`distill`, as a person would use it: behind `resize`, with a folder of pictures, with sentences, and without data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_learngene.training import distilling
from testing.families import tiny_model
from testing.saving import tokenizer
from testing.training import NO_DROPOUT


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tiny_model("vit", "ViTForImageClassification", dtype=torch.float32).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder / "vit")
    tiny_model("bert", "BertForMaskedLM", NO_DROPOUT, dtype=torch.float32).save_pretrained(folder / "bert")
    tokenizer().save_pretrained(folder / "bert")
    rng = np.random.default_rng(0)
    for label in ("ant", "cat"):  # no labels of the model: they are not looked at
        (folder / "images" / label).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 255, (14, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / label / f"{number}.png")
    (folder / "films.txt").write_text("what a good film\na plot that is bad\n" * 12)
    return folder


def test_from_a_shrunk_checkpoint_to_a_distilled_one(run, world, tmp_path):
    made = run("resize", world / "vit", "small", "--num-hidden-layers", 2, "--calibration", "none")
    assert made.exit_code == 0, made.output
    done = run(
        "distill", "small", world / "vit", "nearer", "--data", world / "images", "--steps", 12, "--learning-rate", 1e-4
    )
    assert done.exit_code == 0, done.output
    assert "Saved to nearer" in done.output
    config = AutoConfig.from_pretrained("nearer")
    told = config.learngene["distillation"]
    assert (told["examples"], told["count"], config.num_hidden_layers) == ("given", 21, 2)
    assert AutoImageProcessor.from_pretrained("nearer", backend="pil").size == {"height": 12, "width": 12}
    assert "distilled from its source" in (tmp_path / "nearer" / "README.md").read_text()
    assert told["teacher"] == "vit"
    assert str(world) not in json.dumps(config.to_dict())  # nothing tells of the machine
    first, second = (AutoModelForImageClassification.from_pretrained(n) for n in ("small", "nearer"))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    again = run("distill", "small", world / "vit", "nearer", "--data", world / "images")
    assert again.exit_code == 2
    assert "exists" in again.output


def test_a_masked_language_model_on_lines_of_a_file(run, world):
    assert run("resize", world / "bert", "small", "--num-hidden-layers", 2, "--calibration", "none").exit_code == 0
    done = run("distill", "small", world / "bert", "nearer", "--data", world / "films.txt", "--steps", 4)
    assert done.exit_code == 0, done.output
    assert AutoConfig.from_pretrained("nearer").learngene["distillation"]["loss"] == "soft"


def test_without_data(run, world, monkeypatch):
    monkeypatch.setattr(distilling, "MADE_UP", 32)
    assert run("resize", world / "vit", "small", "--num-hidden-layers", 2, "--calibration", "none").exit_code == 0
    done = run("distill", "small", world / "vit", "nearer", "--steps", 2)
    assert done.exit_code == 0, done.output
    assert AutoConfig.from_pretrained("nearer").learngene["distillation"]["examples"] == "synthetic"


def test_what_is_not_there_is_said_before_anything_is_read(run, world):
    wrong = run("distill", world / "vit", world / "vit", "nearer", "--data", "nowhere/")
    assert wrong.exit_code == 2
    assert "nowhere" in wrong.output
