"""A budget without examples, for what is refitted: width alone, with all heads and layers."""

from __future__ import annotations

import pytest
import transformers

from hf_learngene import plan, resize
from testing.families import plan_of, tiny_model


CONFIGS = {
    "vit": transformers.ViTConfig(),
    "minilm": transformers.BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536),
    "distilbert": transformers.DistilBertConfig(),
}


@pytest.mark.parametrize("share", [0.75, 0.5, 0.25])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_heads_and_layers_stay_and_the_ffn_keeps_its_ratio(config, share):
    made = plan(config, params=share)
    old, new = made.source.sizes, made.target.sizes
    assert new["hidden_size"] < old["hidden_size"]
    assert (new["num_attention_heads"], new["num_hidden_layers"]) == (
        old["num_attention_heads"],
        old["num_hidden_layers"],
    )
    assert new["intermediate_size"] / new["hidden_size"] == old["intermediate_size"] / old["hidden_size"]
    assert new["hidden_size"] % 8 == 0
    assert 0.75 * share < made.num_parameters / made.source_parameters <= share


@pytest.mark.parametrize(
    "options", [{"calibration": None}, {"method": "weight_selection"}, {"method": "random"}], ids=str
)
def test_what_is_not_refitted_keeps_the_proportions(options):
    made = plan(CONFIGS["vit"], params=0.5, **options)
    assert made.target.sizes["num_hidden_layers"] < 12
    assert made.target.sizes["head_dim"] == 64


def test_rotated_heads_keep_their_size():
    made = plan_of("esm", "EsmForMaskedLM", {"position_embedding_type": "rotary"}, params=0.5)
    assert made.target.sizes["head_dim"] == made.source.sizes["head_dim"]


def test_what_is_given_stays():
    made = plan(CONFIGS["vit"], params=0.5, num_hidden_layers=8)
    assert (made.target.sizes["num_hidden_layers"], made.target.sizes["num_attention_heads"]) == (8, 12)
    assert plan(CONFIGS["vit"], params=0.5, num_attention_heads=6).target.sizes["num_attention_heads"] == 6
    assert plan(CONFIGS["vit"], params=0.5, hidden_size=768).target.sizes["hidden_size"] == 768


def test_where_heads_would_be_too_small_the_depth_shrinks_too():
    made = plan(CONFIGS["vit"], params=0.015)
    assert made.target.sizes["num_hidden_layers"] < 12
    assert made.num_parameters <= 0.015 * made.source_parameters


def test_it_is_made_as_it_was_planned():
    model = tiny_model("vit", "ViTForImageClassification", {"hidden_size": 48, "num_attention_heads": 3})
    made = plan(model, params=0.6)
    small = resize(model, params=0.6)
    assert small.num_parameters() == made.num_parameters
    assert small.config.num_hidden_layers == model.config.num_hidden_layers
