"""Sizes of a hierarchy: lists over its stages in the call, the plan and the saved config."""

from __future__ import annotations

import json
import logging

import pytest
import torch
import transformers

from hf_learngene import AutoLearngene, AutoModelForImageClassification, plan, resize, save_resized
from hf_learngene.errors import InvalidSizeError, UnknownOptionError, UnsupportedFamilyError
from hf_learngene.resizing import calibrating
from hf_learngene.resizing.weights import Transfer
from testing.families import inputs_for
from testing.hierarchies import furthest, images_for, tiny_hierarchy
from testing.saving import same_weights


SWIN, CONVNEXT = transformers.SwinForImageClassification, transformers.ConvNextForImageClassification


def sizes_of(config, cls=SWIN, **asked):
    return plan(config, model_class=cls, method="weight_selection", **asked).target_config


# ---- what is asked for, and what follows


def test_one_number_says_all_widths_of_swin():
    config = sizes_of(transformers.SwinConfig(), embed_dim=64, depths=[2, 2, 4, 2])
    assert (config.embed_dim, config.hidden_size, list(config.num_heads)) == (64, 512, [2, 4, 8, 16])
    assert list(config.depths) == [2, 2, 4, 2]
    assert type(config).from_dict(config.to_dict()).hidden_size == 512


@pytest.mark.parametrize(
    "asked",
    [
        {"embed_dim": 64},
        {"hidden_size": [64, 128, 256, 512]},
        {"embed_dim": 64, "num_attention_heads": (2, 4, 8, 16)},
        {"hidden_size.0": 64, "hidden_size.1": 128, "hidden_size.2": 256, "hidden_size.3": 512},
    ],
)
def test_spellings_of_the_same_widths(asked):
    assert (
        sizes_of(transformers.SwinConfig(), **asked).to_dict()
        == sizes_of(transformers.SwinConfig(), embed_dim=64).to_dict()
    )


def test_lists_say_the_widths_of_others():
    config = sizes_of(transformers.ConvNextConfig(), CONVNEXT, hidden_sizes=[96, 128, 200, 768], depths=(3, 3, 2, 1))
    assert list(config.hidden_sizes) == [96, 128, 200, 768]
    assert list(config.depths) == [3, 3, 2, 1]
    one = sizes_of(transformers.ConvNextConfig(), CONVNEXT, **{"depths.2": 4})
    assert list(one.depths) == [3, 3, 4, 3]


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"depths": 2}, InvalidSizeError, r"depths is a list of 4 whole numbers, one for each stage, such as .*; it was 2"),
        ({"num_hidden_layers": 6}, InvalidSizeError, r"num_hidden_layers is a list of 4 whole numbers"),
        ({"depths": [2, 2, 2]}, InvalidSizeError, r"depths is a list of 4 .* it had 3: \[2, 2, 2\]. The number of stages stays"),
        ({"depths": [2, 0, 2, 2]}, InvalidSizeError, r"depths\[1\] is at least 1; it was 0"),
        ({"depths": [2, 2, 1.5, 2]}, InvalidSizeError, r"depths\[2\] is a whole number; it was 1.5"),
        ({"depths": [2, 2, 10**6, 2]}, InvalidSizeError, r"depths\[2\] is at most 4,096"),
        ({"depths": "2,2,2,2"}, InvalidSizeError, r"depths is a list of 4 whole numbers"),
        ({"embed_dim": [64, 128, 256, 512]}, InvalidSizeError, r"embed_dim is one number, .* 2 times .* Give embed_dim=64"),
        ({"embed_dim": 50}, InvalidSizeError, r"stage 0=50 cannot keep .* of 32. .* embed_dim are 32 and 64"),
        ({"hidden_size": 384}, InvalidSizeError, r"hidden_size is a list of 4 .*, or embed_dim, the first of them; it was 384"),
        ({"hidden_size": [64, 128, 256, 500]}, InvalidSizeError, r"cannot be said. embed_dim=64 gives \[64, 128, 256, 512\]"),
        ({"num_heads": [3, 6, 12, 23]}, InvalidSizeError, r"stage 3=768 is not divisible by num_heads\[3\]=23. .* 24"),
        ({"depths.4": 2}, InvalidSizeError, r"depths.4: `swin` has the stages 0 to 3"),
        ({"depths.1": 1, "depths": [1, 1, 1, 1]}, InvalidSizeError, r"once more; give each size once"),
        ({"window_size": 14}, UnknownOptionError, r"`swin` has no size field 'window_size'; it has depths, embed_dim"),
        ({"intermediate_size": 64}, UnknownOptionError, r"`swin` has no size field 'intermediate_size'"),
    ],
)  # fmt: skip
def test_sizes_that_no_hierarchy_has(asked, error, message):
    with pytest.raises(error, match=message):
        sizes_of(transformers.SwinConfig(), **asked)


