"""Which methods a resize takes, and what examples it looks at, when callers leave that open and when they say it."""

from __future__ import annotations

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from hf_learngene import errors, plan, resize, synthetic_examples
from hf_learngene.resizing.auto import AutoModelForImageClassification
from testing.families import tiny_model


@pytest.fixture
def vit():
    return tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)


@pytest.fixture
def bert():
    return tiny_model("bert", "BertForSequenceClassification", dtype=torch.float32)


def images(count):
    generator = torch.Generator().manual_seed(1)
    config = tiny_model("vit", "ViTForImageClassification").config
    shape = config.num_channels, config.image_size, config.image_size
    return [{"pixel_values": torch.randn(shape, generator=generator)} for _ in range(count)]


def half(model):
    return {"intermediate_size": model.config.intermediate_size // 2}


def methods(model):
    return [step["method"] for step in model.config.learngene["passes"]]


def test_a_shrink_is_calibrated_on_made_up_examples(vit, bert):
    for model in (vit, bert):
        small = resize(model, **half(model))
        assert methods(small) == ["calibrated"]
        said = small.config.learngene["calibration"]
        assert said["examples"] == "synthetic"
        assert said["count"] > 0
        assert said["tokens"] > said["count"]


def test_by_name_it_is_the_same_and_seeds_tell_models_apart(vit):
    first, named, other = (
        resize(vit, **half(vit), **options) for options in ({}, {"calibration": "synthetic"}, {"seed": 1})
    )
    weights = first.state_dict()
    assert all(torch.equal(weights[n], value) for n, value in named.state_dict().items())
    assert not all(torch.equal(weights[n], value) for n, value in other.state_dict().items())


def test_it_is_the_shrink_on_the_same_examples_given(vit):
    made = resize(vit, **half(vit)).state_dict()
    given = resize(vit, calibration=synthetic_examples(vit), **half(vit))
    assert given.config.learngene["calibration"]["examples"] == "given"
    assert all(torch.equal(made[n], value) for n, value in given.state_dict().items())


def test_without_examples_entries_are_selected(vit):
    small = resize(vit, calibration=None, **half(vit))
    assert methods(small) == ["weight_selection"]
    assert "calibration" not in small.config.learngene
    assert plan(vit, calibration=None, **half(vit)).method == "weight_selection"


def test_a_plan_says_what_will_be_looked_at(vit):
    made = plan(vit, **half(vit))
    assert (made.method, made.examples) == ("calibrated", "synthetic")
    assert "made-up examples" in str(made)
    assert plan(vit.config, model_class=type(vit), **half(vit)).examples == "synthetic"
    assert plan(vit, num_hidden_layers=20).examples is None


def test_what_neither_shrinks_nor_grows_is_not_calibrated(vit):
    same = resize(vit)
    assert methods(same) == ["weight_selection"]
    assert all(torch.equal(a, b) for a, b in zip(vit.state_dict().values(), same.state_dict().values(), strict=True))


def test_ranked_methods_take_made_up_examples_where_they_need_no_labels(vit):
    small = resize(vit, method="minitron", **half(vit))
    assert small.config.learngene["calibration"]["examples"] == "synthetic"
    with pytest.raises(errors.CalibrationError, match="with labels"):
        resize(vit, method="taylor", **half(vit))
    with pytest.raises(errors.CalibrationError, match=r"labels, and made-up examples have none.*method='calibrated'"):
        resize(vit, method="taylor", calibration="synthetic", **half(vit))


def test_a_method_that_needs_examples_cannot_do_without(vit):
    with pytest.raises(errors.CalibrationError, match="method='calibrated' looks at examples"):
        plan(vit, method="calibrated", calibration=None, **half(vit))
    with pytest.raises(errors.UnknownOptionError, match="'l2' looks at no examples"):
        plan(vit, method="l2", calibration="synthetic", **half(vit))


def test_inputs_that_cannot_be_made_up(monkeypatch):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}
    monkeypatch.setattr(
        "hf_learngene.resizing.route.why_not", lambda *_: errors.SyntheticExamplesError("values", "why")
    )
    config = ViTConfig(**sizes, image_size=8, patch_size=4)
    said = []
    monkeypatch.setattr("hf_learngene.resizing.route.logger.warning", lambda text, *values: said.append(text % values))
    assert plan(config, model_class=ViTForImageClassification, intermediate_size=12).method == "weight_selection"
    assert said == [
        "The inputs of `vit` cannot be made up, so it is shrunk by weight selection, which needs training. Give examples "
        "(calibration=), and the result works before any."
    ]
    with pytest.raises(errors.SyntheticExamplesError, match="'values' cannot be made up: why.*calibration="):
        plan(config, model_class=ViTForImageClassification, intermediate_size=12, calibration="synthetic")
    with pytest.raises(errors.SyntheticExamplesError):
        plan(config, model_class=ViTForImageClassification, intermediate_size=12, method="calibrated")


