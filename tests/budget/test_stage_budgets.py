"""A parameter budget over the stages of a hierarchy: counted right, kept, and spent by measured error on examples."""

from __future__ import annotations

import pytest
import torch
import transformers

from hf_learngene import allocate, plan, resize
from hf_learngene.anatomy import anatomy_like, anatomy_of
from hf_learngene.budget.count import parameter_count
from hf_learngene.errors import InvalidSizeError
from hf_learngene.resizing.sizes import config_at
from testing.hierarchies import images_for, structured, tiny_hierarchy


SWIN, CONVNEXT = transformers.SwinConfig(), transformers.ConvNextConfig()
CLASSES = {"swin": transformers.SwinForImageClassification, "convnext": transformers.ConvNextForImageClassification}


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (SWIN, {}),
        (SWIN, {"num_hidden_layers.2": 4, "mlp_ratio": 2}),
        (SWIN, {f"hidden_size.{stage}": 64 * 2**stage for stage in range(4)}),
        (CONVNEXT, {"hidden_size.1": 100, "num_hidden_layers.0": 1, "num_labels": 7}),
    ],
)
def test_parameters_are_counted_as_a_model_of_these_sizes_has_them(config, sizes):
    model_class = CLASSES[config.model_type]
    anatomy = anatomy_of(config, model_class)
    built = anatomy_like(anatomy, config_at(config, anatomy, sizes), model_class)
    full = {n: v for n, v in built.sizes.items() if n in anatomy.sizes}
    assert parameter_count(anatomy)(full) == built.num_parameters


@pytest.mark.parametrize("config", [SWIN, CONVNEXT], ids=["swin", "convnext"])
@pytest.mark.parametrize("share", [0.6, 0.25])
def test_a_share_is_spent_on_all_stages_alike(config, share):
    made = plan(config, model_class=CLASSES[config.model_type], params=share, calibration=None)
    assert 0.6 * share < made.num_parameters / made.source_parameters <= share
    old, new = made.source.sizes, made.target.sizes
    shares = [new[f"hidden_size.{stage}"] / old[f"hidden_size.{stage}"] for stage in range(4)]
    assert max(shares) - min(shares) < 0.1


def test_widths_that_are_given_stay_and_the_ffn_takes_their_place():
    made = plan(SWIN, model_class=CLASSES["swin"], params=0.5, embed_dim=96, calibration=None)
    assert made.target_config.embed_dim == 96
    assert made.target_config.mlp_ratio < 4
    assert made.num_parameters <= 0.5 * made.source_parameters


def test_a_budget_that_is_no_smaller_or_too_small_is_refused():
    with pytest.raises(
        InvalidSizeError, match=r"A budget shrinks a hierarchy.*Give the sizes to grow it: depths, embed_dim"
    ):
        plan(SWIN, model_class=CLASSES["swin"], params="40M", calibration=None)
    with pytest.raises(InvalidSizeError, match=r"No size of `swin` in the source's proportions has at most 2,000"):
        plan(SWIN, model_class=CLASSES["swin"], params=2000, calibration=None)


def test_with_examples_depths_and_ffn_are_chosen_by_measured_error():
    source = structured(tiny_hierarchy("swin", dtype=torch.float32))
    given = {"calibration": images_for(source, 96), "calibration_top_up": False}
    sizes = {"depths": [2, 1, 3, 1]}  # leaves the ffn's ratio to the search
    found = allocate(source, 0.5, **given, **sizes)
    assert {name for trial in found.axes for name in trial.sizes if trial.sizes[name] != found.source.sizes[name]} == {
        "mlp_ratio"
    }
    assert found.sizes["num_hidden_layers.3"] == 1
    small = resize(source, params=0.5, **given, **sizes)
    assert small.num_parameters() <= 0.5 * source.num_parameters()
    assert (small.config.mlp_ratio, list(small.config.depths)) == (found.full["mlp_ratio"], [2, 1, 3, 1])
    assert [p["method"] for p in small.config.learngene["passes"]] == ["calibrated"]
