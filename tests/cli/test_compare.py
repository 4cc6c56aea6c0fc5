"""`hf-learngene compare`, as a person would use it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils import logging

from hf_learngene.cli.compare import size_of, start_of
from hf_learngene.comparing import Comparison
from hf_learngene.comparing import run as jobs
from hf_learngene.errors import UnknownOptionError
from testing.comparing import small
from testing.families import tiny_model
from testing.saving import tokenizer
from testing.training import NO_DROPOUT


QUICK = ("--steps", 2, "--seeds", 1, "--batch-size", 4)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model of images and one of texts with what prepares their inputs; a folder of images and a csv of texts."""
    folder = tmp_path_factory.mktemp("world")
    names = ["ant", "bee", "cat", "dog", "elk"]
    vit = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    vit.config.id2label, vit.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    vit.save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder / "vit")
    tiny_model("bert", "BertForSequenceClassification", NO_DROPOUT, dtype=torch.float32).save_pretrained(
        folder / "bert"
    )
    tokenizer().save_pretrained(folder / "bert")
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in names:
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (14, 14, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    with (folder / "texts.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([("text", "label"), *[("good film", 1), ("bad plot and poor film", 0)] * 10])
    return folder


@pytest.fixture
def run(run):
    return lambda *arguments: run("compare", *arguments)


def test_images_from_a_folder(run, world, monkeypatch):
    command = (
        world / "vit", "out", "--data", world / "train", "--eval-data", world / "test", "--sizes", "params=0.5",
        "--sizes", "num_hidden_layers=2", "--method", "random", "--method", "layers layer_map=0,2",
        "--learning-rate", "layers layer_map=0,2=1e-4", "--learning-rate", 1e-3, *QUICK,
    )  # fmt: skip
    first = run(*command)
    assert first.exit_code == 0, first.output
    assert "ViTForImageClassification vit, " in first.stdout
    assert "layers layer_map=0,2 cannot make params=0.5" in first.stdout
    assert "Saved to out: comparison.json, comparison.md, comparison.png." in first.stdout
    found = Comparison.load("out")
    assert (found.sizes, found.methods) == (["params=0.5", "num_hidden_layers=2"], ["random", "layers layer_map=0,2"])
    assert found.settings["methods"]["layers layer_map=0,2"] == {"method": "layers", "layer_map": [0, 2]}
    assert found.settings["learning_rate"] == {"random": 1e-3, "layers layer_map=0,2": 1e-4}
    assert all(v * 10 == pytest.approx(round(v * 10)) for row in found.rows for v in row.mean)  # of ten test images
    assert str(world) not in Path("out/comparison.json").read_text()

    monkeypatch.setattr(jobs, "resize", lambda *args, **kwargs: pytest.fail("a job was done twice"))
    again = run(*command)
    assert again.exit_code == 0, again.output
    assert again.stdout == first.stdout
    other = run(*command, "--eval-limit", 4)
    assert other.exit_code == 2
    assert "with other settings (eval_dataset: " in " ".join(other.stderr.split())
    with pytest.raises(pytest.fail.Exception, match="a job was done twice"):
        run(*command, "--overwrite")


def test_texts_of_which_a_part_is_held_out(run, world, monkeypatch):
    seen = {}
    compare = jobs.compare

    def recorded(model, sizes, train, held, **kwargs):
        seen.update(train=train, held=held, **kwargs)
        return compare(model, sizes, train, held, **kwargs)

    monkeypatch.setattr("hf_learngene.comparing.compare", recorded)
    result = run(
        world / "bert", "out", "--data", world / "texts.csv", "--eval-share", 0.3, "--sizes",
        "hidden_size=16,num_attention_heads=2", "--method", "calibrated", "--calibration-size", 9, *QUICK,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (len(seen["train"]), len(seen["held"])) == (14, 6)
    assert (list(seen["seeds"]), seen["calibration_size"]) == ([0], 9)
    settings = json.loads(Path("out/comparison.json").read_text())["settings"]
    assert settings["sizes"] == {
        "hidden_size=16, num_attention_heads=2": {"hidden_size": 16, "num_attention_heads": 2}
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", "hidden_size"), "--sizes takes NAME=VALUE"),
        (("--sizes", "params=0.5,params=0.2"), "'params' was given twice"),
        (("--sizes", "revision=main"), "'revision' is not a size"),
        (("--sizes", "hidden_size=16", "--method", "randm"), "Did you mean 'random'"),
        (("--sizes", "hidden_size=16", "--method", "front x=1"), "has no option 'x'"),
        (("--sizes", "hidden_size=16", "--learning-rate", "quick"), "--learning-rate takes a number"),
        (("--sizes", "hidden_size=16", "--learning-rate", "randm=1"), "Did you mean 'random'"),
        (("--sizes", "hiden_size=16"), "Did you mean 'hidden_size'"),
        (("--sizes", "hidden_size=16", "--eval-data", "{train}"), "--eval-data is also the training data"),
        (("--sizes", "hidden_size=16", "--eval-data", "none.csv"), "none.csv does not exist"),
        (("--sizes", "hidden_size=16", "--eval-data", "{texts}"), "No column holds images"),
    ],
)
def test_mistakes_are_said_in_a_line(run, world, tmp_path, arguments, message):
    places = {"train": world / "train", "texts": world / "texts.csv"}
    result = run(
        world / "vit", "out", "--data", world / "train", *(str(a).format(**places) for a in arguments), *QUICK
    )
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused_before_anything_is_read(run, tmp_path):
    (tmp_path / "notes").write_text("mine")
    result = run("no-model", tmp_path / "notes", "--data", "no-data", "--sizes", "hidden_size=16", *QUICK)
    assert result.exit_code == 2
    assert "is a file. Name a folder." in " ".join(result.output.split())


def test_help_fits_a_screen_and_gives_an_example(run):
    text = run("--help").output
    assert len(text.splitlines()) <= 50
    assert "hf-learngene compare my-vit out --data images/" in text


def test_sizes_and_methods_in_words():
    assert size_of("hidden_size=192, image-size=224x160") == {"hidden_size": 192, "image_size": (224, 160)}
    assert size_of("params=20M,num_labels=3") == {"params": "20M", "num_labels": 3}
    assert start_of("auto") == "auto"
    assert start_of("layers layer_map=3").layer_map == [3]
    with pytest.raises(UnknownOptionError, match="does not exist"):
        start_of(" ")


def test_progress_is_shown_where_bars_are_on(tmp_path, capsys):
    small(tmp_path / "off")
    assert capsys.readouterr() == ("", "")
    logging.enable_progress_bar()
    try:
        small(tmp_path / "on")
    finally:
        logging.disable_progress_bar()
    out, err = capsys.readouterr()
    assert out == ""
    assert all(text in err for text in ("hidden_size=16, random, seed 0", "1/1", "step 2 of 2, accuracy 0."))
