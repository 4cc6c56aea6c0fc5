"""Files of a checkpoint that are damaged, swapped or made to do harm: a typed error each, at once, and nothing is run."""

from __future__ import annotations

import ast
import json
import re
import struct

import pytest
import torch
from markdown_it import MarkdownIt
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertTokenizer, ViTForImageClassification, ViTImageProcessorPil

from hf_learngene import AutoModelForImageClassification, AutoModelForMaskedLM, plan, resize, save_resized
from hf_learngene.errors import CheckpointError, LearngeneError, ProvenanceError, UnsupportedSourceError
from hf_learngene.hub.card import model_card
from hf_learngene.hub.card_parts import OURS, renamed
from hf_learngene.hub.load import load_config, load_whole


VALUES = ["x", -1, 0, None, [], {}, [1, 2, 3], 1.5, True, {"a": 1}, 10**9, 10**18, 1e300]
FIELDS = ["model_type", "architectures", "dtype", "id2label", "label2id", "num_labels", "auto_map", "transformers_version",
          "learngene", "quantization_config", "layer_norm_eps", "hidden_act", "initializer_range"]  # fmt: skip
SIZES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def load(folder, **given):
    auto = AutoModelForImageClassification if "vit" in folder.name else AutoModelForMaskedLM
    return auto.from_pretrained_resized(folder, **{"hidden_size": 16, "calibration": None, **given})


# ---- config.json


def read_all(folder, field, **sizes):
    """Reads a checkpoint with each value in a field of its config; whatever is wrong with it is a typed error in one line."""
    path = folder / "config.json"
    whole, messages = path.read_text(), []
    for value in VALUES:
        path.write_text(whole)
        edit(path, **{field: value})
        try:
            plan(folder, **sizes)
            if value not in (10**9, 10**18):  # where these are no size they are no harm, else they are refused
                load(folder)
        except LearngeneError as error:
            messages.append(str(error))
    assert [message for message in messages if "\n" in message] == []
    return messages


@pytest.mark.parametrize("field", [*FIELDS, *SIZES, "image_size", "patch_size", "num_channels", "qkv_bias"])
def test_a_field_of_another_type_is_a_typed_error_or_none(vit_folder, field):
    assert len(read_all(vit_folder, field, hidden_size=16)) >= (6 if field in SIZES else 0)


@pytest.mark.parametrize("field", ["vocab_size", "max_position_embeddings", "type_vocab_size", "pad_token_id", "use_cache",
                                   "tie_word_embeddings", "position_embedding_type", *SIZES])  # fmt: skip
def test_a_field_of_a_text_model_too(bert_folder, field):
    assert len(read_all(bert_folder, field, num_hidden_layers=2)) >= (6 if field in SIZES else 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 10**5), ("num_hidden_layers", 10**18), ("num_labels", 10**9), ("hidden_size", 10**9),
     ("intermediate_size", 10**9), ("image_size", 10**6), ("image_size", [12, 10**6]), ("vocab_size", 10**9)],
)  # fmt: skip
def test_sizes_beyond_everything_are_refused_before_they_are_built(vit_folder, monkeypatch, field, value):
    from transformers import ViTConfig

    monkeypatch.setattr(ViTConfig, "__init__", lambda *given, **named: pytest.fail("a config was built"))
    edit(vit_folder / "config.json", **{field: value})
    for verb in (lambda: plan(vit_folder, hidden_size=16), lambda: load(vit_folder), lambda: load_whole(vit_folder)):
        with pytest.raises(CheckpointError, match=f"{field}=.*, which is more than"):
            verb()


def test_sizes_in_a_section_are_bounded_too(vit_folder):
    edit(vit_folder / "config.json", vision_config={"num_hidden_layers": 10**6})
    with pytest.raises(CheckpointError, match="num_hidden_layers=1000000, which is more than"):
        load_config(vit_folder, {})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"vit"', "\x00", '{"model_type": ["vit"]}'])
