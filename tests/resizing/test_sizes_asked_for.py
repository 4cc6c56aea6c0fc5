"""Sizes as callers and checkpoints give them: bounds, numpy's whole numbers, near names, two encoders."""

from __future__ import annotations

import numpy as np
import pytest
import transformers

from hf_learngene import plan, resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.config_fields import check_bounds, largest
from hf_learngene.errors import InvalidSizeError, UnknownOptionError
from testing.families import plan_of, tiny_config, tiny_model


@pytest.mark.parametrize("size", ["num_hidden_layers", "num_labels", "hidden_size", "vocab_size", "intermediate_size"])
def test_a_size_beyond_its_bound_is_refused_before_anything_is_built(size, monkeypatch):
    config = tiny_config("bert")
    anatomy_of(config, transformers.BertModel)
    monkeypatch.setattr(transformers.BertModel, "__init__", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(InvalidSizeError, match=f"{size} is at most {largest(size):,}; it was 1,000,000,000."):
        plan(config, model_class=transformers.BertModel, **{size: 10**9})


def test_the_bound_holds_for_an_image_and_for_a_familys_own_names():
    with pytest.raises(InvalidSizeError, match="image_size is at most"):
        plan_of("vit", "ViTModel", image_size=(16, 10**6))
    with pytest.raises(InvalidSizeError, match="n_layers is at most 4,096"):
        plan_of("distilbert", "DistilBertModel", n_layers=10**5)


@pytest.mark.parametrize(
    ("kind", "name", "field"),
    [("bert", "BertModel", "num_hidden_layers"), ("distilbert", "DistilBertModel", "n_layers"),
     ("clip_vision_model", "CLIPVisionModel", "num_hidden_layers"), ("vit_mae", "ViTMAEModel", "decoder_num_hidden_layers")],
)  # fmt: skip
def test_a_config_from_a_checkpoint_is_bounded_too(kind, name, field):
    cls = getattr(transformers, name)
    config = tiny_config(kind, cls.main_input_name)
    setattr(config, field, 10**6)
    with pytest.raises(InvalidSizeError, match=f"{field} is at most 4,096; it was 1,000,000."):
        anatomy_of(config, cls)


def test_a_nested_config_from_a_checkpoint_is_bounded_too():
    config = tiny_config("clip", "pixel_values")
    config.vision_config.num_hidden_layers = 10**6
    with pytest.raises(InvalidSizeError, match="num_hidden_layers is at most"):
        anatomy_of(config, transformers.CLIPForImageClassification)


def test_plain_data_is_bounded_before_a_config_is_made_of_it():
    check_bounds({"num_labels": 1000, "architectures": ["BertModel"], "eos_token_id": 10**12, "use_cache": True})
    with pytest.raises(InvalidSizeError, match="num_labels is at most 1,000,000"):
        check_bounds({"num_labels": 10**9})


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_numpy_integers_are_whole_numbers(kind):
    made = resize(tiny_model("bert", "BertModel"), hidden_size=kind(16), num_hidden_layers=kind(2))
    assert (made.config.hidden_size, made.config.num_hidden_layers) == (16, 2)
    assert type(made.config.hidden_size) is int
    made.config.to_json_string()


@pytest.mark.parametrize("value", [np.float32(16), np.bool_(True), True, "16", None, 1.5])
def test_other_numbers_are_not(value):
    with pytest.raises(InvalidSizeError, match="num_hidden_layers is a whole number"):
        plan_of("bert", "BertModel", num_hidden_layers=value)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("tokenizer", "A tokenizer is processing_class="), ("inputs", "verify takes inputs"), ("overwrite", "save_resized"),
     ("hiden_size", "Did you mean 'hidden_size'"), ("num_hidden_layer", "Did you mean 'num_hidden_layers'"),
     ("intermediate", "Did you mean 'intermediate_size'")],
)  # fmt: skip
def test_a_keyword_that_is_no_size(name, wanted):
    with pytest.raises(UnknownOptionError, match=wanted):
        plan_of("bert", "BertModel", **{name: 3})


@pytest.mark.parametrize("name", ["tokenizer", "outcome", "batch", "dropout", "use_cache"])
def test_a_name_that_is_far_from_all_sizes_gets_no_guess(name):
    with pytest.raises(UnknownOptionError) as caught:
        plan_of("bert", "BertModel", **{name: 3})
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "source", [transformers.CLIPConfig, transformers.SiglipConfig, transformers.ChineseCLIPConfig]
)
def test_two_encoders_have_no_one_width(source):
    with pytest.raises(
        UnknownOptionError, match=r"hidden_size alone does not say which: .*vision_config \(hidden_size="
    ):
        plan(source(), hidden_size=384)


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("depth", "num_hidden_layers"),
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("ffn", "intermediate_size"),
        ("width", "hidden_size"),
    ],
)
def test_words_that_people_use_for_a_size_name_its_field(word, field):
    with pytest.raises(UnknownOptionError, match=f"Did you mean '{field}'"):
        plan(tiny_model("vit", "ViTModel"), **{word: 2})


def test_the_heads_of_the_source_are_named_where_they_divide_the_width():
    model = tiny_model("vit", "ViTModel")  # 3 heads of 8
    with pytest.raises(InvalidSizeError, match=r"\(num_attention_heads=3 as in the source, with heads of 7\)"):
        plan(model, hidden_size=21)
