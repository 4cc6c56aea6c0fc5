"""LoRA follows its base in twenty families: the base grown with its adapter, and the adapter carried to the grown base."""

from __future__ import annotations

import copy

import pytest

from hf_learngene import resize, resize_adapter
from testing.adapters import adapted, assert_same_logits, lora, reloaded
from testing.families import tiny_model


GROWN = {"hidden_size": 48, "num_hidden_layers": 4, "intermediate_size": 96}
FAMILIES = [
    ("vit", "ViTForImageClassification"),
    ("deit", "DeiTForImageClassification"),
    ("beit", "BeitForImageClassification"),
    ("dinov2", "Dinov2ForImageClassification"),
    ("ijepa", "IJepaForImageClassification"),
    ("siglip", "SiglipForImageClassification"),
    ("clip", "CLIPForImageClassification"),
    ("bert", "BertForMaskedLM"),
    ("roberta", "RobertaForMaskedLM"),
    ("distilbert", "DistilBertForMaskedLM"),
    ("electra", "ElectraForSequenceClassification"),
    ("mpnet", "MPNetForTokenClassification"),
    ("albert", "AlbertForSequenceClassification"),
    ("deberta-v2", "DebertaV2ForSequenceClassification"),
    ("modernbert", "ModernBertForMaskedLM"),
    ("megatron-bert", "MegatronBertForMaskedLM"),
    ("roformer", "RoFormerForSequenceClassification"),
    ("layoutlm", "LayoutLMForTokenClassification"),
    ("audio-spectrogram-transformer", "ASTForAudioClassification"),
    ("vivit", "VivitForVideoClassification"),
    ("vilt", "ViltForQuestionAnswering"),
    ("esm", "EsmForMaskedLM"),
]


@pytest.mark.parametrize(("kind", "name"), FAMILIES)
def test_base_and_adapter_grow_alike(kind, name, tmp_path):
    model = tiny_model(kind, name)
    sizes = {n: v for n, v in GROWN.items() if kind != "albert" or n != "num_hidden_layers"}  # its layers are one
    source = adapted(model, lora())
    grown = resize(model, method="lemon", **sizes)
    base = copy.deepcopy(grown)  # what is carried to it wraps its modules
    carried = resize_adapter(source, grown)
    assert_same_logits(carried, source, model)
    together = resize(source, method="lemon", **sizes)
    assert_same_logits(together, source, model)
    assert_same_logits(reloaded(carried, base, tmp_path), source, model)
    assert_same_logits(together.merge_and_unload(), source, model)
