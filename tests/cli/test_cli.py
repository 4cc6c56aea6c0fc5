"""The command line: what a person types, sees, and is told when it was wrong."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM, CLIPModel, PreTrainedModel, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils import logging

import hf_learngene
from hf_learngene.cli.arguments import keywords, method_with_options
from hf_learngene.errors import UnknownOptionError
from testing.families import tiny_model
from testing.saving import interrupt, tokenizer
from testing.towers import parted_model


COMMANDS = ("plan", "resize", "verify", "methods", "demo")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A ViT and a BERT, as somebody would have saved them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny_model("vit", "ViTForImageClassification", dtype=torch.float32).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder / "vit")
    tiny_model("bert", "BertForMaskedLM", dtype=torch.float32).save_pretrained(folder / "bert")
    tokenizer().save_pretrained(folder / "bert")
    return folder


@pytest.fixture
def no_weights(monkeypatch):
    """Fails on loading any."""

    def load(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", load)


def fails(result, *parts: str) -> None:
    """One line that says what was wrong, and nothing else."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    for part in parts:
        assert part in lines[0]


def test_plan_shows_the_table_and_needs_no_weights(run, checkpoints, tmp_path, no_weights):
    config = tmp_path / "only-config"
    config.mkdir()
    shutil.copy(checkpoints / "vit" / "config.json", config)
    result = run("plan", config, "--hidden-size", 16, "--num-hidden-layers", 2, "--size", "image_size=20")
    assert result.exit_code == 0, result.output
    assert "hidden_size 24 → 16, num_hidden_layers 3 → 2" in result.stdout
    assert "interpolated 3×3 → 5×5" in result.stdout
    assert "vit.layers.{0-1}.attention.q_proj.weight" in result.stdout


def test_a_plan_whose_budget_waits_for_examples_tells_no_sizes(run, checkpoints):
    result = run("plan", checkpoints / "vit", "--params", "0.5", "--calibration", "pictures")
    assert result.exit_code == 0
    assert re.search(r"method calibrated: [\d,]+ parameters → at most [\d,]+ parameters\n", result.stdout)
    assert "chosen when the model is made" in result.stdout
    assert "hidden_size" not in result.stdout


def test_sizes_of_the_ffn_and_heads_are_options_too(run, checkpoints):
    result = run("plan", checkpoints / "vit", "--intermediate-size", 16, "--num-attention-heads", 1)
    assert "num_attention_heads 3 → 1, intermediate_size 40 → 16" in result.stdout


def test_a_resize_without_a_size_is_refused(run, checkpoints, no_weights):
    fails(run("resize", checkpoints / "vit", "out"), "Nothing to do", "--params 0.5")
    assert not os.path.exists("out")


def test_an_option_that_no_method_has_names_the_nearest(run, checkpoints):
    fails(run("plan", checkpoints / "vit", "--hidden-size", 16, "--option", "ridg=1"), "Did you mean 'ridge'?")


def test_plan_for_a_budget(run, checkpoints):
    result = run("plan", checkpoints / "vit", "--params", "0.5")
    assert result.exit_code == 0
    share = re.search(r"\(([\d.]+)%\)", result.stdout)[1]
    assert 35 < float(share) < 65


def test_plan_with_options_of_a_method(run, checkpoints):
    result = run("plan", checkpoints / "bert", "--method", "layers", "--option", "layer_map=0,-1")
    assert "num_hidden_layers 3 → 2" in result.stdout
    assert run("plan", checkpoints / "bert", "--method", "layers", "--option", "layer_map=2").exit_code == 0


def test_plan_for_another_head(run, checkpoints):
    result = run("plan", checkpoints / "bert", "--task", "text-classification", "--hidden-size", 16)
    assert result.stdout.startswith("BertForSequenceClassification")
    assert run("plan", checkpoints / "bert", "--task", "base").stdout.startswith("BertModel")


def test_resize_saves_a_model_that_plain_transformers_loads(run, checkpoints, tmp_path):
    arguments = ("--hidden-size", 16, "--size", "image_size=20", "--num-labels", 7, "--seed", 3, "--dtype", "float16")
    result = run("resize", checkpoints / "vit", "small", *arguments)
    assert result.exit_code == 0, result.output
    assert "hidden_size 24 → 16" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Saved to small. Load it with ViTForImageClassification")
    names = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(os.listdir("small")) == names
    model = ViTForImageClassification.from_pretrained("small")
    assert (model.config.hidden_size, model.config.image_size, model.config.num_labels) == (16, 20, 7)
    assert model.dtype == torch.float16
    assert model.config.learngene["seed"] == 3
    assert json.loads((tmp_path / "small" / "preprocessor_config.json").read_text())["size"] == {
        "height": 20,
        "width": 20,
    }
    for file in (tmp_path / "small").iterdir():
        assert str(tmp_path.parent).encode() not in file.read_bytes()


