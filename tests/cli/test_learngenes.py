"""`build`, `init`, and `resize` on examples, as a person would use them."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from transformers import AutoImageProcessor, AutoModelForImageClassification, AutoTokenizer, BertForMaskedLM
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_learngene import AutoLearngene
from hf_learngene.errors import TrainingDataError, UnknownOptionError
from hf_learngene.training.data import read_data, training_data
from testing.families import tiny_model
from testing.saving import tokenizer
from testing.training import NO_DROPOUT


NAMES = ["ant", "bee", "cat", "dog", "elk"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two teachers with what prepares their inputs, and data for both."""
    folder = tmp_path_factory.mktemp("world")
    vit = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    vit.config.id2label, vit.config.label2id = dict(enumerate(NAMES)), {n: i for i, n in enumerate(NAMES)}
    vit.save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder / "vit")
    tiny_model("bert", "BertForMaskedLM", NO_DROPOUT, dtype=torch.float32).save_pretrained(folder / "bert")
    tokenizer().save_pretrained(folder / "bert")
    rng = np.random.default_rng(0)
    images = [PILImage.fromarray(rng.integers(0, 255, (14, 14, 3), dtype=np.uint8)) for _ in range(16)]
    # numbered otherwise than the teacher numbers them: names decide
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES[::-1])})
    Dataset.from_dict({"image": images, "label": [i % 5 for i in range(16)]}, features=features).to_parquet(
        folder / "images.parquet"
    )
    rows = [{"text": "good film", "label": 1}, {"text": "bad plot and poor film", "label": 0}] * 8
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_from_a_teacher_to_a_model_of_another_depth(run, world, tmp_path):
    built = run(
        "build", world / "vit", "vit-wave", "--data", world / "images.parquet", "--option", "template_size=8",
        "--steps", 3, "--batch-size", 8, "--sandwich-weight", 0.5,
        "--eval-data", world / "images.parquet", "--eval-layers", "2,5",
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    assert "residual" in built.output
    assert "Saved to vit-wave" in built.output
    assert not (tmp_path / ".vit-wave.training").exists()
    learngene = AutoLearngene.from_pretrained("vit-wave")
    assert learngene.config.fitted
    fitted = AutoLearngene.from_ancestry(str(world / "vit"), "wave", template_size=8)
    assert any(not torch.equal(a, b) for a, b in zip(learngene.parameters(), fitted.parameters(), strict=True))
    card = (tmp_path / "vit-wave" / "README.md").read_text()
    assert all(f"| num_hidden_layers={n} | images.parquet (local), test | accuracy | 0." in card for n in (2, 5))
    assert "2 layers, as initialised: accuracy 0." in built.output
    made = run("init", "vit-wave", "vit-5", "--num-hidden-layers", 5, "--size", "num_labels=2")
    assert made.exit_code == 0, made.output
    assert "3 → 5 layers" in made.output
    model = AutoModelForImageClassification.from_pretrained("vit-5")
    assert (model.config.num_hidden_layers, model.config.num_labels) == (5, 2)
    assert model.config.learngene["source"] == "vit-wave"
    assert AutoImageProcessor.from_pretrained("vit-5", backend="pil").size["height"] == 12
    assert '"method": "wave"' in (tmp_path / "vit-5" / "README.md").read_text()


def test_text_with_masks_and_without_steps(run, world):
    assert run("build", world / "bert", "bert-sws", "--learngene-type", "sws", "--steps", 0).exit_code == 0
    built = run("build", world / "bert", "bert-tleg", "--learngene-type", "tleg", "--data", world / "texts.jsonl",
                "--steps", 2, "--batch-size", 4)  # fmt: skip
    assert built.exit_code == 0, built.output
    assert run("init", "bert-tleg", "bert-2", "--num-hidden-layers", 2).exit_code == 0
    assert BertForMaskedLM.from_pretrained("bert-2").config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained("bert-2").is_fast


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "{vit}", "out"), "--steps needs --data"),
        (("build", "{vit}", "out", "--data", "none.parquet"), "none.parquet does not exist"),
        (("build", "{vit}", "out", "--data", "{texts}"), "No column holds images"),
        (("build", "{vit}", "out", "--steps", 0, "--learngene-type", "wafe"), "Did you mean 'wave'"),
        (("build", "{vit}", "out", "--steps", 0, "--option", "num_stages"), "NAME=VALUE"),
        (("build", "{vit}", "out", "--steps", 0, "--eval-layers", "3"), "--eval-data says on what"),
        (("build", "{vit}", "out", "--steps", 0, "--eval-data", "{texts}", "--eval-layers", "3,x"), "such as 3,6,9"),
        (("build", "{vit}", "out", "--steps", 0, "--eval-data", "{texts}"), "No column holds images"),
        (("build", "{vit}", "{vit}", "--steps", 0), "exists already"),
        (("init", "{vit}", "out"), "not a learngene"),
    ],
)
def test_mistakes_are_said_in_a_line(run, world, tmp_path, arguments, message):
    places = {"vit": world / "vit", "texts": world / "texts.jsonl"}
    result = run(*(str(a).format(**places) for a in arguments))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_answers_have_two_labels_and_no_accuracy(run, world, tmp_path, monkeypatch):
    model = tiny_model("bert", "BertForQuestionAnswering", NO_DROPOUT, dtype=torch.float32)
    learngene = AutoLearngene.from_ancestry(model, "tleg")
    data = [{"input_ids": [5, 6, 7], "start_positions": 1, "end_positions": 2}] * 4
    given = {"dataset": "answers", "use_cpu": True}
    with monkeypatch.context() as patched:
        patched.setattr(type(learngene), "initialize", lambda *args, **kwargs: pytest.fail("a descendant was made"))
        for names in ({}, {"label_names": ["end_positions"]}):
            with pytest.raises(TrainingDataError, match="BertForQuestionAnswering .*end_positions: .*compute_metrics"):
                learngene.validate(data, [{}], **given, **names)
    with torch.no_grad():
        start = int(learngene.initialize()(torch.tensor([[5, 6, 7]])).start_logits.argmax())
    (found,) = learngene.validate(data, [{}], **given, label_names=["start_positions"])
    assert found["metrics"] == {"accuracy": float(start == 1)}
    (found,) = learngene.validate(data, [{}], **given, compute_metrics=lambda p: {"labels": len(p.label_ids)})
    assert found["metrics"] == {"labels": 2.0}

    model.save_pretrained(tmp_path / "qa")
    tokenizer().save_pretrained(tmp_path / "qa")
    result = run("build", "qa", "out", "--data", world / "texts.jsonl", "--eval-data", world / "texts.jsonl")
    assert result.exit_code == 2
    assert "measured by start_positions and end_positions" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_how_to_load_is_no_size(world, tmp_path):
    loaded = AutoLearngene.from_ancestry(
        str(world / "vit"),
        "tleg",
        num_hidden_layers=2,
        dtype="float64",
        revision="main",
        token=None,
        cache_dir=tmp_path,
    )
    assert (loaded.dtype, loaded.anatomy.num_layers) == (torch.float64, 2)
    model = AutoModelForImageClassification.from_pretrained(world / "vit")
    with pytest.raises(UnknownOptionError, match="'revision' says how a checkpoint is loaded, and this ViTFor"):
        AutoLearngene.from_ancestry(model, "tleg", token=None, revision="main")