def test_widths_of_a_list_name_the_nearest_that_keep_the_heads():
    with pytest.raises(
        InvalidSizeError, match=r"hidden_sizes\[2\]=150 cannot keep .* of 32. The nearest widths are 128 and 160"
    ):
        sizes_of(
            transformers.SegformerConfig(),
            transformers.SegformerForImageClassification,
            hidden_sizes=[32, 64, 150, 256],
        )


# ---- the plan, and what is saved


def test_the_plan_shows_lists():
    shown = str(
        plan(transformers.SwinConfig(), model_class=SWIN, method="weight_selection", embed_dim=64, depths=[1, 2, 4, 2])
    )
    assert "hidden_size [96, 192, 384, 768] → [64, 128, 256, 512]" in shown
    assert "num_hidden_layers [2, 2, 6, 2] → [1, 2, 4, 2]" in shown
    assert "stage 0: num_hidden_layers 2 → 1, hidden_size 96 → 64, num_attention_heads 3 → 2; layers 0\n" in shown
    assert "stage 1: hidden_size 192 → 128, num_attention_heads 6 → 4\n" in shown
    assert "stage 2: num_hidden_layers 6 → 4, hidden_size 384 → 256, num_attention_heads 12 → 8; layers 0–3\n" in shown
    assert "selected 256 of 384" in shown


@pytest.mark.parametrize("kind", ["swin", "swinv2", "convnext", "hiera", "segformer"])
def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    source = tiny_hierarchy(kind, dtype=torch.float32)
    grown = resize(source, method="lemon", num_hidden_layers=[d + 1 for d in (source.config.depths)])
    save_resized(grown, tmp_path / "grown")
    loaded = type(grown).from_pretrained(tmp_path / "grown")
    assert same_weights(grown, loaded)
    assert furthest(grown, loaded, inputs_for(grown)) < 1e-6  # mapped memory lies otherwise, and kernels with it
    record = json.loads((tmp_path / "grown" / "config.json").read_text())["learngene"]
    assert record["sizes"]["num_hidden_layers"] == [d + 1 for d in source.config.depths]
    card = (tmp_path / "grown" / "README.md").read_text()
    assert "| depths |" in card
    assert "| num_layers |" not in card


def test_a_checkpoint_is_resized_as_it_is_loaded(tmp_path):
    source = tiny_hierarchy("convnext", dtype=torch.float32)
    source.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained_resized(
        tmp_path, hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 2, 1], method="weight_selection"
    )
    assert same_weights(
        loaded, resize(source, hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 2, 1], method="weight_selection")
    )


def test_weights_are_a_function_of_the_config_of_a_hierarchy_too():
    source = tiny_hierarchy("convnext")
    transfer = Transfer(source, plan(source, method="weight_selection", depths=[1, 1, 2, 1]).passes[0])
    config = sizes_of(source.config, CONVNEXT, hidden_sizes=[4, 8, 20, 16], depths=[2, 1, 1, 2])
    small = resize(source, method="weight_selection", hidden_sizes=[4, 8, 20, 16], depths=[2, 1, 1, 2])
    made = transfer.weights(config)
    assert made.keys() == dict(small.named_parameters()).keys()
    assert all(torch.equal(made[n], p) for n, p in small.named_parameters())