def test_resize_equals_the_function(run, checkpoints):
    options = ("--method", "weight_selection", "--option", "element_selection=random", "--seed", 5)
    assert run("resize", checkpoints / "bert", "cli", "--hidden-size", 16, *options).exit_code == 0
    called = hf_learngene.resize(
        BertForMaskedLM.from_pretrained(checkpoints / "bert"),
        hidden_size=16, method="weight_selection", element_selection="random", seed=5,
    )  # fmt: skip
    for name, parameter in BertForMaskedLM.from_pretrained("cli").named_parameters():
        assert torch.equal(parameter, called.get_parameter(name)), name
    assert AutoTokenizer.from_pretrained("cli").model_max_length == 40


def test_resize_refuses_an_existing_folder_before_anything_else(run, tmp_path):
    (tmp_path / "out").mkdir()
    fails(run("resize", "nobody/nothing", "out", "--method", "nonsense"), "`out` exists already")


def test_resize_overwrites_when_told_to(run, checkpoints):
    assert run("resize", checkpoints / "bert", "out", "--hidden-size", 16).exit_code == 0
    fails(run("resize", checkpoints / "bert", "out"), "--overwrite")
    assert run("resize", checkpoints / "bert", "out", "--hidden-size", 8, "--overwrite").exit_code == 0
    assert BertForMaskedLM.from_pretrained("out").config.hidden_size == 8
    assert os.listdir() == ["out"]


def test_an_interrupted_resize_leaves_nothing(run, checkpoints, monkeypatch):
    interrupt(monkeypatch, BertForMaskedLM, KeyboardInterrupt())
    result = run("resize", checkpoints / "bert", "out", "--hidden-size", 16)
    assert result.exit_code == 130
    assert os.listdir() == []


def test_verify_tells_by_its_exit_status(run, checkpoints):
    source = checkpoints / "bert"
    assert run("resize", source, "grown", "--hidden-size", 48, "--num-hidden-layers", 5).exit_code == 0
    assert run("resize", source, "shrunk", "--hidden-size", 16).exit_code == 0
    for dtype in ((), ("--dtype", "float64")):
        result = run("verify", source, "grown", *dtype)
        assert result.exit_code == 0, result.output
        assert "the same function" in result.stdout
    result = run("verify", source, "shrunk")
    assert result.exit_code == 1, result.output
    assert "another function" in result.stdout


def test_verify_compares_the_encoders_of_different_heads(run, checkpoints):
    task = ("--task", "text-classification", "--num-hidden-layers", 5)
    assert run("resize", checkpoints / "bert", "classifier", *task).exit_code == 0
    result = run("verify", checkpoints / "bert", "classifier")
    assert result.exit_code == 0, result.output
    assert "last_hidden_state" in result.stdout
    assert "pooler" not in result.stdout


def test_verify_of_what_cannot_be_compared(run, checkpoints):
    fails(run("verify", checkpoints / "bert", checkpoints / "vit"), "input_ids", "pixel_values")
    assert run("resize", checkpoints / "vit", "larger", "--size", "image_size=20").exit_code == 0
    fails(run("verify", checkpoints / "vit", "larger"), "images of different sizes")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--hidden-size", 20), ("hidden_size=20", "16 and 24")),
        (("--size", "hiden_size=16"), ("no size field 'hiden_size'", "Did you mean 'hidden_size'?")),
        (("--size", "hidden_size"), ("--size takes NAME=VALUE",)),
        (("--size", "hidden_size=wide"), ("whole number", "'wide'")),
        (("--size", "hidden_size=16", "--hidden-size", 16), ("given twice",)),
        (("--size", "seed=1"), ("'seed' is not a size",)),
        (("--size", "trust_remote_code=true"), ("is not a size",)),
        (("--params", "many"), ("'20M'", "'many'")),
        (("--method", "lemmon"), ("Did you mean 'lemon'?",)),
        (("--option", "layer_map=0,1"), ("add --method layers",)),
        (("--option", "colour=red"), ("No method has it",)),
        (("--method", "layers", "--option", "layer_map=0,9"), ("layers 0 to 2",)),
        (("--method", "lemon", "--option", "deptth=1"), ("no option 'deptth'", "Did you mean 'depth'?")),
        (("--method", "lemon", "--hidden-size", 16), ("lemon",)),
        (("--task", "fillmask"), ("--task is one of", "Did you mean 'fill-mask'?")),
        (("--task", "image-classification"), ("`bert`",)),
    ],
)
def test_wrong_requests_are_told_in_one_line(run, checkpoints, no_weights, arguments, parts):
    fails(run("plan", checkpoints / "bert", *arguments), *parts)