def test_a_config_that_is_none(vit_folder, text):
    (vit_folder / "config.json").write_text(text)
    for verb in (plan, load):
        with pytest.raises(CheckpointError):
            verb(vit_folder, hidden_size=16)
    (vit_folder / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(CheckpointError):
        load(vit_folder)


# ---- weights


def damaged_weights(whole: bytes):
    header = int.from_bytes(whole[:8], "little")
    yield "empty", b""
    yield "eight bytes", whole[:8]
    yield "half", whole[: len(whole) // 2]
    yield "one byte short", whole[:-1]
    yield "one byte more", whole + b"\0"
    yield "long header", struct.pack("<Q", 2**63) + whole[8:]
    yield "header of another length", struct.pack("<Q", header - 5) + whole[8:]
    yield "no JSON", whole[:8] + b"x" * header + whole[8 + header :]
    yield "a pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR."
    yield "text", b"hello"


@pytest.mark.parametrize("what", [name for name, _ in damaged_weights(struct.pack("<Q", 40) + b"\0" * 64)])
def test_damaged_weights(vit_folder, what):
    path = vit_folder / "model.safetensors"
    path.write_bytes(dict(damaged_weights(path.read_bytes()))[what])
    for verb in (load, load_whole):
        with pytest.raises(CheckpointError, match="weights of"):
            verb(vit_folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 and no more", b"hello", b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.", b"\x80\x02}q\x00."],
    ids=["empty", "zip", "text", "code", "nothing"],
)
def test_damaged_pickles_are_told_and_never_run(vit_folder, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (vit_folder / "model.safetensors").unlink()
    (vit_folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError):
        load(vit_folder)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_kind(vit_folder):
    (vit_folder / "model.safetensors").unlink()
    for content in ([1, 2], {"vit.embeddings.cls_token": "text"}, torch.zeros(3), {1: torch.zeros(2)}):
        torch.save(content, vit_folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError):
            load(vit_folder)


INDICES = {
    "absent shards": {"metadata": {}, "weight_map": {"classifier.weight": "model-00001-of-00002.safetensors"}},
    "no map": {"metadata": {}},
    "a list": [],
    "a map of numbers": {"metadata": {}, "weight_map": {"classifier.weight": 3}},
    "a map that is a list": {"metadata": {}, "weight_map": ["model.safetensors"]},
    "nothing in it": {"metadata": {}, "weight_map": {}},
}


@pytest.mark.parametrize("what", INDICES)
def test_a_damaged_index(vit_folder, what):
    (vit_folder / "model.safetensors").unlink()
    (vit_folder / "model.safetensors.index.json").write_text(json.dumps(INDICES[what]))
    with pytest.raises(CheckpointError):
        load(vit_folder)


def test_weights_of_other_shapes_do_not_fit(vit_folder, tmp_path):
    path = vit_folder / "model.safetensors"
    whole = load_file(path)
    for name in whole:
        changed = {**whole, name: torch.zeros(*whole[name].shape, 2)}
        save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="do not fit its own config"):
            load(vit_folder)


# ---- tokenizers and image processors


TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]
DAMAGE = ["", "{", "[]", "null", '{"model": 3}', '{"truncation": 3, "model_max_length": []}', "\x00"]


@pytest.mark.parametrize("file", TOKENIZER)
def test_a_damaged_tokenizer_does_not_lose_the_model(bert_folder, tmp_path, file, caplog):
    model = BertForMaskedLM.from_pretrained(bert_folder)
    BertTokenizer({w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])}).save_pretrained(
        bert_folder
    )
    for number, (damage, sizes) in enumerate(
        (d, s) for d in DAMAGE for s in ({"hidden_size": 16}, {"max_position_embeddings": 20})
    ):
        (bert_folder / file).write_text(damage)
        out = save_resized(resize(model, calibration=None, **sizes), tmp_path / f"out{number}", source=bert_folder)
        assert (out / "model.safetensors").exists()
    assert "damaged and left out" in caplog.text


