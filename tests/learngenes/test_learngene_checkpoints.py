"""A saved learngene loads whole or not at all, and says what is wrong with it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedConfig

from hf_learngene import AutoLearngene, AutoLearngeneConfig
from hf_learngene.errors import CheckpointError, InvalidSizeError, LearngeneError
from hf_learngene.learngenes import SwsLearngene, TlegLearngene
from testing.families import tiny_model
from testing.learngenes import OPTIONS


pytestmark = pytest.mark.not_numeric


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    AutoLearngene.from_ancestry(source, "sws", num_stages=2).save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder: Path, change: Any) -> dict[str, torch.Tensor]:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    return tensors


def change_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


LOADERS = [AutoLearngene.from_pretrained, SwsLearngene.from_pretrained, AutoModel.from_pretrained]


@pytest.mark.parametrize("load", LOADERS)
def test_absent_tensors_are_named(folder, load):
    gone = "shared.vit.layers.mlp.fc1.weight.1"
    change_weights(folder, lambda tensors: tensors.pop(gone))
    with pytest.raises(CheckpointError, match=rf"1 of \d+ tensors are absent \({gone}\)"):
        load(folder)


@pytest.mark.parametrize("load", LOADERS)
def test_tensors_of_another_shape_are_named(folder, load):
    name = "outside.classifier.weight"
    change_weights(folder, lambda tensors: tensors.update({name: torch.zeros(7, 24)}))
    with pytest.raises(CheckpointError, match=rf"1 of \d+ tensors are of another shape \({name}\)"):
        load(folder)


def test_a_tensor_that_no_part_takes_is_named(folder):
    change_weights(folder, lambda tensors: tensors.update({"shared.vit.layers.mlp.fc1.weight.2": torch.zeros(40, 24)}))
    with pytest.raises(CheckpointError, match=r"1 tensors are not its own \(shared.vit.layers.mlp.fc1.weight.2\)"):
        AutoLearngene.from_pretrained(folder)


def test_a_learngene_of_another_kind_is_refused(folder):
    with pytest.raises(CheckpointError, match="`learngene_sws`, and TlegLearngene loads `learngene_tleg`"):
        TlegLearngene.from_pretrained(folder)
    change_config(folder, model_type="learngene_tleg")
    with pytest.raises(CheckpointError, match="does not fill the `tleg` of its config"):
        AutoLearngene.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"\x00" * 20, None])
def test_damaged_weights_are_said(folder, content):
    file = folder / "model.safetensors"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match="weights|cannot be loaded"):
        AutoLearngene.from_pretrained(folder)


def test_what_is_whole_loads_with_its_loading_info_if_asked(folder):
    learngene, info = AutoLearngene.from_pretrained(folder, output_loading_info=True)
    assert isinstance(learngene, SwsLearngene)
    assert not info["missing_keys"]
    assert AutoLearngene.from_pretrained(folder, depth_scale=False).config.depth_scale is False


def fields(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from fields(value, (*path, name))


DAMAGE = ["x", -1, 0, None, [], {}, 2.5, True, ...]  # ... leaves the field out


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_a_damaged_config_is_an_error_of_ours(kind, tmp_path):
    source = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    AutoLearngene.from_ancestry(source, kind, **OPTIONS[kind]).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    whole = json.loads(file.read_text())
    wrong = []
    # fields of every config, and the auxiliary model's, are the same for every kind, and each size of it is probed anew
    common = PreTrainedConfig().to_dict().keys() - {"model_type"}
    paths = [p for p in fields(whole) if (len(p) == 1 and p[0] not in common) or (kind == "sws" and len(p) <= 2)]
    for path in paths:
        for value in DAMAGE if len(path) == 1 else DAMAGE[:2]:
            damaged = copy.deepcopy(whole)
            *above, last = path
            place = damaged
            for name in above:
                place = place[name]
            if value is ...:
                place.pop(last)
            else:
                place[last] = value
            file.write_text(json.dumps(damaged))
            try:
                AutoLearngene.from_pretrained(tmp_path)
            except LearngeneError:
                pass
            except Exception as error:
                wrong.append(f"{'.'.join(path)}={value!r}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "{}", '{"model_type": "learngene"}',
                                  '{"model_type": "learngene_wave"}', '{"model_type": "bert"}'])  # fmt: skip
def test_a_config_that_is_none_is_an_error_of_ours(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(LearngeneError):
        AutoLearngeneConfig.from_pretrained(tmp_path)
    with pytest.raises(LearngeneError):
        AutoLearngene.from_pretrained(tmp_path)


@pytest.mark.parametrize("size", [{"num_hidden_layers": 100_000}, {"num_labels": 10**9}])
def test_sizes_that_would_take_hours_to_build_are_refused(folder, size):
    base = json.loads((folder / "config.json").read_text())["base_config"]
    change_config(folder, base_config={n: v for n, v in {**base, **size}.items() if n not in ("id2label", "label2id")})
    with pytest.raises(InvalidSizeError, match=f"{next(iter(size))} is at most"):
        AutoLearngene.from_pretrained(folder)


def test_code_of_a_repository_is_not_run(folder, monkeypatch):
    change_config(folder, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, model_type="evil")
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers would ask
    with pytest.raises(CheckpointError):
        AutoLearngene.from_pretrained(folder)
    assert not (folder / "ran").exists()
