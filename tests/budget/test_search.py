"""A budget is spent where it costs least, within what a config can say, and the reasons are shown."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import default_data_collator

from hf_learngene import AutoModelForImageClassification, allocate, errors, resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.budget import search
from hf_learngene.budget.count import parameter_count
from hf_learngene.budget.meter import Budget
from hf_learngene.budget.search import FITTED, _axes, _between, _different, _Fitting, _split, allocated
from hf_learngene.budget.spend import metered
from hf_learngene.calibration.examples import Examples
from hf_learngene.resizing.sizes import complete, config_at
from testing.families import tiny_model
from testing.numerics import assert_close_for


def vit(**extra):
    return tiny_model("vit", "ViTForImageClassification", extra or None, dtype=torch.float32)


def pictures(model, count=64):
    generator = torch.Generator().manual_seed(0)
    size = model.config.image_size
    return [{"pixel_values": torch.randn(3, size, size, generator=generator)} for _ in range(count)]


def texts(count=64):
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(5, 60, (6 + i % 4,), generator=generator).tolist()} for i in range(count)]


def without_use(model, units, layers=()):
    """The same model with ffn units, and whole layers, that do next to nothing."""
    with torch.no_grad():
        for index, block in enumerate(model.vit.layers):
            block.mlp.fc2.weight[:, units:] *= 1e-4
            if index in layers:
                for module in (block.attention.o_proj, block.mlp.fc2):
                    module.weight *= 1e-4
                    module.bias *= 1e-4
    return model


def test_what_does_nothing_is_given_up_first():
    model = without_use(vit(), units=20)
    found = allocate(model, 0.8, pictures(model))
    assert found.sizes["intermediate_size"] <= 30
    assert found.sizes["hidden_size"] == 24
    lazy = without_use(vit(num_hidden_layers=4), units=40, layers=(1, 2))
    found = allocate(lazy, 0.65, pictures(lazy), hidden_size=24)
    assert found.sizes["num_hidden_layers"] == 2
    assert found.tried[0].error < 0.01


@pytest.mark.parametrize(("family", "name"), [("vit", "ViTForImageClassification"), ("bert", "BertForSequenceClassification"),
                                              ("dinov2", "Dinov2ForImageClassification"), ("bert", "BertModel")])  # fmt: skip
def test_the_budget_is_kept_and_the_best_of_the_tried_is_chosen(family, name):
    model = tiny_model(family, name, {"num_hidden_layers": 2}, dtype=torch.float32)
    examples = texts() if family == "bert" else pictures(model)
    found = allocate(model, 0.6, examples)
    assert found.tried[0].sizes == found.sizes
    assert [t.error for t in found.tried] == sorted(t.error for t in found.tried)
    made = resize(model, calibration=examples, **found.full)
    assert made.num_parameters() == found.tried[0].parameters <= 0.6 * model.num_parameters()
    said = str(found)
    assert "error per million saved" in said
    assert "chosen" in said
    alone = [t for t in found.axes if sum(v != found.source.sizes[n] for n, v in t.sizes.items()) == 1]
    assert alone == list(found.axes)


def test_heads_become_smaller_and_fewer_only_where_their_size_is_given():
    model = vit()
    anatomy = anatomy_of(model.config, type(model))
    assert _axes(anatomy, {})["head_dim"][0] == anatomy.sizes["head_dim"]
    assert "num_attention_heads" not in _axes(anatomy, {})
    found = allocate(model, 0.6, pictures(model), hidden_size=24, num_hidden_layers=anatomy.num_layers)
    assert {n for t in found.axes for n, v in t.sizes.items() if v != found.source.sizes[n]} == {
        "head_dim",
        "intermediate_size",
    }
    assert found.full["num_attention_heads"] == anatomy.sizes["num_attention_heads"]
    given = {"head_dim": anatomy.sizes["head_dim"], "hidden_size": 24, "num_hidden_layers": anatomy.num_layers}
    found = allocate(model, 0.6, pictures(model), **given)
    changed = {n for t in found.axes for n, v in t.sizes.items() if v != found.source.sizes[n]}
    assert changed == {"num_attention_heads", "intermediate_size"}


def test_a_size_given_by_name_stays():
    model = vit()
    made = resize(model, calibration=pictures(model), params=0.6, num_hidden_layers=3, hidden_size=24, num_labels=7)
    assert made.config.num_hidden_layers == 3
    assert made.classifier.weight.shape[0] == 7


def test_a_checkpoint_is_shrunk_to_a_budget(tmp_path):
    model = vit()
    model.save_pretrained(tmp_path)
    examples = pictures(model)
    given = {
        "params": 0.8,
        "calibration": examples,
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
    }
    made = AutoModelForImageClassification.from_pretrained_resized(tmp_path, **given)
    wanted = resize(model, **given)
    assert made.config.learngene["passes"][0]["method"] == "calibrated"
    # one was read from a file, and a refit makes roundings larger
    for a, b in zip(made.parameters(), wanted.parameters(), strict=True):
        assert_close_for(a, b, times=1e3)


def test_a_budget_holds_where_a_size_grows():
    model = vit(num_attention_heads=12)  # widths in steps of a head, which are small
    deeper = model.config.num_hidden_layers + 2
    made = resize(model, calibration=pictures(model), params=0.6, num_hidden_layers=deeper)
    assert made.config.num_hidden_layers == deeper
    assert 0.5 < made.num_parameters() / model.num_parameters() <= 0.6


def test_a_budget_that_grows_is_grown():
    model = vit()
    made = resize(model, calibration=pictures(model), params=round(2.5 * model.num_parameters()))
    assert made.config.learngene["passes"][0]["method"] == "lemon"


@pytest.mark.parametrize(
    ("params", "message"), [(0.001, "smallest budget for calibration"), (1.0, "nothing to shrink"), ("many", "such as '20M'")]
)  # fmt: skip
def test_budgets_that_cannot_be_met(params, message):
    model = vit()
    with pytest.raises(errors.InvalidSizeError, match=message):
        allocate(model, params, pictures(model))


def test_examples_are_split_evenly():
    assert [_split(n) for n in (1, 2, 3)] == [([0], [0]), ([1], [0]), ([1, 2], [0])]
    rest, held = _split(10)
    assert held == [0, 4, 9]
    assert sorted(rest + held) == list(range(10))


def short(count):
    return [{"input_ids": [5 + i % 50]} for i in range(count)]


def one_layer(units):
    extra = {"intermediate_size": units, "num_hidden_layers": 1}
    return tiny_model("bert", "BertForSequenceClassification", extra, dtype=torch.float32)


def test_a_trial_is_fitted_on_as_many_batches_as_it_needs():
    model = one_layer(280)
    examples = Examples(DataLoader(short(320), batch_size=32, collate_fn=default_data_collator), model)
    fitting = _Fitting(model, anatomy_of(model.config, type(model)), examples, _split(10)[0])
    found = [[len(b["input_ids"]) for b in fitting.on(rank).batches()] for rank in (0, 192, 193, 224)]
    assert found == [[32] * 6, [32] * 6, [32] * 7, [32] * 7]
    with pytest.raises(errors.CalibrationError, match="224 tokens to fit on cannot tell 225"):
        fitting.on(225)


@pytest.mark.parametrize("count", [96, 320, 704])
def test_larger_batches_are_fewer(count):
    model = one_layer(280)
    examples = Examples(short(count), model)  # one of 32, then of 64
    numbers = list(range(examples.num_batches))
    found = sum(
        len(b["input_ids"])
        for b in _Fitting(model, anatomy_of(model.config, type(model)), examples, numbers).on(0).batches()
    )
    assert found == count if count < FITTED else FITTED <= found < FITTED + 64


def test_too_few_tokens_to_try_sizes_out_are_refused():
    # three quarters of the units are more than the least has tokens
    chosen = allocate(one_layer(280), 0.7, short(320), hidden_size=24, num_hidden_layers=1)
    assert chosen.axes[0].sizes["intermediate_size"] > FITTED
    with pytest.raises(errors.CalibrationError, match="20 tokens to fit on cannot tell 30 .* sizes by name"):
        allocate(one_layer(40), 0.9, short(20), calibration_top_up=False, hidden_size=24, num_hidden_layers=1)


@pytest.mark.parametrize("units", [20, 40])
def test_what_is_given_by_name_counts_once(monkeypatch, units):
    model, made, totals = vit(num_hidden_layers=8), [], []
    anatomy = anatomy_of(model.config, type(model))

    def error_of(sizes):
        lost = (math.log(anatomy.sizes[n] / sizes[n]) for n in ("hidden_size", "num_hidden_layers"))
        return (0.5 if units < 40 else 0.0) + sum(v * v for v in lost)

    def shrink(sizes, part):
        made.append(sizes)
        return model

    def bar(total, **given):
        totals.append(total)
        return tqdm(total=total, disable=True)

    monkeypatch.setattr(search, "tqdm", bar)
    monkeypatch.setattr(search, "TRIED", 1)
    monkeypatch.setattr(search, "_distance", lambda found, wanted: error_of(made[-1]))
    fixed = {"intermediate_size": units, "num_attention_heads": 3}
    whole, at = partial(complete, anatomy, model.config), partial(config_at, model.config, anatomy)
    meter = metered(Budget("params", 0.5), anatomy, model.config, type(model), fixed, whole, at)
    found = allocated(model, anatomy, meter, Examples(pictures(model, 4), model), fixed, shrink)
    assert totals == [len(made)]
    assert (made[0] == {**{n: anatomy.sizes[n] for n in made[0]}, **fixed}) == (units < 40)
    count = parameter_count(anatomy)
    every = (
        {**fixed, "hidden_size": w, "num_hidden_layers": d, "head_dim": 8} for w in range(6, 25) for d in range(2, 9)
    )
    best = min(error_of(sizes) for sizes in every if count(sizes) <= 0.5 * anatomy.num_parameters)
    assert found.tried[0].error <= 1.1 * best


def test_between_measured_sizes_the_error_lies_between():
    curve = [(40, 0.0), (20, 0.1), (10, 0.5)]
    assert [_between(curve, n) for n in (40, 20, 10)] == pytest.approx([0.0, 0.1, 0.5])
    assert 0.1 < _between(curve, 15) < 0.5


def test_tried_sizes_differ():
    candidates = [{"a": 40, "b": 8}, {"a": 39, "b": 8}, {"a": 20, "b": 8}, {"a": 20, "b": 4}, {"a": 10, "b": 2}]
    names, old = ["a", "b"], {"a": 40, "b": 8}
    assert _different(candidates, names, old, lambda sizes: True) == [candidates[0], candidates[2], candidates[3]]
    assert _different(candidates, names, old, lambda sizes: sizes["a"] < 40) == [candidates[1], *candidates[2:4]]