def test_what_was_resized_is_resized_again(tmp_path):
    source = tiny_hierarchy("swin", dtype=torch.float32)
    save_resized(resize(source, method="lemon", embed_dim=16), tmp_path / "wide")
    wide = SWIN.from_pretrained(tmp_path / "wide")
    deep = resize(wide, method="lemon", depths=[2, 3, 4, 2])
    assert len(deep.config.learngene["history"]) == 1
    assert furthest(source, deep, inputs_for(source)) < 1e-4


# ---- auto, and what is made for one width


def methods(model):
    return [p["method"] for p in model.config.learngene["passes"]]


def test_auto_grows_by_lemon_shrinks_by_calibrated_and_mixes(caplog):
    source = tiny_hierarchy("swin", dtype=torch.float32)
    given = {"calibration": images_for(source, 72), "calibration_top_up": False}
    assert methods(resize(source, embed_dim=16)) == ["lemon"]
    with caplog.at_level(logging.WARNING):
        small = resize(source, depths=[1, 1, 1, 1], mlp_ratio=2, **given)
        mixed = resize(source, depths=[1, 1, 3, 4], embed_dim=16, **given)
    assert "weight selection" not in caplog.text
    assert methods(small) == ["calibrated"]
    assert methods(mixed) == ["calibrated", "lemon"]
    assert (list(mixed.config.depths), mixed.config.embed_dim) == ([1, 1, 3, 4], 16)


def test_auto_selects_the_widths_that_cannot_be_calibrated_and_says_so_once(caplog, monkeypatch):
    monkeypatch.setattr(calibrating, "check_gain", lambda *_: None)  # random weights gain little (test_guard.py)
    source = tiny_hierarchy("swinv2", dtype=torch.float32)
    given = {"calibration": images_for(source, 72), "calibration_top_up": False}
    with caplog.at_level(logging.WARNING):
        small = resize(source, embed_dim=4, num_heads=[1, 2, 2, 4], depths=[1, 1, 2, 1], **given)
    assert methods(small) == ["calibrated", "weight_selection"]
    said = [r.getMessage() for r in caplog.records if "weight selection" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("Calibrating depth and ffn, and shrinking the widths by weight selection")
    calibrated = resize(source, method="calibrated", depths=[1, 1, 2, 1], **given)
    selection = {"method": "weight_selection", "layer_selection": "uniform"}
    wanted = resize(calibrated, embed_dim=4, num_heads=[1, 2, 2, 4], **selection)
    assert same_weights(small, wanted)
    record = small.config.learngene["calibration"]["agreement"]
    inputs = torch.stack([e["pixel_values"] for e in given["calibration"]])
    with torch.no_grad():
        same = (small(inputs).logits.argmax(1) == source(inputs).logits.argmax(1)).double().mean()
    assert abs(record["value"] - float(same)) < 0.35, (
        "not that of what was calibrated, whose widths were cut behind it"
    )


def test_without_examples_auto_shrinks_by_weight_selection():
    source = tiny_hierarchy("swin", dtype=torch.float32)
    assert methods(resize(source, depths=[1, 1, 1, 1], calibration=None)) == ["weight_selection"]


@pytest.mark.parametrize("budget", ["flops", "latency"])
def test_budgets_other_than_of_parameters_refuse_a_hierarchy(budget):
    with pytest.raises(
        UnsupportedFamilyError, match=rf"{budget}= spends .* of 4 stages.*take them: depths=, embed_dim="
    ):
        plan(transformers.SwinConfig(), model_class=SWIN, **{budget: 0.5})


@pytest.mark.parametrize("kind", ["fine", "lets", "condensed"])
def test_learngenes_that_make_one_width_refuse_a_hierarchy(kind):
    with pytest.raises(UnsupportedFamilyError, match=r"layers of one width.*hierarchy of 4 stages.*`sws`.*take"):
        AutoLearngene.from_ancestry(tiny_hierarchy("swin", dtype=torch.float32), learngene_type=kind)
