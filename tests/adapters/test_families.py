"""LoRA follows its base in every kind of family: the base grown with its adapter, and the adapter carried to the grown base."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from hf_learngene import resize, resize_adapter
from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.stages import listed
from testing.adapters import adapted, assert_same_logits, lora, reloaded
from testing.families import randomise, tiny_model


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


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("swin", "SwinForImageClassification"),
        ("convnextv2", "ConvNextV2ForImageClassification"),
        ("segformer", "SegformerForImageClassification"),
        ("hiera", "HieraForImageClassification"),
    ],
)
def test_hierarchies_grow_alike(kind, name):
    model = tiny_model(kind, name)
    source = adapted(model, lora())
    own = listed(anatomy_of(model.config, type(model)).sizes)
    sizes = {
        "hidden_size": [2 * n for n in own["hidden_size"]],
        "num_hidden_layers": [n + 1 if i else n for i, n in enumerate(own["num_hidden_layers"])],
    }
    assert_same_logits(resize(source, method="lemon", **sizes), source, model)
    assert_same_logits(resize_adapter(source, resize(model, method="lemon", **sizes)), source, model)


def test_both_towers_grow_alike():
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 2}
    config = transformers.CLIPConfig(
        text_config={**sizes, "vocab_size": 30, "max_position_embeddings": 8, "eos_token_id": 1},
        vision_config={**sizes, "image_size": 12, "patch_size": 4},
        projection_dim=8,
    )
    model = randomise(transformers.CLIPModel(config).double().eval())
    source = adapted(model, lora())
    grown = {"vision_config.hidden_size": 48, "text_config.num_hidden_layers": 3, "text_config.intermediate_size": 60}
    inputs = {"input_ids": torch.arange(8).unsqueeze(0), "pixel_values": torch.randn(1, 3, 12, 12).double()}
    wanted = source(**inputs).logits_per_image
    for made in (
        resize(source, method="lemon", **grown),
        resize_adapter(source, resize(model, method="lemon", **grown)),
    ):
        torch.testing.assert_close(made(**inputs).logits_per_image, wanted, rtol=0, atol=1e-10)