@pytest.mark.parametrize(
    "damage", [*DAMAGE, '{"image_processor_type": 3}', '{"image_processor_type": "ViTImageProcessor", "size": "x"}']
)
def test_a_damaged_image_processor_does_not_lose_the_model(vit_folder, tmp_path, damage):
    model = ViTForImageClassification.from_pretrained(vit_folder)
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(vit_folder)
    (vit_folder / "preprocessor_config.json").write_text(damage)
    for number, sizes in enumerate(({"hidden_size": 16}, {"image_size": 20})):
        out = save_resized(resize(model, calibration=None, **sizes), tmp_path / f"out{number}", source=vit_folder)
        assert (out / "model.safetensors").exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_tokenizer_is_not_trimmed(bert_folder, tmp_path, damage):
    from typer.testing import CliRunner

    from hf_learngene.cli import app

    BertTokenizer({w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])}).save_pretrained(
        bert_folder
    )
    (bert_folder / "tokenizer.json").write_text(damage)
    (bert_folder / "tokenizer_config.json").write_text(damage)
    (tmp_path / "texts.txt").write_text("a a\n")
    done = CliRunner().invoke(app, ["plan", str(bert_folder), "--corpus", str(tmp_path / "texts.txt")])
    assert done.exit_code == 2, done.output
    assert "has no tokenizer that transformers reads" in " ".join(done.output.split())


# ---- code in a repository


CODE = """
import pathlib
from transformers import {base}

pathlib.Path({ran!r}).touch()


class Own{base}({base}):
    model_type = "own"
"""


@pytest.fixture
def coded(vit_folder, tmp_path, monkeypatch):
    """A checkpoint that brings code for its config, its model and its image processor, and a person who says yes."""
    ran = tmp_path / "ran"
    for file, base in (("configuration_own", "ViTConfig"), ("modeling_own", "ViTForImageClassification"),
                       ("image_processing_own", "ViTImageProcessor")):  # fmt: skip
        (vit_folder / f"{file}.py").write_text(CODE.format(base=base, ran=str(ran)))
    auto_map = {"AutoConfig": "configuration_own.OwnViTConfig",
                "AutoModelForImageClassification": "modeling_own.OwnViTForImageClassification",
                "AutoImageProcessor": "image_processing_own.OwnViTImageProcessor",
                "AutoTokenizer": ["configuration_own.OwnViTConfig", None]}  # fmt: skip
    edit(vit_folder / "config.json", auto_map=auto_map)
    processor = {
        "auto_map": auto_map,
        "image_processor_type": "OwnViTImageProcessor",
        "size": {"height": 12, "width": 12},
    }
    (vit_folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (vit_folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map, "tokenizer_class": "Own"}))
    monkeypatch.setattr("builtins.input", lambda *given: "y")
    yield vit_folder
    assert not ran.exists()


def test_code_beside_a_family_of_transformers_is_not_run(coded, tmp_path):
    plan(coded, hidden_size=16)
    model = load(coded, image_size=20)
    assert type(model) is ViTForImageClassification
    save_resized(model, tmp_path / "out", source=coded)
    assert type(load_whole(coded)) is ViTForImageClassification


def test_a_family_that_only_the_code_knows_is_refused(coded):
    edit(coded / "config.json", model_type="own")
    for verb in (plan, load, lambda folder, **_: load_whole(folder)):
        with pytest.raises(UnsupportedSourceError, match="Code from a repository is never run here"):
            verb(coded, hidden_size=16)


def test_commands_run_no_code(coded, tmp_path):
    from typer.testing import CliRunner

    from hf_learngene.cli import app

    (tmp_path / "texts.txt").write_text("a a\n")
    for given in (
        ["plan", str(coded), "--hidden-size", "16"],
        ["plan", str(coded), "--corpus", str(tmp_path / "texts.txt")],
        ["resize", str(coded), str(tmp_path / "out"), "--hidden-size", "16", "--size", "image_size=20"],
        ["verify", str(coded), str(coded)],
        ["push", str(coded), "me/x"],
    ):
        CliRunner().invoke(app, given, input="y\ny\ny\n")


