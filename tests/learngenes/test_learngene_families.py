"""Families whose sizes stand elsewhere, or whose layers differ, have learngenes or are refused in so many words."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import AutoLearngene
from hf_learngene.errors import InvalidSizeError, LossyGrowthError, UnsupportedFamilyError
from hf_learngene.learngenes import SwsConfig
from testing.families import inputs_for, tiny_model
from testing.learngenes import OPTIONS


KINDS = sorted(OPTIONS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("family", "name"), [("clip", "CLIPForImageClassification"), ("siglip", "SiglipForImageClassification")]
)
def test_the_depth_of_a_section_is_the_learngenes(kind, family, name):
    source = tiny_model(family, name)
    learngene = AutoLearngene.from_ancestry(source, kind, **OPTIONS[kind])
    assert learngene.config.auxiliary_depth == source.config.vision_config.num_hidden_layers
    made = learngene.initialize(num_hidden_layers=2)
    assert made.config.vision_config.num_hidden_layers == 2
    assert made(**inputs_for(source)).logits.isfinite().all()


def test_a_config_without_a_depth_is_refused():
    config = tiny_model("clip", "CLIPForImageClassification").config
    with pytest.raises(UnsupportedFamilyError, match="number of layers"):
        SwsConfig(
            base_config=config.to_dict() | {"vision_config": {"num_hidden_layers": 0}},
            base_architecture="CLIPForImageClassification",
        )


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_only_later_layers_have_need_more_than_one(kind):
    source = tiny_model("modernbert", "ModernBertForMaskedLM", {"num_hidden_layers": 2})
    options = {
        **OPTIONS[kind],
        **({"num_stages": 1} if kind == "sws" else {}),
        **({"learngene_layers": 1} if kind == "lets" else {}),
    }
    learngene = AutoLearngene.from_ancestry(source, kind, num_hidden_layers=1, **options)
    assert learngene.initialize().config.num_hidden_layers == 1
    said = r"attn_norm.weight`, which layer 1 .* more than 1 layers"
    if kind == "condensed":  # which grows, and a growth is proved before anything else
        said = r"attn_norm.weight` \(24,\) would start anew"
    with pytest.raises((InvalidSizeError, LossyGrowthError), match=said):
        learngene.initialize(num_hidden_layers=2)


def test_lets_refuses_a_width_whose_tables_it_has_no_map_for():
    source = tiny_model("data2vec-vision", "Data2VecVisionForImageClassification")
    learngene = AutoLearngene.from_ancestry(source, "lets", **OPTIONS["lets"])
    assert learngene.initialize(num_hidden_layers=2).config.num_hidden_layers == 2
    with pytest.raises(InvalidSizeError, match="relative_position_bias_table` has 3 entries .* keeps hidden_size=24"):
        learngene.initialize(hidden_size=16)


def test_the_layers_of_a_lets_descendant_are_the_users():
    source = tiny_model("vit", "ViTForImageClassification", {"num_hidden_layers": 6})
    layers = [5, 0, 2, 2]
    learngene = AutoLearngene.from_ancestry(source, "lets", layer_map=layers, learngene_layers=6)
    whole = learngene.initialize().vit.layers
    made = learngene.initialize(num_hidden_layers=4).vit.layers
    for layer, origin in zip(made, layers, strict=True):
        assert torch.equal(layer.mlp.fc1.weight, whole[origin].mlp.fc1.weight)
    spread = learngene.initialize(num_hidden_layers=3).vit.layers  # another depth has no list
    assert torch.equal(spread[2].mlp.fc1.weight, whole[5].mlp.fc1.weight)


@pytest.mark.parametrize("layers", [[], [6], [-1], [0.5], "01", 3, [True]])
def test_a_layer_map_names_layers_that_there_are(layers):
    source = tiny_model("vit", "ViTForImageClassification", {"num_hidden_layers": 6})
    with pytest.raises(InvalidSizeError, match="layer_map"):
        AutoLearngene.from_ancestry(source, "lets", layer_map=layers)


def test_what_holds_entries_for_each_layer_follows_the_depth():
    model = tiny_model("esm", "EsmModel", dtype=torch.float32)
    shallow = AutoLearngene.from_ancestry(model, learngene_type="wave").initialize(num_hidden_layers=2)
    weight = model.contact_head.regression.weight
    assert torch.equal(shallow.contact_head.regression.weight, weight[:, [0, 1, 2, 6, 7, 8]])


def test_a_convolution_whose_groups_part_the_width_keeps_it():
    model = tiny_model("wav2vec2", "Wav2Vec2Model", dtype=torch.float32)
    learngene = AutoLearngene.from_ancestry(model, learngene_type="wave")
    assert learngene.initialize(num_hidden_layers=4).config.num_hidden_layers == 4
    with pytest.raises(InvalidSizeError, match="keep hidden_size=24"):
        learngene.initialize(hidden_size=48)
