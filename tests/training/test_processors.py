"""Tokenizers and image processors of others: their code is never run, and what is damaged is said in a typed error."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from datasets import Dataset
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from typer.testing import CliRunner

from hf_learngene import errors
from hf_learngene.calibration.processing import processor_of
from hf_learngene.cli import app
from hf_learngene.training import Teacher
from hf_learngene.training.data import data_name, training_data
from testing.families import tiny_model
from testing.saving import tokenizer


INPUTS = {"vit": "pixel_values", "bert": "input_ids"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_model("vit", "ViTForImageClassification", dtype=torch.float32).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder / "vit")
    tiny_model("bert", "BertForMaskedLM", dtype=torch.float32).save_pretrained(folder / "bert")
    tokenizer().save_pretrained(folder / "bert")
    return folder


@pytest.fixture
def model(models, tmp_path):
    """Makes a copy of a model, with one of its files changed."""

    def changed(kind, file, change):
        shutil.copytree(models / kind, tmp_path / kind)
        path = tmp_path / kind / file
        path.write_bytes(change(path.read_bytes()))
        return path.parent

    return changed


def fields(**other):
    return lambda content: json.dumps({**json.loads(content), **other}).encode()


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """Code that leaves a mark when it is run, and a user who would say yes."""
    mark = tmp_path / "it_was_run"
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return mark, f"open({str(mark)!r}, 'w').close()\n"


CODE = [
    ("vit", "preprocessor_config.json",
     {"image_processor_type": "Mine", "auto_map": {"AutoImageProcessor": "mine.Mine"}},
     "from transformers import ViTImageProcessorPil\nclass Mine(ViTImageProcessorPil): pass\n"),
    ("bert", "tokenizer_config.json",
     {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}},
     "from transformers import PreTrainedTokenizerFast\nclass Mine(PreTrainedTokenizerFast): pass\n"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "file", "settings", "code"), CODE, ids=["image processor", "tokenizer"])
def test_code_beside_a_processor_is_not_run(kind, file, settings, code, model, payload):
    mark, run = payload
    folder = model(kind, file, fields(**settings))
    if kind == "bert":  # else transformers takes the family's own tokenizer
        (folder / "config.json").write_text('{"model_type": "mine"}')
    (folder / "mine.py").write_text(run + code)
    with pytest.raises(errors.CheckpointError, match="is code in its repository, which is never run here"):
        processor_of(folder, INPUTS[kind])
    assert not mark.exists()


def test_code_beside_a_teacher_is_not_run(model, payload, tmp_path):
    mark, run = payload
    code = "from transformers import ViTConfig\nclass Mine(ViTConfig):\n    model_type = 'mine'\n"
    auto = {"AutoConfig": "mine.Mine", "AutoModelForImageClassification": "mine.Mine"}
    folder = model("vit", "config.json", fields(model_type="mine", auto_map=auto))
    (folder / "mine.py").write_text(run + code)
    with pytest.raises(errors.LearngeneError):
        Teacher(folder, None, None)
    built = CliRunner().invoke(app, ["build", str(folder), str(tmp_path / "out"), "--steps", "0"], input="y\n")
    assert built.exit_code == 2, built.output
    assert not mark.exists()


def test_build_runs_no_code_beside_the_processor(model, payload, tmp_path):
    mark, run = payload
    kind, file, settings, code = CODE[0]
    folder = model(kind, file, fields(**settings))
    (folder / "mine.py").write_text(run + code)
    built = CliRunner().invoke(app, ["build", str(folder), str(tmp_path / "out"), "--steps", "0"], input="y\n")
    assert built.exit_code == 2
    assert "is never run here" in " ".join(built.output.split())
    assert not mark.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vit"]


DAMAGES = {
    "empty": lambda _: b"",
    "half": lambda content: content[: len(content) // 2],
    "list": lambda _: b"[1, 2]",
    "null": lambda _: b"null",
    "text": lambda _: b'"x"',
    "number": lambda _: b"7",
    "no text": lambda _: b"\xff\xfe\x00" * 20,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize(
    ("kind", "file"),
    [("vit", "preprocessor_config.json"), ("bert", "tokenizer.json"), ("bert", "tokenizer_config.json")],
)
def test_a_damaged_file_is_a_typed_error(kind, file, damage, model):
    kinds = "image processor" if kind == "vit" else "tokenizer"
    with pytest.raises(errors.CheckpointError, match=rf"vit` has no {kinds}|bert` has no {kinds}"):
        processor_of(model(kind, file, damage), INPUTS[kind])


@pytest.mark.parametrize(
    ("kind", "file", "settings"),
    [
        ("vit", "preprocessor_config.json", {"size": {"height": -3, "width": 5}}),
        ("vit", "preprocessor_config.json", {"image_mean": [0.5]}),
        ("vit", "preprocessor_config.json", {"image_std": [0, 0, 0]}),
        ("vit", "preprocessor_config.json", {"rescale_factor": "a"}),
        ("vit", "preprocessor_config.json", {"image_processor_type": 5}),
        ("bert", "tokenizer_config.json", {"model_max_length": "x"}),
        ("bert", "tokenizer_config.json", {"model_max_length": -1}),
        ("bert", "tokenizer_config.json", {"pad_token": 5}),
        ("bert", "tokenizer.json", {"model": None}),
        ("bert", "tokenizer.json", {"added_tokens": 5}),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_settings_that_prepare_nothing_are_a_typed_error(kind, file, settings, model):
    with pytest.raises(errors.CheckpointError, match="save it beside the model|it prepares no input"):
        processor_of(model(kind, file, fields(**settings)), INPUTS[kind])


def test_a_teacher_by_its_folder_brings_its_image_processor(models, model):
    student = ViTImageProcessorPil(image_mean=[0.1] * 3, image_std=[0.2] * 3)
    scale, shift = Teacher(str(models / "vit"), None, student).statistics
    assert scale == pytest.approx([0.4] * 3)
    assert shift == pytest.approx([-0.8] * 3)
    assert Teacher(str(models / "bert"), None, None).statistics is None
    damaged = model("vit", "preprocessor_config.json", DAMAGES["half"])
    with pytest.raises(errors.CheckpointError, match="no image processor"):  # not taken for one without
        Teacher(str(damaged), None, student)
    (damaged / "preprocessor_config.json").unlink()
    assert Teacher(str(damaged), None, student).statistics is None


@pytest.mark.parametrize("token", ["mask_token", "pad_token"])
def test_a_tokenizer_that_cannot_mask_or_pad_is_refused_before_training(token, models):
    taken = tokenizer()
    setattr(taken, token, None)
    data = Dataset.from_dict({"text": ["word1 word2"]})
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    with pytest.raises(errors.TrainingDataError, match=f"has no {token}"):
        training_data(data, model, taken)


# ---- the name of data on a card


def test_local_data_is_no_id_of_the_hub(tmp_path, monkeypatch):
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    (tmp_path / "images" / "test").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for place in ("images/test", "images/test/", "./images", tmp_path / "images" / "test", "no/such.parquet", "."):
        with pytest.raises(HFValidationError):
            validate_repo_id(data_name(place))
    assert data_name("images/test") == "test (local)"
    assert data_name("uoft-cs/cifar10") == "uoft-cs/cifar10"
