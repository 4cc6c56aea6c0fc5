"""Bad sources, checkpoints, keywords and classes: a typed, clear error each, before anything is written."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
import transformers
from torch import nn

from hf_learngene import AutoModelForImageClassification, ResizableMixin, plan, resize
from hf_learngene.errors import (
    CheckpointError,
    ProvenanceError,
    UnknownOptionError,
    UnsupportedFamilyError,
    UnsupportedSourceError,
)
from testing.families import edit_config, tiny_config, tiny_model


LOAD = AutoModelForImageClassification.from_pretrained_resized


# ---- sources


@pytest.fixture
def vit():
    return tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)


def test_a_quantized_checkpoint_is_refused(config_only):
    edit_config(config_only, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    message = "is quantized; packed weights cannot be resized. Name the checkpoint it was made from"
    for verb in (LOAD, plan):
        with pytest.raises(UnsupportedSourceError, match=message):
            verb(config_only, hidden_size=16)


@pytest.mark.parametrize(("flag", "value"), [("is_quantized", True), ("quantization_method", "bitsandbytes")])
def test_a_quantized_model_is_refused(vit, flag, value):
    setattr(vit, flag, value)
    with pytest.raises(
        UnsupportedSourceError, match="model is quantized; .* Load it without quantization_config, resize"
    ):
        resize(vit, hidden_size=16)


def test_a_model_on_several_devices_is_refused(vit):
    vit.vit.layers[1].to("meta")  # as accelerate leaves what it has offloaded
    with pytest.raises(
        UnsupportedSourceError, match=r"spread over cpu, meta. Load it on one device \(device_map=None\)"
    ):
        resize(vit, hidden_size=16)


def test_a_model_dispatched_by_a_device_map_is_refused(vit):
    vit.hf_device_map = {"vit": 0, "classifier": "cpu"}
    with pytest.raises(UnsupportedSourceError, match=r"spread over .*Load it on one device \(device_map=None\)"):
        resize(vit, hidden_size=16)
    vit.hf_device_map = {"": "cpu"}
    assert resize(vit, hidden_size=16, calibration=None).config.hidden_size == 16


def test_a_model_on_meta_can_be_planned_but_not_resized(vit):
    vit.to("meta")
    assert plan(vit, hidden_size=16).target_config.hidden_size == 16
    with pytest.raises(UnsupportedSourceError, match="on meta and has no weights. `plan` needs none"):
        resize(vit, hidden_size=16)


def test_a_model_with_adapters_is_refused_where_they_do_not_follow(vit):
    config = peft.LoraConfig(target_modules=["q_proj"], r=2)
    wrapped = peft.get_peft_model(copy.deepcopy(vit), config)
    with pytest.raises(UnsupportedSourceError, match="q_proj.weight` is absent.*Merge adapters"):
        resize(wrapped.get_base_model(), hidden_size=16)
    assert resize(wrapped.merge_and_unload(), hidden_size=16, calibration=None).config.hidden_size == 16
    vit.add_adapter(config)
    with pytest.raises(UnsupportedSourceError, match="carries adapters. Merge or delete them"):
        resize(vit, hidden_size=16)


def test_a_model_that_is_not_what_its_config_says_is_refused(vit):
    changed = copy.deepcopy(vit)
    changed.classifier = nn.Linear(24, 9)
    with pytest.raises(
        UnsupportedSourceError, match=r"`classifier.weight` has shape \(9, 24\), by the config it is \(5, 24\)"
    ):
        resize(changed, hidden_size=16)
    del vit.vit.layers[2]
    with pytest.raises(UnsupportedSourceError, match=r"`vit.layers.2.* is absent"):
        resize(vit, hidden_size=16)


def test_weights_untied_by_hand_are_refused():
    bert = tiny_model("bert", "BertForMaskedLM")
    decoder = bert.cls.predictions.decoder
    decoder.weight = nn.Parameter(decoder.weight.detach() + 1)
    with pytest.raises(
        UnsupportedSourceError, match="decoder.weight` and .*word_embeddings.weight` are tied there and differ"
    ):
        resize(bert, hidden_size=16)
    bert.config.tie_word_embeddings = False
    assert resize(bert, hidden_size=16, calibration=None).config.hidden_size == 16


@pytest.mark.parametrize("source", [nn.Linear(2, 2), None, 3])
def test_a_source_of_another_kind(source):
    name = type(source).__name__
    with pytest.raises(UnsupportedSourceError, match=f"resize takes a transformers model; this is a {name}"):
        resize(source, hidden_size=16)
    with pytest.raises(
        UnsupportedSourceError, match=f"a Hub id, a folder, a config or a transformers model; this is a {name}"
    ):
        plan(source, hidden_size=16)
    with pytest.raises(
        UnsupportedSourceError, match=rf"a Hub id or a folder; this is a {name}. `resize\(model, ...\)`"
    ):
        LOAD(source, hidden_size=16)


# ---- checkpoints


def test_truncated_weights(vit_folder):
    path = vit_folder / "model.safetensors"
    whole = path.read_bytes()
    for size in (len(whole) // 2, 100, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="vit` are truncated or no safetensors file: .*Fetch them again"):
            LOAD(vit_folder, hidden_size=16)


def test_a_truncated_pickle(config_only):
    (config_only / "pytorch_model.bin").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CheckpointError, match="vit` "):
        LOAD(config_only, hidden_size=16)


@pytest.mark.parametrize("text", ['{"model_type": "vit", "hidden', "[]", "{}", '{"model_type": "no_such_family"}'])
def test_an_unusable_config(vit_folder, text):
    (vit_folder / "config.json").write_text(text)
    for verb in (LOAD, plan):
        with pytest.raises(CheckpointError, match="folder `.*vit` holds no usable config.json: "):
            verb(vit_folder, hidden_size=16)


def test_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match="holds no usable config.json"):
        LOAD(tmp_path, hidden_size=16)


def test_weights_of_another_architecture(vit_folder, bert_folder):
    (bert_folder / "model.safetensors").replace(vit_folder / "model.safetensors")
    message = (
        r"does not fill ViTForImageClassification: 48 encoder tensors are absent, the first `vit.layers.0.*It holds "
        r"'bert\.embeddings.* and other names that do not load. Is it a checkpoint of another architecture\?"
    )
    with pytest.raises(CheckpointError, match=message):
        LOAD(vit_folder, hidden_size=16)


def test_a_checkpoint_that_lacks_one_encoder_tensor(vit_folder):
    from safetensors.torch import load_file, save_file

    state = load_file(vit_folder / "model.safetensors")
    del state["vit.encoder.layer.1.output.dense.bias"]
    save_file(state, vit_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 encoder tensors are absent, the first `vit.layers.1.mlp.fc2.bias`"):
        LOAD(vit_folder, hidden_size=16)


def test_weights_that_do_not_fit_their_config(vit_folder):
    edit_config(vit_folder, intermediate_size=44)
    with pytest.raises(CheckpointError, match="weights of `.*vit` do not fit its own config"):
        LOAD(vit_folder, hidden_size=16)


@pytest.mark.parametrize("verb", [LOAD, plan])
def test_an_id_that_is_not_cached_while_offline(verb, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = "No checkpoint `nobody/no-such-model` could be read: .*HF_HUB_OFFLINE is set, so only cached checkpoints and local"
    with pytest.raises(CheckpointError, match=message) as caught:
        verb("nobody/no-such-model", hidden_size=16, cache_dir=tmp_path)
    assert isinstance(caught.value, OSError)  # as transformers raises


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"format": 99, "package_version": "9.0"}, "has format 99, written by hf_learngene 9.0; .* up to format 1. Upgrade"),
        ("mine", "config.learngene is no record of this package: 'mine'. Remove it from config.json"),
        ({"format": "1"}, "config.learngene is no record of this package"),
    ],
)  # fmt: skip
def test_a_record_that_is_not_understood(config_only, record, message):
    edit_config(config_only, learngene=record)
    for verb in (LOAD, plan):
        with pytest.raises(ProvenanceError, match=message):
            verb(config_only, hidden_size=16)
    config = transformers.ViTConfig.from_pretrained(config_only)
    with pytest.raises(ProvenanceError, match=message):
        plan(config, hidden_size=16)


# ---- keywords of from_pretrained


@pytest.mark.parametrize(
    ("keyword", "value", "why"),
    [
        ("trust_remote_code", True, "code from a repository is never run here"),
        ("quantization_config", {"load_in_8bit": True}, "resize first, then quantize the result"),
        ("quantization_config", {}, "resize first, then quantize the result"),
        ("ignore_mismatched_sizes", True, "name the size you want instead"),
        ("config", {"hidden_size": 16}, "the sizes are given by name"),
        ("state_dict", {}, "give the model itself to `resize`"),
        ("output_loading_info", True, "`plan` tells what becomes of each tensor"),
    ],
)
def test_keywords_that_contradict_a_resize(config_only, keyword, value, why):
    with pytest.raises(UnknownOptionError, match=f"'{keyword}' cannot be used when resizing: .*{why}"):
        LOAD(config_only, hidden_size=16, **{keyword: value})
    with pytest.raises(CheckpointError, match="cannot be read"):  # switched off, it is no contradiction
        LOAD(config_only, hidden_size=16, **{keyword: None})


def test_a_keyword_that_transformers_refuses(vit_folder):
    with pytest.raises(CheckpointError, match="cannot be loaded as asked: .*dtype"):
        LOAD(vit_folder, hidden_size=16, dtype="float77")


def test_labels_that_contradict_each_other(config_only):
    two = {0: "cat", 1: "dog"}
    with pytest.raises(UnknownOptionError, match="num_labels=3, but id2label names 2 labels. Leave num_labels out"):
        LOAD(config_only, num_labels=3, id2label=two)
    with pytest.raises(UnknownOptionError, match="num_labels=3, but id2label names 2 labels"):
        LOAD(config_only, num_labels=3, label2id={"cat": 0, "dog": 1})
    for names in (["cat", "dog"], {1: "cat", 2: "dog"}, {"cat": 0}, 2):
        with pytest.raises(
            UnknownOptionError, match=r"id2label names the labels 0, 1, ...: \{0: 'cat', 1: 'dog'\}; it was"
        ):
            LOAD(config_only, id2label=names)


# ---- classes


def test_a_class_for_another_kind_of_checkpoint(vit_folder, bert_folder):
    class MyBert(ResizableMixin, transformers.BertModel): ...

    with pytest.raises(CheckpointError, match="vit` is a `vit` checkpoint, and MyBert loads `bert` ones"):
        MyBert.from_pretrained_resized(vit_folder, hidden_size=16)
    with pytest.raises(
        UnsupportedFamilyError, match="AutoModelForImageClassification knows no class for `bert` checkpoints"
    ):
        LOAD(bert_folder, hidden_size=16)
    with pytest.raises(CheckpointError, match="vit` is a `vit` checkpoint, and BertModel loads `bert` ones"):
        plan(vit_folder, model_class=transformers.BertModel, hidden_size=16)
    with pytest.raises(
        UnsupportedSourceError, match=r"BertModel is built from a BertConfig; this is a ViTConfig \(`vit`\)"
    ):
        plan(tiny_config("vit"), model_class=transformers.BertModel, hidden_size=16)


@pytest.mark.parametrize("base", [object, transformers.PreTrainedModel])
def test_the_mixin_without_a_model_class(base, tmp_path):
    mine = type("Mine", (ResizableMixin, base) if base is not object else (ResizableMixin,), {})
    with pytest.raises(
        UnsupportedSourceError, match="Mine does not descend from a model class .*`class MyViT.ResizableMixin, ViT"
    ):
        mine.from_pretrained_resized(tmp_path, hidden_size=16)
