"""A saved model is whole or absent, and what prepares its inputs comes along in the right size."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_learngene import resize
from hf_learngene.errors import OutputError
from hf_learngene.hub.files import TOKENIZER_FILES
from hf_learngene.hub.inputs import fitted_sizes
from hf_learngene.hub.output import check_output
from hf_learngene.hub.save import save_resized
from testing.families import tiny_model
from testing.saving import cached, interrupt, tokenizer


@pytest.fixture
def vit(tmp_path):
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    model.save_pretrained(tmp_path / "source")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(tmp_path / "source")
    return model, tmp_path / "source"


@pytest.fixture
def bert(tmp_path):
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    model.save_pretrained(tmp_path / "source")
    tokenizer().save_pretrained(tmp_path / "source")
    return model, tmp_path / "source"


@pytest.fixture
def place(tmp_path):
    """An empty folder to write into."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))


INTERRUPTIONS = [
    (
        OSError(errno.ENOSPC, "No space left on device"),
        OutputError,
        "it needs about [0-9,]+ bytes .* and [0-9,]+ bytes",
    ),
    # what safetensors raises is no OSError
    (Exception("I/O error: No space left on device (os error 28)"), OutputError, "too little space"),
    (OSError(errno.EIO, "Input/output error"), OutputError, "could not be written"),
    (KeyboardInterrupt(), KeyboardInterrupt, None),
    (SystemExit(143), SystemExit, None),
    (RuntimeError("a bug"), RuntimeError, "a bug"),
]


@pytest.mark.parametrize(("error", "raised", "message"), INTERRUPTIONS, ids=lambda p: repr(p)[:30])
def test_an_interrupted_save_leaves_nothing(vit, place, monkeypatch, error, raised, message):
    model, source = vit
    interrupt(monkeypatch, model, error)
    with pytest.raises(raised, match=message):
        save_resized(model, place / "out", source=source)
    assert os.listdir(place) == []


def test_an_interrupted_replacement_leaves_the_old_model(vit, place, monkeypatch):
    model, _ = vit
    save_resized(model, place / "out")
    before = (place / "out" / "model.safetensors").read_bytes()
    interrupt(monkeypatch, model, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        save_resized(model, place / "out", overwrite=True)
    assert os.listdir(place) == ["out"]
    assert (place / "out" / "model.safetensors").read_bytes() == before


def test_a_replacement_that_fails_at_the_last_step_puts_the_old_model_back(vit, place, monkeypatch):
    model, _ = vit
    save_resized(model, place / "out", card="old")
    rename = os.rename

    def failing(old, new):
        if str(old).endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputError, match="could not be written"):
        save_resized(model, place / "out", card="new", overwrite=True)
    assert os.listdir(place) == ["out"]
    assert (place / "out" / "README.md").read_text() == "old"


def test_too_small_a_disk_is_told_before_writing(vit, place, monkeypatch):
    model, _ = vit
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2000, 1000, 1000))
    interrupt(monkeypatch, model, AssertionError("written"))
    with pytest.raises(OutputError, match=r"needs about 1,\d{3},\d{3} bytes .* and 1,000 bytes"):
        save_resized(model, place / "out")
    assert os.listdir(place) == []


def test_an_existing_folder_is_refused(place):
    (place / "out").mkdir()
    (place / "file").write_text("")
    with pytest.raises(OutputError, match="exists already"):
        check_output(place / "out")
    with pytest.raises(OutputError, match="is a file"):
        check_output(place / "file", overwrite=True)
    with pytest.raises(OutputError, match="not a folder that you can write to"):
        check_output(place / "file" / "out")


def test_only_a_saved_model_is_replaced(vit, place):
    model, _ = vit
    (place / "photos").mkdir()
    (place / "photos" / "holiday.jpg").write_text("")
    with pytest.raises(OutputError, match="no saved model"):
        save_resized(model, place / "photos", overwrite=True)
    assert (place / "photos" / "holiday.jpg").exists()