@pytest.mark.parametrize(("source", "data"), [("vit", "images.parquet"), ("bert", "texts.jsonl")])
def test_a_condensed_learngene_is_built_and_makes_a_smaller_model_on_examples(run, world, source, data):
    seen = ("--calibration", world / data)
    built = run("build", world / source, "genes", "--learngene-type", "condensed", "--steps", 0,
                "--option", "stored_share=0.9", *seen)  # fmt: skip
    assert built.exit_code == 0, built.output
    assert json.loads((pathlib.Path("genes") / "config.json").read_text())["stored_share"] == 0.9
    for name, given in ("own", ()), ("seen", seen):  # the tokenizer or image processor lies beside the learngene
        made = run("init", "genes", name, "--num-hidden-layers", 2, *given)
        assert made.exit_code == 0, made.output
        record = json.loads((pathlib.Path(name) / "config.json").read_text())["learngene"]
        assert record["calibration"]["examples"] == ("given and synthetic" if given else "synthetic")


def test_a_kind_that_looks_at_no_examples_is_given_none(run, world):
    build = ("build", world / "vit", "out", "--learngene-type", "tleg", "--steps", 0)
    result = run(*build, "--calibration", world / "images.parquet")
    assert result.exit_code == 2
    assert "looks at no examples" in " ".join(result.output.split())
    assert not pathlib.Path("out").exists()
    assert run(*build).exit_code == 0  # what it makes may look at some
    assert (
        run("init", "out", "small", "--num-hidden-layers", 1, "--calibration", world / "images.parquet").exit_code == 0
    )
    assert json.loads(pathlib.Path("small/config.json").read_text())["learngene"]["calibration"]["count"]


def test_layers_that_share_weights_are_fitted_on_examples(run, world):
    options = ("--learngene-type", "sws", "--option", "num_stages=2", "--steps", 0)
    assert run("build", world / "vit", "out", *options, "--calibration", world / "images.parquet").exit_code == 0
    record = json.loads(pathlib.Path("out/config.json").read_text())["calibration"]
    assert record["examples"] == "given and synthetic"
    assert record["distance"] < 1
    none = ("build", world / "vit", "plain", "--learngene-type", "condensed", "--steps", 0, "--calibration", "none")
    assert run(*none, "--option", "stored_share=1").exit_code == 0


