"""A descendant is saved under the key names that the family's own fresh models are saved under."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig

from hf_learngene import AutoLearngene
from testing.families import tiny_model
from testing.learngenes import OPTIONS


pytestmark = pytest.mark.not_numeric


def saved_keys(model, folder):
    model.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  no mapping


@pytest.mark.parametrize("kind", sorted(OPTIONS))
@pytest.mark.parametrize(
    ("family", "name"),
    [("vit", "ViTForImageClassification"), ("bert", "BertForMaskedLM"), ("modernbert", "ModernBertForMaskedLM")],
)
def test_a_descendant_is_saved_as_a_fresh_model_is(kind, family, name, tmp_path):
    source = tiny_model(family, name, dtype=torch.float32)
    made = AutoLearngene.from_ancestry(source, kind, **OPTIONS[kind]).initialize(num_hidden_layers=2)
    found = saved_keys(made, tmp_path / "made")
    fresh = type(made)(AutoConfig.from_pretrained(tmp_path / "made"))
    assert found == saved_keys(fresh, tmp_path / "fresh")
    again = type(made).from_pretrained(tmp_path / "made").state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in made.state_dict().items())