def test_overwrite_replaces_the_folder_and_follows_a_link(vit, place):
    model, _ = vit
    save_resized(model, place / "real", card="old")
    (place / "real" / "stale.json").write_text("{}")
    (place / "link").symlink_to("real")
    save_resized(model, place / "link", card="new", overwrite=True)
    assert sorted(os.listdir(place)) == ["link", "real"]
    assert (place / "link").is_symlink()
    assert (place / "real" / "README.md").read_text() == "new"
    assert not (place / "real" / "stale.json").exists()


def test_a_folder_made_meanwhile_is_left_alone(vit, place, monkeypatch):
    model, _ = vit
    monkeypatch.setattr(model, "save_pretrained", lambda folder, **named: (place / "out").mkdir())
    with pytest.raises(OutputError, match="came into being"):
        save_resized(model, place / "out")
    assert os.listdir(place) == ["out"]


def test_parents_are_made_and_files_have_the_usual_mode(vit, place):
    model, _ = vit
    (place / "plain").write_text("")
    path = save_resized(model, place / "a" / "b")
    assert path == place / "a" / "b"
    assert {f.stat().st_mode for f in path.iterdir()} == {(place / "plain").stat().st_mode}


def test_the_tokenizer_is_carried_as_it_is(bert, place):
    model, source = bert
    out = save_resized(resize(model, hidden_size=16, calibration=None), place / "out", source=source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert AutoTokenizer.from_pretrained(out)("word3 word4")["input_ids"] == tokenizer()("word3 word4")["input_ids"]


@pytest.mark.parametrize(
    ("kind", "head", "positions", "limit", "expected"),
    [
        ("bert", "BertForMaskedLM", 20, 40, 20),
        ("bert", "BertForMaskedLM", 80, 40, 80),
        ("bert", "BertForMaskedLM", 80, 10**30, 80),
        ("bert", "BertForMaskedLM", 80, 30, 30),  # a choice below what was possible stays one
        ("bert", "BertForMaskedLM", 20, 30, 20),
        ("roberta", "RobertaForMaskedLM", 20, 38, 18),  # two rows of the table are never used
        ("distilbert", "DistilBertForMaskedLM", 20, 40, 20),
    ],
)
def test_the_tokenizer_follows_the_positions(tmp_path, kind, head, positions, limit, expected):
    model = tiny_model(kind, head, dtype=torch.float32)
    model.save_pretrained(tmp_path / "source")
    tokenizer(limit).save_pretrained(tmp_path / "source")
    other = resize(model, max_position_embeddings=positions)
    out = save_resized(other, tmp_path / "out", source=tmp_path / "source")
    carried = AutoTokenizer.from_pretrained(out)
    assert carried.model_max_length == expected
    batch = carried("word1 " * 200, truncation=True, return_tensors="pt")
    assert batch["input_ids"].shape[1] == expected
    other(input_ids=batch["input_ids"])


def test_truncation_inside_the_tokenizer_follows_the_positions_too(bert, place):
    model, source = bert
    edit(
        source / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 40, "strategy": "LongestFirst", "stride": 0},
    )
    out = save_resized(resize(model, max_position_embeddings=20), place / "out", source=source)
    assert len(Tokenizer.from_file(str(out / "tokenizer.json")).encode("word1 " * 50).ids) == 20


def test_a_tokenizer_that_no_longer_fits_is_left_out(bert, place, caplog):
    model, source = bert
    out = save_resized(resize(model, vocab_size=50), place / "out", source=source)
    assert "left out" in caplog.text
    assert sorted(os.listdir(out)) == ["README.md", "config.json", "model.safetensors"]


def test_the_image_processor_is_carried_as_it_is(vit, place):
    model, source = vit
    out = save_resized(resize(model, hidden_size=16, calibration=None), place / "out", source=source)
    name = "preprocessor_config.json"
    assert (out / name).read_bytes() == (source / name).read_bytes()