def test_a_size_out_of_reach_leaves_nothing(run, world, tmp_path):
    assert run("build", world / "vit", "vit-tleg", "--learngene-type", "tleg", "--steps", 0).exit_code == 0
    result = run("init", "vit-tleg", "wide", "--hidden-size", 48)
    assert result.exit_code == 2
    assert "every depth at hidden_size=24" in " ".join(result.output.split())
    assert not (tmp_path / "wide").exists()


@pytest.mark.parametrize("command", ["build", "init"])
def test_help_fits_a_screen_and_gives_an_example(run, command):
    text = run(command, "--help").output
    assert len(text.splitlines()) <= 50
    assert f"hf-learngene {command} " in text


def test_labels_are_matched_by_name(world):
    model = AutoModelForImageClassification.from_pretrained(world / "vit")
    processor = ViTImageProcessorPil.from_pretrained(world / "vit")
    data = training_data(read_data(world / "images.parquet"), model, processor)
    assert data.dataset[0]["labels"] == NAMES.index("elk")
    assert data.dataset[0]["pixel_values"].shape == (3, 12, 12)
    other = Dataset.from_dict(
        {"image": ["x"], "label": ["fox"]}, features=Features({"image": Value("string"), "label": Value("string")})
    )
    with pytest.raises(TrainingDataError, match="'fox', which is no label of the model: it has 5"):
        training_data(other, model, processor, input_column="image")
    with pytest.raises(TrainingDataError, match="no column 'picture'"):
        training_data(other, model, processor, input_column="picture")


@pytest.mark.parametrize(
    ("source", "data", "sizes"),
    [("vit", "images.parquet", ("--hidden-size", 16)), ("bert", "texts.jsonl", ("--size", "intermediate_size=20"))],
)
def test_a_model_is_shrunk_on_examples(run, world, source, data, sizes):
    made = run("resize", world / source, "small", *sizes, "--calibration", world / data)
    assert made.exit_code == 0, made.output
    assert "method calibrated" in made.output
    record = json.loads((pathlib.Path("small") / "config.json").read_text())["learngene"]
    assert record["passes"][0]["method"] == "calibrated"
    assert "error before" in made.output  # a line for each step of the refit
    few = run("resize", world / source, "other", *sizes, "--calibration", world / data, "--calibration-size", 1)
    assert few.exit_code == 0
    assert json.loads((pathlib.Path("other") / "config.json").read_text())["learngene"]["calibration"]["examples"] == (
        "given and synthetic"
    )
    alone = ("--calibration", world / data, "--calibration-size", 1, "--no-calibration-top-up")
    few = run("resize", world / source, "third", *sizes, *alone)
    assert few.exit_code != 0
    assert "tokens" in few.output


def test_a_run_that_was_cut_goes_on_with_its_own_settings_alone(run, world, monkeypatch):
    from hf_learngene.cli import learngenes

    command = ["build", world / "vit", "out", "--learngene-type", "tleg", "--data", world / "images.parquet",
               "--steps", 2, "--batch-size", 8]  # fmt: skip
    whole = learngenes._train

    def cut(*given):
        whole(*given)
        raise OSError("cut")

    monkeypatch.setattr(learngenes, "_train", cut)
    assert run(*command).exit_code != 0
    monkeypatch.setattr(learngenes, "_train", whole)
    other = run(*command, "--learning-rate", 0.5)
    assert other.exit_code != 0
    assert "learning_rate: 0.0005 then, 0.5 now" in " ".join(other.output.split())
    again = run(*command)
    assert again.exit_code == 0
    assert "Resuming at step 2 of 2." in again.output
    assert not list(pathlib.Path().glob(".out*"))
    monkeypatch.setattr(learngenes, "_train", cut)
    assert run(*command, "--overwrite").exit_code != 0
    monkeypatch.setattr(learngenes, "_train", whole)
    assert run(*command, "--learning-rate", 0.5, "--overwrite").exit_code == 0


def test_a_budget_is_spent_by_what_examples_say(run, world):
    made = run(
        "resize", world / "vit", "small", "--params", "0.6", "--size", "hidden_size=24",
        "--calibration", world / "images.parquet",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "error per million saved" in made.output
    assert "chosen" in made.output
    record = json.loads((pathlib.Path("small") / "config.json").read_text())
    assert record["hidden_size"] == 24
    assert record["learngene"]["passes"][0]["method"] == "calibrated"


@pytest.mark.parametrize(("source", "data"), [("vit", "images.parquet"), ("bert", "texts.jsonl")])
def test_taylor_finds_the_labels_of_a_data_set(run, world, source, data):
    made = run(
        "resize", world / source, "small", "--method", "taylor", "--size", "intermediate_size=16",
        "--calibration", world / data,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert json.loads((pathlib.Path("small") / "config.json").read_text())["intermediate_size"] == 16


def test_a_method_that_looks_at_nothing_refuses_examples(run, world):
    refused = run(
        "resize", world / "vit", "small", "--method", "front", "--hidden-size", 16, "--calibration", "x.parquet"
    )
    assert refused.exit_code != 0
    assert "looks at no examples" in refused.stderr
