"""`from_pretrained_resized`: whatever form a checkpoint has, its weights arrive, and the result is an ordinary model."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from transformers.utils import logging

import hf_learngene
from hf_learngene import AutoModel, AutoModelForImageClassification, AutoModelForMaskedLM, ResizableMixin, plan, resize
from testing.families import tiny_model
from testing.saving import same_weights


class MyViT(ResizableMixin, transformers.ViTModel):
    """A base model under the mixin: transformers takes it for custom code."""


class MyViTForImageClassification(ResizableMixin, transformers.ViTForImageClassification):
    """The same with a head."""


def saved_keys(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return list(file.keys())


# ---- forms of a checkpoint


def test_a_checkpoint_under_the_names_of_transformers_4(vit_folder):
    assert "vit.encoder.layer.0.attention.attention.query.weight" in saved_keys(vit_folder)
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    assert "vit.layers.0.attention.q_proj.weight" in model.state_dict()
    small = AutoModelForImageClassification.from_pretrained_resized(
        vit_folder, hidden_size=16, calibration=None, num_hidden_layers=2
    )
    assert type(small) is transformers.ViTForImageClassification
    assert same_weights(small, resize(model, hidden_size=16, calibration=None, num_hidden_layers=2))


def test_a_sharded_checkpoint(tmp_path):
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    large = AutoModelForMaskedLM.from_pretrained_resized(tmp_path, hidden_size=48)
    assert same_weights(large, resize(model, hidden_size=48))


def test_a_pickled_checkpoint(tmp_path):
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    small = AutoModelForMaskedLM.from_pretrained_resized(tmp_path, hidden_size=16, calibration=None)
    assert same_weights(small, resize(model, hidden_size=16, calibration=None))


@pytest.mark.parametrize("method", ["weight_selection", "front"])
def test_a_bfloat16_checkpoint_stays_so_and_is_computed_in_float32(tmp_path, method):
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    small = AutoModelForImageClassification.from_pretrained_resized(
        tmp_path, hidden_size=16, calibration=None, method=method
    )
    exact = resize(copy.deepcopy(model).float(), hidden_size=16, calibration=None, method=method)
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    assert small.config.dtype == torch.bfloat16
    assert same_weights(small, exact.to(torch.bfloat16))


def test_a_growth_in_bfloat16_rounds_once(tmp_path):
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    large = AutoModelForImageClassification.from_pretrained_resized(tmp_path, hidden_size=40, num_hidden_layers=4)
    exact = resize(copy.deepcopy(model).float(), hidden_size=40, num_hidden_layers=4)
    assert {p.dtype for p in large.parameters()} == {torch.bfloat16}
    assert same_weights(large, exact.to(torch.bfloat16))


# ---- classes


def test_a_subclass_of_a_base_model_gets_the_checkpoints_weights(vit_folder, tmp_path):
    """Loaded as the custom class, every encoder layer would stay random: transformers converts no names for it."""
    mine = MyViT.from_pretrained_resized(vit_folder, hidden_size=16, calibration=None)
    assert type(mine) is MyViT
    assert not mine.training
    source = transformers.ViTModel.from_pretrained(vit_folder)
    assert same_weights(
        mine, resize(source, hidden_size=16, calibration=None), ignore=["pooler"]
    )  # the checkpoint has no pooler
    mine.save_pretrained(tmp_path / "mine")
    for cls in (MyViT, transformers.ViTModel, transformers.AutoModel):
        again = cls.from_pretrained(tmp_path / "mine")
        assert isinstance(again, transformers.ViTModel)
        assert same_weights(mine, again)
    twice = MyViT.from_pretrained_resized(tmp_path / "mine", hidden_size=8, calibration=None)
    assert same_weights(twice, resize(mine, hidden_size=8, calibration=None))


def test_a_subclass_of_a_task_model(vit_folder, tmp_path):
    mine = MyViTForImageClassification.from_pretrained_resized(vit_folder, hidden_size=48)
    plain = AutoModelForImageClassification.from_pretrained_resized(vit_folder, hidden_size=48)
    assert type(mine) is MyViTForImageClassification
    assert type(plain) is transformers.ViTForImageClassification
    assert same_weights(mine, plain)
    mine.save_pretrained(tmp_path / "mine")
    assert same_weights(transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "mine"), plain)
    assert type(resize(mine, hidden_size=16, calibration=None)) is MyViTForImageClassification


def test_auto_classes_take_the_class_of_their_task(bert_folder):
    assert (
        type(AutoModel.from_pretrained_resized(bert_folder, hidden_size=16, calibration=None))
        is transformers.BertModel
    )
    assert (
        type(AutoModelForMaskedLM.from_pretrained_resized(bert_folder, hidden_size=16, calibration=None))
        is transformers.BertForMaskedLM
    )


def test_one_tower_of_a_two_tower_checkpoint(tmp_path):
    model = tiny_model("clip", "CLIPForImageClassification", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    small = AutoModelForImageClassification.from_pretrained_resized(tmp_path, hidden_size=16, calibration=None)
    assert small.config.vision_config.hidden_size == 16
    assert same_weights(small, resize(model, hidden_size=16, calibration=None))


def test_auto_classes_still_load_as_their_parents_do(vit_folder):
    native = transformers.AutoModelForImageClassification.from_pretrained(vit_folder)
    assert same_weights(AutoModelForImageClassification.from_pretrained(vit_folder), native)


# ---- provenance


def test_the_record_tells_where_a_model_comes_from_and_chains(vit_folder, tmp_path):
    first = AutoModelForImageClassification.from_pretrained_resized(
        vit_folder,
        hidden_size=16,
        calibration=None,
        method="weight_selection",
        element_selection="consecutive",
        seed=3,
    )
    record = first.config.learngene
    assert record["source"] == "vit"  # the folder's name, nothing of the machine
    assert record["package_version"] == hf_learngene.__version__
    assert record["seed"] == 3
    assert record["sizes"] == {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 27}
    (stage,) = record["passes"]
    assert stage["method"] == "weight_selection"
    assert stage["options"]["element_selection"] == "consecutive"
    assert record["history"] == []

    first.save_pretrained(tmp_path / "first")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "first").learngene == record
    assert str(tmp_path) not in (tmp_path / "first" / "config.json").read_text()
    second = AutoModelForImageClassification.from_pretrained_resized(tmp_path / "first", hidden_size=32)
    second.save_pretrained(tmp_path / "second")
    third = AutoModelForImageClassification.from_pretrained_resized(
        tmp_path / "second", method="layers", layer_map=[0, 2]
    )
    third.save_pretrained(tmp_path / "third")
    loaded = transformers.AutoConfig.from_pretrained(tmp_path / "third").learngene
    assert loaded == third.config.learngene
    assert [entry["passes"][0]["method"] for entry in loaded["history"]] == ["weight_selection", "lemon"]
    assert [entry["source"] for entry in loaded["history"]] == ["vit", "first"]
    assert all("history" not in entry for entry in loaded["history"])
    assert loaded["source"] == "second"
    assert loaded["passes"] == [{"method": "layers", "options": {"layer_map": [0, 2]}}]
    assert loaded["sizes"] == {"num_hidden_layers": 2}


def test_a_mixed_resize_records_both_stages(vit_folder):
    mixed = AutoModelForImageClassification.from_pretrained_resized(
        vit_folder, hidden_size=48, num_hidden_layers=2, calibration=None
    )
    assert [stage["method"] for stage in mixed.config.learngene["passes"]] == ["weight_selection", "lemon"]
    assert mixed.config.learngene["history"] == []
    json.dumps(mixed.config.learngene)


# ---- randomness and memory


REQUESTS = [
    {"hidden_size": 48, "num_hidden_layers": 4},
    {"hidden_size": 16, "method": "weight_selection", "element_selection": "random"},
    {"hidden_size": 16, "method": "random"},
    {"hidden_size": 16, "num_labels": 9},
]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_equal_seeds_give_equal_models(vit_folder, request_):
    load = AutoModelForImageClassification.from_pretrained_resized
    torch.manual_seed(1)
    one = load(vit_folder, seed=5, **request_)
    torch.manual_seed(2)
    two = load(vit_folder, seed=5, **request_)
    other = load(vit_folder, seed=6, **request_)
    assert same_weights(one, two)
    assert not same_weights(one, other)


def test_what_a_checkpoint_lacks_is_drawn_under_the_seed_too(vit_folder):
    torch.manual_seed(1)
    one = MyViT.from_pretrained_resized(vit_folder, hidden_size=16, calibration=None)  # no pooler in the checkpoint
    torch.manual_seed(2)
    assert same_weights(one, MyViT.from_pretrained_resized(vit_folder, hidden_size=16, calibration=None))
    assert not same_weights(one, MyViT.from_pretrained_resized(vit_folder, hidden_size=16, calibration=None, seed=1))


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_no_generator_of_the_caller_moves(vit_folder, request_, monkeypatch):
    def refuse(seed):
        raise AssertionError("the generators of the accelerator were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    model = MyViT.from_pretrained(vit_folder)
    task = transformers.ViTForImageClassification.from_pretrained(vit_folder)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    resize(task, **request_)
    resize(model, **{k: v for k, v in request_.items() if k != "num_labels"})
    MyViT.from_pretrained_resized(vit_folder, **request_)  # loads with a pooler that the checkpoint lacks
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("request_", [*REQUESTS, {}, {"num_hidden_layers": 2}], ids=str)
def test_the_source_is_left_alone_and_shares_no_memory(request_):
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32).train()
    model.vit.layernorm.bias.requires_grad_(False)
    before, config = copy.deepcopy(model), model.config.to_dict()
    made = resize(model, **request_)
    assert model.training
    assert not made.training
    assert model.config.to_dict() == config
    assert made.config is not model.config
    assert same_weights(model, before)
    owned = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert owned.isdisjoint(p.untyped_storage().data_ptr() for p in made.parameters())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    assert same_weights(model, before)
    assert all(p.requires_grad for p in made.parameters())


def test_copies_in_the_result_share_no_memory_with_each_other():
    model = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    stacked = resize(model, method="layers", layer_map=[0, 1, 2, 0, 1, 2])
    pointers = [p.untyped_storage().data_ptr() for p in stacked.parameters()]
    assert len(set(pointers)) == len(pointers)
    assert stacked.get_input_embeddings().weight is stacked.get_output_embeddings().weight  # but ties stay ties


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_a_model_on_an_accelerator_stays_there(request_):
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    wanted = resize(model, **request_)
    made = resize(model.cuda(), **request_)
    assert {p.device.type for p in made.parameters()} == {"cuda"}
    assert same_weights(made.cpu(), wanted)


# ---- keywords


def test_keywords_of_from_pretrained_pass_through(vit_folder, tmp_path, monkeypatch):
    seen = {}
    native = transformers.ViTForImageClassification.from_pretrained.__func__

    def spy(cls, source, *args, **kwargs):
        if source is not None:
            seen.update(kwargs)
        return native(cls, source, *args, **kwargs)

    monkeypatch.setattr(transformers.ViTForImageClassification, "from_pretrained", classmethod(spy))
    small = AutoModelForImageClassification.from_pretrained_resized(
        vit_folder,
        hidden_size=16,
        calibration=None,
        revision="v1.0",
        cache_dir=tmp_path / "cache",
        token="secret",
        local_files_only=True,
        attn_implementation="eager",
        dtype=torch.float64,
    )
    assert seen["revision"] == "v1.0"
    assert seen["cache_dir"] == tmp_path / "cache"
    assert seen["token"] == "secret"
    assert seen["local_files_only"] is True
    assert {p.dtype for p in small.parameters()} == {torch.float64}
    assert small.config._attn_implementation == "eager"
    assert "secret" not in json.dumps(small.config.to_dict(), default=str)


@pytest.mark.parametrize("dtype", ["float64", torch.float64])
def test_dtype_is_that_of_the_arithmetic(vit_folder, dtype):
    small = AutoModelForImageClassification.from_pretrained_resized(
        vit_folder, hidden_size=16, calibration=None, method="front", dtype=dtype
    )
    source = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32).double()
    assert same_weights(small, resize(source, hidden_size=16, calibration=None, method="front"))


def test_a_subfolder(vit_folder):
    small = AutoModelForImageClassification.from_pretrained_resized(
        vit_folder.parent, subfolder="vit", hidden_size=16, calibration=None
    )
    assert same_weights(
        small, AutoModelForImageClassification.from_pretrained_resized(vit_folder, hidden_size=16, calibration=None)
    )


def test_a_checkpoint_from_the_hubs_cache(vit_folder, tmp_path):
    """An id, its revisions, and the commit in the record, with no network: a cache laid out by hand."""
    cache, commit = tmp_path / "cache", "0123456789abcdef0123456789abcdef01234567"
    repository = cache / "models--someone--tiny-vit"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    vit_folder.rename(repository / "snapshots" / commit)
    for revision in ("main", commit):
        small = AutoModelForImageClassification.from_pretrained_resized(
            "someone/tiny-vit", hidden_size=16, calibration=None, cache_dir=cache, revision=revision
        )
        assert small.config.learngene["source"] == "someone/tiny-vit"
        assert small.config.learngene["source_commit"] == commit
    assert (
        plan("someone/tiny-vit", cache_dir=cache, hidden_size=16, calibration=None).num_parameters
        == small.num_parameters()
    )


def test_loading_is_as_silent_as_the_caller_wants(vit_folder, warnings_of_resize):
    level = logging.get_verbosity()
    AutoModelForImageClassification.from_pretrained_resized(vit_folder, hidden_size=16, calibration=None)
    assert logging.get_verbosity() == level
    assert warnings_of_resize.text == ""


def test_the_weights_on_disk_are_those_in_memory(vit_folder, tmp_path):
    large = AutoModelForImageClassification.from_pretrained_resized(vit_folder, hidden_size=48, num_hidden_layers=4)
    large.save_pretrained(tmp_path / "large")
    on_disk = load_file(tmp_path / "large" / "model.safetensors")
    assert sum(t.numel() for t in on_disk.values()) == large.num_parameters()
    assert torch.equal(
        on_disk["vit.encoder.layer.3.attention.attention.query.weight"], large.vit.layers[3].attention.q_proj.weight
    )
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "large")
    assert again.config.layer_norm_eps == large.config.layer_norm_eps
    assert same_weights(again, large)