# ---- config.learngene

RECORD_DAMAGE = [
    3, "text", [], {}, {"format": True}, {"format": 1}, {"source": ["a"]}, {"source": "a\nb"}, {"source": ""},
    {"source": "x" * 300}, {"source_commit": "<b>"}, {"source_commit": 7}, {"passes": []}, {"passes": {}}, {"passes": ["lemon"]},
    {"passes": [{"method": "<img src=x>", "options": {}}]}, {"passes": [{"method": "lemon"}]},
    {"passes": [{"method": "lemon", "options": {"a b": 1}}]}, {"passes": [{"method": "lemon", "options": []}]}, {"seed": "0"},
    {"sizes": []}, {"sizes": {"<b>": 1}}, {"fresh": "a"}, {"fresh": ["`</code><script>`"]}, {"history": {}}, {"history": ["x"]},
    {"history": [{"format": 1}]}, {"package_version": "<script>"}, {"kept_tokens": 3}, {"kept_tokens": {"count": "3"}},
    {"weights": "abc"}, {"weights": {"bfloat16": "<b>"}},
]  # fmt: skip


@pytest.mark.parametrize("damage", RECORD_DAMAGE, ids=lambda d: json.dumps(d)[:40])
def test_a_record_that_nobody_wrote_is_refused(bert_folder, tmp_path, damage):
    model = load(bert_folder)
    record = model.config.learngene
    model.save_pretrained(tmp_path / "bert")
    whole = isinstance(damage, dict) and damage and "format" not in damage
    edit(tmp_path / "bert" / "config.json", learngene={**record, **damage} if whole else damage)
    for verb in (lambda: plan(tmp_path / "bert", num_hidden_layers=2), lambda: load_whole(tmp_path / "bert")):
        with pytest.raises(ProvenanceError, match=r"is no record of this package.*Remove"):
            verb()
    model.config.learngene = {**record, **damage} if whole else damage
    if damage:
        for verb in (lambda: resize(model, num_hidden_layers=2), lambda: save_resized(model, tmp_path / "out")):
            with pytest.raises(ProvenanceError):
                verb()
    assert not (tmp_path / "out").exists()


MARKUP = [
    "<script>alert(1)</script>",
    "`<img src=x>`",
    "``<img src=x>`",
    "[x](javascript:1)",
    "*b* <b>",
    "a|b<b>",
    "<!-- x",
]


@pytest.mark.parametrize("text", MARKUP)
def test_what_a_record_may_say_becomes_no_markup(bert_folder, text):
    model = load(bert_folder)
    passes = [{"method": "front", "options": {"layer_selection": text}}]
    model.config.learngene = {**model.config.learngene, "source": text, "passes": passes}
    card = model_card(model, name=f"{text}\n# more")
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(card[card.index("# ") :])
    rendered = rendered.replace(OURS, "")
    tags = set(re.findall(r"<\s*(\w+|!--)", rendered))
    assert tags <= {"h1", "h2", "p", "code", "pre", "strong", "table", "thead", "tbody", "tr", "th", "td", "a"}
    assert re.findall(r'href="(?!https://arxiv.org/)', rendered) == []
    assert rendered.count("<h1>") == 1
    (python,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert [type(line).__name__ for line in ast.parse(python).body] == ["ImportFrom", "Assign"]


def test_the_name_of_a_model_stays_a_string(bert_folder):
    card = model_card(load(bert_folder), name='x"); import os #')
    (python,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert [type(line).__name__ for line in ast.parse(python).body] == ["ImportFrom", "Assign"]
    (renamed_python,) = re.findall(r"```python\n(.*?)```", renamed(card, "me/x"), re.DOTALL)
    assert renamed_python.endswith('from_pretrained("me/x")\n')