def test_wrong_sources_are_told_in_one_line(run, checkpoints, tmp_path):
    (tmp_path / "empty").mkdir()
    fails(run("plan", "empty"), "`empty`", "config.json")
    shutil.copytree(checkpoints / "bert", "cut")
    weights = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    fails(run("resize", "cut", "out", "--hidden-size", 16), "truncated")
    fails(run("verify", checkpoints / "bert", "cut"), "truncated")
    fails(run("resize", checkpoints / "bert", "out", "--dtype", "int8"), "--dtype is one of")
    assert not (tmp_path / "out").exists()


def test_a_method_that_is_trained_names_the_python_call(run, checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = ("--method", "ligo", "--num-hidden-layers", 5)
    fails(
        run("resize", checkpoints / "bert", "out", *request), "resize(model, method='ligo', train_dataset=...", "lemon"
    )
    assert not (tmp_path / "out").exists()
    assert "learned on train_dataset=" in run("plan", checkpoints / "bert", *request).stdout


def test_errors_show_a_traceback_on_request(run, checkpoints, monkeypatch):
    monkeypatch.setenv("HF_LEARNGENE_DEBUG", "1")
    result = run("plan", checkpoints / "bert", "--method", "lemmon")
    assert isinstance(result.exception, UnknownOptionError)


@pytest.mark.parametrize("command", [(), *((c,) for c in COMMANDS)], ids=lambda c: c[0] if c else "all")
def test_help_fits_a_screen_and_gives_an_example(run, command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    examples = [line.strip() for line in lines if line.strip().startswith("hf-learngene ")]
    assert examples
    for line in examples if command else []:
        assert line.split()[1] == command[0]
    if not command:
        assert all(f"│ {name} " in result.stdout for name in COMMANDS)


def test_version(run):
    assert run("--version").stdout == f"hf_learngene {hf_learngene.__version__}\n"


def test_demo_hands_everything_on(run, monkeypatch):
    from hf_learngene.comparing import demo

    seen = {}

    def run_demo(image_model, text_model, output, steps, seeds, console):
        seen.update(image=image_model, text=text_model, output=str(output), steps=steps, seeds=seeds)

    monkeypatch.setattr(demo, "run_demo", run_demo)
    result = run("demo", "--image-model", "a", "--text-model", "b", "--output", "c", "--steps", 5, "--seeds", 1)
    assert result.exit_code == 0, result.output
    assert seen == {"image": "a", "text": "b", "output": "c", "steps": 5, "seeds": 1}
    assert run("demo", "--image-model", "a", "--text-model", "b", "--steps", 0).exit_code == 2


def test_a_missing_extra_is_a_user_error(run, monkeypatch):
    from hf_learngene.comparing import demo

    def run_demo(*args, **kwargs):
        raise ImportError("the demo is drawn with matplotlib: pip install 'hf_learngene[demo]'")

    monkeypatch.setattr(demo, "run_demo", run_demo)
    fails(run("demo", "--image-model", "a", "--text-model", "b"), "hf_learngene[demo]")


def test_a_command_leaves_the_logging_of_transformers_as_it_was(run, checkpoints):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    run("plan", checkpoints / "bert")
    run("plan", "nothing-here")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=6", 6), ("a=-1", -1), ("a=0.5", 0.5), ("a=true", True), ("a=False", False), ("a=flat", "flat"),
        ("a=0,2,4", [0, 2, 4]), ("a=3,", [3]), ("a=20x12", (20, 12)), ("a=b=c", "b=c"), ("a = 6", 6),
    ],
)  # fmt: skip
def test_values_are_read_as_what_they_look_like(text, value):
    assert keywords([text]) == {"a": value}


def test_sizes_may_be_spelled_with_dashes():
    assert keywords(["num-attention-heads=6"], hidden_size=None, token="t") == {"num_attention_heads": 6, "token": "t"}


def test_a_list_of_one_stays_a_list():
    assert method_with_options("layers", ["layer_map=1"]).layer_map == [1]
    assert method_with_options("auto", None) == "auto"


def test_sizes_of_two_towers_are_named_with_their_section(run, tmp_path):
    parted_model("CLIPModel", torch.float32).save_pretrained(tmp_path / "clip")
    sizes = ("--size", "vision_config.hidden_size=48", "--size", "text_config.num_hidden_layers=4")
    result = run("resize", tmp_path / "clip", "wide", *sizes)
    assert result.exit_code == 0, result.output
    assert "text_config.num_hidden_layers 3 → 4, vision_config.hidden_size 24 → 48" in result.stdout
    assert CLIPModel.from_pretrained("wide").config.vision_config.hidden_size == 48
    assert run("verify", tmp_path / "clip", "wide").exit_code == 0
    refused = run("plan", tmp_path / "clip", "--hidden-size", 48)
    assert refused.exit_code != 0
    assert "vision_config" in refused.output
