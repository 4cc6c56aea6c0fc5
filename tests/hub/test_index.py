"""An index of shards names files beside it, and no others of this machine."""

from __future__ import annotations

import json

import pytest
from transformers import ViTForImageClassification

from hf_learngene import AutoLearngene, AutoModelForImageClassification
from hf_learngene.errors import CheckpointError
from hf_learngene.hub.load import load_whole


@pytest.fixture
def sharded(vit_folder):
    """The ViT in several files."""
    model = ViTForImageClassification.from_pretrained(vit_folder)
    (vit_folder / "model.safetensors").unlink()
    model.save_pretrained(vit_folder, max_shard_size="20KB")
    return vit_folder


def rename(folder, name):
    """The first shard by another name, which the index gives."""
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = min(index["weight_map"].values())
    index["weight_map"] = {n: name.format(first) if f == first else f for n, f in index["weight_map"].items()}
    path.write_text(json.dumps(index))
    return first


def load(folder):
    return AutoModelForImageClassification.from_pretrained_resized(folder, hidden_size=16, calibration=None)


def test_shards_are_read(sharded):
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert load(sharded).config.hidden_size == 16


@pytest.mark.parametrize("name", ["../outside/{}", "inside/{}", "inside/../{}", "/{}", "", ".", "..", "a\0b", 3, None])
def test_a_shard_that_is_no_file_beside_it_is_refused(sharded, name):
    if isinstance(name, str):
        first = rename(sharded, name)
        for place in ("../outside", "inside"):  # it is there
            (sharded / place).mkdir()
            (sharded / place / first).write_bytes((sharded / first).read_bytes())
    else:
        path = sharded / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        path.write_text(json.dumps({**index, "weight_map": dict.fromkeys(index["weight_map"], name)}))
    for verb in (load, load_whole):
        with pytest.raises(CheckpointError, match=r"index.json` names the shard .* a shard lies beside it"):
            verb(sharded)


def test_of_a_learngene_too(vit_folder, tmp_path):
    learngene = AutoLearngene.from_ancestry(str(vit_folder), "sws", num_stages=2)
    learngene.save_pretrained(tmp_path / "sws", max_shard_size="20KB")
    assert AutoLearngene.from_pretrained(tmp_path / "sws").config.learngene_type == "sws"
    rename(tmp_path / "sws", "../{}")
    with pytest.raises(CheckpointError, match="names the shard"):
        AutoLearngene.from_pretrained(tmp_path / "sws")
