"""What `verify` is given: models and inputs in the ways people try."""

from __future__ import annotations

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from hf_learngene import AutoLearngene, errors, verify


def vit():
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4)).eval()


def test_a_tensor_is_the_main_input():
    model = vit()
    pixels = torch.randn(2, 3, 8, 8)
    other = vit()
    assert verify(model, other, pixels) == verify(model, other, {"pixel_values": pixels})
    assert verify(model, model, inputs=pixels).function_preserving


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": torch.ones(1, 2)}, "'pixel_values', or that tensor alone; it was 'input_ids'"),
        ({}, "it was empty"), ([1, 2], "it was a list"), ("a.png", "it was a str"),
    ],
)  # fmt: skip
def test_other_inputs_are_refused(inputs, message):
    with pytest.raises(errors.UnknownOptionError, match=message):
        verify(vit(), vit(), inputs)


def test_what_is_no_model_is_refused(tmp_path):
    model = vit()
    for given in (str(tmp_path), tmp_path):
        with pytest.raises(errors.UnsupportedSourceError, match="is a path.*from_pretrained.*hf-learngene verify"):
            verify(model, given)
    with pytest.raises(errors.UnsupportedSourceError, match="this is a Linear"):
        verify(torch.nn.Linear(2, 2), model)
    learngene = AutoLearngene.from_ancestry(model, learngene_type="tleg")
    for pair in ((learngene, model), (model, learngene)):
        with pytest.raises(errors.UnsupportedSourceError, match="a learngene.*initialize"):
            verify(*pair)
    assert verify(model, learngene.initialize()).outputs.keys() == {"logits"}