def test_sizes_that_cannot_be_calibrated_are_selected_and_that_is_said(vit, monkeypatch):
    said = []
    monkeypatch.setattr("hf_learngene.resizing.route.logger.warning", lambda text, *values: said.append(text % values))
    heads, size = vit.config.num_attention_heads, vit.config.hidden_size // vit.config.num_attention_heads
    sizes = {"num_attention_heads": heads // 2, "head_dim": 2 * size, **half(vit)}
    assert plan(vit, **sizes).method == "weight_selection"
    assert len(said) == 1
    assert "keeps heads whole" in said[0]
    with pytest.raises(errors.DirectionError, match="keeps heads whole"):
        plan(vit, calibration=images(64), **sizes)


def test_what_examples_are_counted_in_changes_behind_them(vit):
    side = vit.config.image_size
    small = resize(vit, image_size=2 * side, **half(vit))
    assert methods(small) == ["calibrated", "geometry"]
    assert small(pixel_values=torch.zeros(1, vit.config.num_channels, 2 * side, 2 * side)).logits.isfinite().all()
    before, after = resize(vit, **half(vit)).state_dict(), small.state_dict()
    others = [n for n, value in before.items() if value.shape != after[n].shape]
    assert others == ["vit.embeddings.position_embeddings"]
    assert all(torch.equal(value, after[n]) for n, value in before.items() if n not in others)


def test_too_few_examples_are_topped_up(vit):
    few = images(1)
    small = resize(vit, calibration=few, **half(vit))
    said = small.config.learngene["calibration"]
    assert said["examples"] == "given and synthetic"
    assert said["count"] > 1
    with pytest.raises(errors.CalibrationError, match="cannot tell"):
        resize(vit, calibration=few, calibration_top_up=False, **half(vit))


def test_the_checkpoint_brings_its_own_processor(vit, tmp_path):
    vit.save_pretrained(tmp_path)
    plain = AutoModelForImageClassification.from_pretrained_resized(tmp_path, **half(vit))
    side = vit.config.image_size
    ViTImageProcessorPil(
        size={"height": side, "width": side}, image_mean=[0.1] * 3, image_std=[0.9] * 3
    ).save_pretrained(tmp_path)
    read = AutoModelForImageClassification.from_pretrained_resized(tmp_path, **half(vit))
    assert any(
        not torch.equal(a, b) for a, b in zip(plain.state_dict().values(), read.state_dict().values(), strict=True)
    )


def test_a_model_with_the_processor_of_another_size_sees_its_own(vit):
    side = 2 * vit.config.image_size
    processor = ViTImageProcessorPil(size={"height": side, "width": side})
    made = synthetic_examples(vit, processor, count=4)
    assert made["pixel_values"][:].shape[-1] == vit.config.image_size
    assert methods(resize(vit, processing_class=processor, **half(vit))) == ["calibrated"]


def test_a_new_head_is_not_asked_whether_it_agrees(vit):
    side = vit.config.image_size
    shape = vit.config.num_channels, side, side
    given = [{"pixel_values": torch.randn(shape, generator=torch.Generator().manual_seed(i))} for i in range(80)]
    kinds = [
        resize(vit, calibration=given, **half(vit), **labels).config.learngene["calibration"]["agreement"]["kind"]
        for labels in ({}, {"num_labels": 9})
    ]
    assert kinds == ["same top class", "cosine of embeddings"]
