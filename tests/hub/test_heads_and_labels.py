"""A head of the checkpoint is kept where it fits, and one that does not is made anew: labels by number and by name."""

from __future__ import annotations

import pytest
import torch
import transformers

import hf_learngene
from hf_learngene import AutoModelForImageClassification, plan, resize
from testing.families import tiny_model
from testing.saving import same_weights


def test_a_base_checkpoint_under_a_task_class(tmp_path, warnings_of_resize):
    base = tiny_model("vit", "ViTModel", dtype=torch.float32)
    base.save_pretrained(tmp_path)
    small = AutoModelForImageClassification.from_pretrained_resized(tmp_path, hidden_size=16, num_labels=7)
    assert "not from the source: classifier.weight, classifier.bias" in warnings_of_resize.text
    assert small.classifier.weight.shape == (7, 16)
    assert 0 < small.classifier.weight.std() < 0.1  # the family's initialisation, not zeros and not the source's noise
    assert same_weights(small.vit, resize(base, hidden_size=16), ignore=["pooler"])


def test_a_base_checkpoint_under_a_larger_task_class_keeps_its_encoder(tmp_path, warnings_of_resize):
    base = tiny_model("bert", "BertModel", dtype=torch.float32)
    base.save_pretrained(tmp_path)
    request = {
        "hidden_size": 48,
        "method": "lemon",
        "symmetry": "equal",
    }  # no noise: it depends on a tensor's full name
    large = hf_learngene.AutoModelForSequenceClassification.from_pretrained_resized(tmp_path, **request)
    assert "not from the source: classifier" in warnings_of_resize.text
    assert same_weights(large.bert, resize(base, **request))
    assert not torch.equal(large.classifier.weight[:, :24], large.classifier.weight[:, 24:])  # no copies of noise


def test_a_head_of_the_checkpoint_is_kept(vit_folder, warnings_of_resize):
    small = AutoModelForImageClassification.from_pretrained_resized(
        vit_folder, hidden_size=12, num_attention_heads=3, calibration=None
    )
    source = transformers.ViTForImageClassification.from_pretrained(vit_folder)
    assert torch.equal(small.classifier.weight, source.classifier.weight[:, ::2])
    assert warnings_of_resize.text == ""


def test_another_number_of_labels_gives_a_fresh_head(vit_folder, warnings_of_resize):
    origins = {t.name: t.origin for t in plan(vit_folder, hidden_size=16, num_labels=7).tensors}
    assert origins["classifier.weight"] == origins["classifier.bias"] == "fresh (7 labels instead of 5)"
    small = AutoModelForImageClassification.from_pretrained_resized(vit_folder, hidden_size=16, num_labels=7)
    assert "not from the source: classifier.weight, classifier.bias" in warnings_of_resize.text
    assert small.classifier.weight.shape == (7, 16)
    assert len(small.config.id2label) == len(small.config.label2id) == small.config.num_labels == 7


@pytest.mark.parametrize(
    "given",
    [{"id2label": {0: "cat", 1: "dog"}}, {"label2id": {"cat": 0, "dog": 1}}, {"id2label": {"0": "cat", "1": "dog"}}],
)
def test_labels_by_name(vit_folder, tmp_path, given):
    small = AutoModelForImageClassification.from_pretrained_resized(vit_folder, hidden_size=16, **given)
    small.save_pretrained(tmp_path / "small")
    for config in (small.config, transformers.AutoConfig.from_pretrained(tmp_path / "small")):
        assert config.id2label == {0: "cat", 1: "dog"}
        assert config.label2id == {"cat": 0, "dog": 1}
        assert config.num_labels == 2
    assert small.classifier.out_features == 2


def test_names_for_the_same_number_of_labels_keep_the_head(vit_folder):
    names = dict(enumerate("abcde"))
    small = AutoModelForImageClassification.from_pretrained_resized(vit_folder, hidden_size=16, id2label=names)
    assert small.config.id2label == names
    assert same_weights(small, AutoModelForImageClassification.from_pretrained_resized(vit_folder, hidden_size=16))