def image(width: int = 31, height: int = 23) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("target", [20, (20, 8)])
@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(size={"height": 12, "width": 12}),
        CLIPImageProcessorPil(size={"shortest_edge": 14}, crop_size={"height": 12, "width": 12}),
        CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}, resample=2),
    ],
    ids=["resize", "resize and crop", "crop without margin"],
)
def test_the_image_processor_follows_the_image_size(vit, place, processor, target):
    model, source = vit
    processor.save_pretrained(source)
    other = resize(model, image_size=target)
    out = save_resized(other, place / "out", source=source)
    carried = AutoImageProcessor.from_pretrained(out, backend="pil")
    pixels = carried(image(), return_tensors="pt")["pixel_values"]
    assert tuple(pixels.shape[2:]) == (target if isinstance(target, tuple) else (target, target))
    other(pixel_values=pixels)
    before, after = processor.to_dict(), carried.to_dict()
    assert after["size"].keys() == before["size"].keys()
    rest = [json.dumps({k: v for k, v in one.items() if "size" not in k}, sort_keys=True) for one in (before, after)]
    assert rest[0] == rest[1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": {"shortest_edge": 24}}, {"size": {"shortest_edge": 8}}),
        ({"size": {"height": 24, "width": 24}}, {"size": {"height": 8, "width": 8}}),
        # BEiT names a crop that it does not do
        (
            {"size": {"height": 24, "width": 24}, "crop_size": {"height": 24, "width": 24}, "do_center_crop": False},
            {"size": {"height": 8, "width": 8}, "crop_size": {"height": 8, "width": 8}},
        ),
        # DeiT resizes to more than it crops; the processor need not have agreed with the config before
        (
            {"size": {"height": 32, "width": 32}, "crop_size": {"height": 28, "width": 28}, "do_center_crop": True},
            {"size": {"height": 9, "width": 9}, "crop_size": {"height": 8, "width": 8}},
        ),
        ({}, {}),
    ],
)
def test_sizes_keep_their_form(settings, expected):
    assert fitted_sizes(settings, (8, 8)) == expected


def test_a_broken_image_processor_does_not_lose_the_model(vit, place, caplog):
    model, source = vit
    edit(source / "preprocessor_config.json", image_processor_type="NoSuchProcessor")
    out = save_resized(resize(model, image_size=20), place / "out", source=source)
    assert "left out" in caplog.text
    assert (out / "model.safetensors").exists()


def test_a_source_on_the_hub(bert, tmp_path, place):
    model, source = bert
    name = cached(source, tmp_path / "cache")
    loading = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    out = save_resized(resize(model, max_position_embeddings=20), place / "out", source=name, loading=loading)
    assert AutoTokenizer.from_pretrained(out).model_max_length == 20


def test_an_unreachable_source_does_not_lose_the_model(vit, place, caplog):
    model, _ = vit
    out = save_resized(model, place / "out", source="user/absent", loading={"local_files_only": True})
    assert "could not be fetched" in caplog.text
    assert (out / "model.safetensors").exists()


def test_no_written_file_names_a_place_on_this_machine(bert, place, tmp_path):
    model, source = bert
    edit(source / "tokenizer_config.json", tokenizer_file="/home/me/tokenizer.json", name_or_path=str(source))
    model.config._name_or_path = model.name_or_path = str(source)
    out = save_resized(resize(model, hidden_size=16, calibration=None), place / "out", source=source)
    names = sorted(f.name for f in out.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    for file in out.iterdir():
        content = file.read_bytes()
        assert b"/home/me" not in content
        assert str(tmp_path).encode() not in content
    with safe_open(out / "model.safetensors", "pt") as weights:
        assert weights.metadata() == {"format": "pt"}


def test_only_known_files_are_taken(bert, place):
    model, source = bert
    (source / "optimizer.pt").write_text("")
    (source / "README.md").write_text("the source's")
    out = save_resized(model, place / "out", source=source)
    assert not {"optimizer.pt", "README.md"} & set(os.listdir(out))


def test_every_vocabulary_file_of_transformers_is_known():
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    from hf_learngene.resizing.auto import BY_TASK

    encoders = {c.model_type for c in BY_TASK["fill-mask"]._model_mapping}
    names = set()
    for kind in encoders & TOKENIZER_MAPPING_NAMES.keys():
        cls = getattr(transformers, TOKENIZER_MAPPING_NAMES[kind] or "", None)
        names |= set((getattr(cls, "vocab_files_names", None) or {}).values())
    assert {"vocab.txt", "tokenizer.json"} <= names
    unknown = [n for n in names if not any(fnmatch(n, p) for p in TOKENIZER_FILES)]
    assert unknown == []
