"""Fields of a config that speak of layers by their index follow the layer map; lists that only look like it stay."""

from __future__ import annotations

import pytest
import torch
import transformers

from hf_learngene import plan, resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.layer_lists import per_layer_fields
from testing.families import model_class, plan_of, randomise, tiny_config


def target(kind, class_name, extra=None, **request):
    return plan_of(kind, class_name, extra, **request).target_config


# ---- one entry for each layer


@pytest.mark.parametrize(
    ("kind", "name", "extra", "wanted"),
    [
        ("modernbert", "ModernBertModel", {}, ("layer_types",)),
        ("longformer", "LongformerModel", {"attention_window": [4, 8, 8]}, ("attention_window",)),
        ("longformer", "LongformerModel", {}, ()),
        ("beit", "BeitModel", {"num_hidden_layers": 4}, ()),  # pool_scales has four entries
        ("data2vec-vision", "Data2VecVisionModel", {"num_hidden_layers": 4}, ()),  # and out_indices
        ("deberta", "DebertaModel", {"num_hidden_layers": 2}, ()),  # pos_att_type has two
        ("vit", "ViTModel", {"num_hidden_layers": 2, "image_size": (12, 20)}, ()),
        ("bert", "BertModel", {}, ()),
    ],
)
def test_lists_of_the_layers_are_told_from_lists_of_their_length(kind, name, extra, wanted):
    cls = model_class(name)
    config = tiny_config(kind, cls.main_input_name, **extra)
    assert per_layer_fields(cls, config, "") == wanted
    assert anatomy_of(config, cls).per_layer == wanted


@pytest.mark.parametrize("depth", [2, 5])
@pytest.mark.parametrize("method", ["auto", "random"])
@pytest.mark.parametrize("kind", ["beit", "data2vec-vision"])
def test_a_list_as_long_as_the_depth_by_chance_stays(kind, depth, method):
    name = {"beit": "BeitModel", "data2vec-vision": "Data2VecVisionModel"}[kind]
    made = target(kind, name, {"num_hidden_layers": 4}, num_hidden_layers=depth, method=method)
    assert tuple(made.pool_scales) == (1, 2, 3, 6)


def test_more_random_layers_than_the_source_has_take_after_it_in_turn():
    full, sliding = "full_attention", "sliding_attention"
    made = target("modernbert", "ModernBertModel", method="random", num_hidden_layers=5)
    assert made.layer_types == [full, sliding, full, full, sliding]
    windows = target(
        "longformer", "LongformerModel", {"attention_window": [4, 8, 16]}, method="random", num_hidden_layers=4
    )
    assert windows.attention_window == [4, 8, 16, 4]


# ---- indices of layers


def vitdet(**extra):
    torch.manual_seed(0)
    config = transformers.VitDetConfig(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=3, image_size=16, patch_size=4, window_size=2,
        window_block_indices=[0, 2], **extra,
    )  # fmt: skip
    return randomise(transformers.VitDetBackbone(config).double()).eval()


def test_windowed_layers_stay_windowed():
    model = vitdet()
    assert plan(model, method="layers", layer_map=[2, 1, 0]).target_config.window_block_indices == [0, 2]
    assert plan(model, method="layers", layer_map=[1, 3]).target_config.window_block_indices == []
    assert plan(model, method="layers", layer_map=[1, 2, 3]).target_config.window_block_indices == [1]
    # each of the last two layers is followed by one that is made from it
    assert plan(model, method="lemon", num_hidden_layers=6).target_config.window_block_indices == [0, 2, 3]
    assert model.config.window_block_indices == [0, 2]


def test_a_grown_backbone_hands_out_what_it_did():
    model = vitdet(out_indices=[0, 1, 3, 4])
    grown = resize(model, method="lemon", num_hidden_layers=6)
    assert list(grown.config.out_indices) == [0, 1, 4, 6]
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    for before, after in zip(model(pixels).feature_maps, grown(pixels).feature_maps, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["Dinov2Backbone", "BeitBackbone", "Dinov2WithRegistersBackbone"])
def test_stages_of_layers_that_left_go_to_the_nearest_kept(name):
    cls = model_class(name)
    kind = cls.config_class.model_type
    config = tiny_config(kind, "pixel_values", num_hidden_layers=6, out_indices=[2, 4, 6])
    picked = plan(config, model_class=cls, method="layers", layer_map=[0, 3, 5]).target_config
    assert list(picked.out_indices) == [1, 2, 3]  # layers 1, 3 and 5
    one = plan(config, model_class=cls, num_hidden_layers=1).target_config
    assert list(one.out_indices) == [1]
    assert one.out_features == ["stage1"]
    again = type(picked).from_dict(picked.to_dict())
    assert list(again.out_indices) == [1, 2, 3]


def test_a_negative_stage_counts_from_the_end():
    config = tiny_config("dinov2", "pixel_values", num_hidden_layers=4, out_indices=[-3, -1])
    made = plan(config, model_class=transformers.Dinov2Backbone, method="layers", layer_map=[1, 3]).target_config
    assert list(made.out_indices) == [1, 2]


def test_an_index_of_no_layer_names_none_of_a_smaller_model():
    """Sam3's default names layers that a shallow one has not; counted from the start again, they made its windows global."""
    cls = transformers.Sam3ViTModel
    config = tiny_config("sam3_vit_model", "pixel_values", global_attn_indexes=[1, 7])
    made = plan(config, model_class=cls, method="layers", layer_map=[0, 2]).target_config
    assert list(made.global_attn_indexes) == []
    kept = plan(config, model_class=cls, method="layers", layer_map=[1, 2]).target_config
    assert list(kept.global_attn_indexes) == [0]
