"""Budgets of FLOPs and of time are kept like those of parameters: never exceeded, by nothing that is larger than its source."""

from __future__ import annotations

import pytest
import torch
import transformers

from hf_learngene import allocate, errors, plan, resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.budget import latency as timing
from hf_learngene.budget.flops import flop_count, flops
from hf_learngene.budget.meter import Budget
from testing.families import tiny_config, tiny_model


pytestmark = pytest.mark.not_numeric


FAMILIES = [("vit", "ViTForImageClassification"), ("bert", "BertForMaskedLM"), ("modernbert", "ModernBertForMaskedLM"),
            ("dinov2", "Dinov2Model"), ("distilbert", "DistilBertModel")]  # fmt: skip


def small(source, target):
    return all(target.sizes[n] <= size for n, size in source.sizes.items())


@pytest.fixture
def clock(monkeypatch):
    """A machine that takes a second for each thousand FLOPs, and a tenth for each layer."""
    monkeypatch.setattr(timing, "_WATCHES", type(timing._WATCHES)())

    def seconds(config, model_class):
        depth = getattr(config, "num_hidden_layers", None) or config.n_layers
        return flops(config, model_class) / 1e3 + 0.1 * depth

    def begin(self, config, model_class):
        self.model_class, self.seconds, self.config = model_class, seconds(config, model_class), config

    monkeypatch.setattr(timing.Stopwatch, "__init__", begin)
    monkeypatch.setattr(timing.Stopwatch, "time", lambda self, config: seconds(config, self.model_class))


@pytest.mark.parametrize(("kind", "class_name"), FAMILIES)
def test_flops_at_other_sizes_are_those_of_the_model(kind, class_name):
    config, cls = tiny_config(kind), getattr(transformers, class_name)
    count = flop_count(anatomy_of(config, cls), config, cls)
    made = plan(config, model_class=cls, calibration=None, hidden_size=16, num_hidden_layers=2)
    full = {n: made.target.sizes[n] for n in made.source.sizes if n in made.target.sizes}
    assert count({}) == flops(config, cls)
    assert count(full) == flops(made.target_config, cls) < flops(config, cls)


def test_flops_are_two_for_each_weight_and_token():
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    tokens, width, ffn = 128, 16, 32
    attention = 4 * tokens**2 * width
    linear = 2 * tokens * (4 * width * width + 2 * width * ffn)
    assert (
        flops(config, transformers.BertModel) == attention + linear + 2 * width * width
    )  # and the pooler, on one token


@pytest.mark.parametrize(("quantity", "share"), [("flops", 0.6), ("latency", 0.3)])
@pytest.mark.parametrize(("kind", "class_name"), FAMILIES)
def test_a_ceiling_is_kept(clock, kind, class_name, quantity, share):
    made = plan(
        tiny_config(kind), model_class=getattr(transformers, class_name), calibration=None, **{quantity: share}
    )
    amount = made.meter.exact(made.target.sizes)
    assert 0.15 * share < amount / made.meter.source <= share
    assert small(made.source, made.target)
    assert made.meter.told(made.meter.source) in str(made)


@pytest.mark.parametrize("quantity", ["params", "flops", "latency"])
def test_a_search_keeps_a_ceiling(clock, quantity):
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    examples = [{"pixel_values": torch.randn(3, 12, 12, generator=generator)} for _ in range(64)]
    found = allocate(model, calibration=examples, hidden_size=24, **{quantity: 0.7})
    assert all(trial.amount <= 0.7 * found.source.amount for trial in found.tried)
    made = resize(model, calibration=examples, **found.full)
    used = plan(model, calibration=None, **{quantity: 0.7}).meter.exact(anatomy_of(made.config, type(made)).sizes)
    assert used == pytest.approx(found.tried[0].amount)
    assert "saved" in str(found)


def test_flops_at_another_resolution_are_counted_there():
    config = transformers.ViTConfig()
    made = plan(config, flops=0.5, image_size=448, calibration=None)
    assert flops(made.target_config, transformers.ViTModel) <= 0.5 * flops(config, transformers.ViTModel)
    assert made.target_config.image_size == 448
    assert made.num_parameters < plan(config, flops=0.5, calibration=None).num_parameters / 2


def test_amounts_with_their_units():
    assert Budget("flops", "2G").ceiling(1e12) == 2_000_000_000
    assert Budget("flops", "0.5").ceiling(1e12) == 500_000_000_000
    assert Budget("latency", "20ms").ceiling(1.0) == pytest.approx(0.02)
    assert Budget("latency", "1s").ceiling(3.0) == 1.0
    assert Budget("latency", 0.5).ceiling(3.0) == 1.5
    for quantity, amount, hint in (("flops", "20ms", "'4G'"), ("latency", "4G", "'20ms'"), ("latency", -1, "a share")):
        with pytest.raises(errors.InvalidSizeError, match=f"{quantity} is a number such as .*{hint}"):
            plan(tiny_config("vit"), **{quantity: amount})


def test_one_budget_at_a_time():
    with pytest.raises(errors.UnknownOptionError, match="params and latency are budgets"):
        plan(tiny_config("vit"), params=0.5, latency=0.5)
    with pytest.raises(errors.InvalidSizeError, match="allocate spends a budget"):
        allocate(tiny_model("vit", "ViTModel"))


def test_time_is_measured_in_turns_and_known_afterwards():
    config, cls = tiny_config("vit"), transformers.ViTModel
    watch = timing.stopwatch(config, cls)
    assert watch is timing.stopwatch(config, cls)
    assert watch.seconds > 0
    deep = cls.config_class(**{**config.to_dict(), "num_hidden_layers": 24})
    assert watch.time(deep) == watch.time(deep) > 1.5 * watch.seconds


def test_what_is_fitted_adds_up():
    def seconds(at):
        return 2.0 + 3.0 * at["depth"]

    told = timing.fitted(
        [({"depth": n}, seconds({"depth": n})) for n in (1, 2, 4)], lambda at: (1.0, at["depth"], at["depth"] ** 2)
    )
    assert told({"depth": 8}) == pytest.approx(26.0, rel=1e-6)
    falling = timing.fitted([({"depth": 1}, 3.0), ({"depth": 2}, 2.0)], lambda at: (1.0, at["depth"]))
    assert falling({"depth": 100}) > 0  # no time is negative


@pytest.mark.parametrize(
    ("kind", "class_name"), [f for f in FAMILIES if f[0] != "dinov2"]
)  # its ffn is a ratio of the width
def test_where_the_width_stays_the_ffn_takes_its_place(kind, class_name):
    config, cls = tiny_config(kind), getattr(transformers, class_name)
    width = anatomy_of(config, cls).sizes["hidden_size"]
    made = plan(config, model_class=cls, params=0.9, hidden_size=width, calibration=None)
    assert made.target.sizes["hidden_size"] == width
    assert made.target.sizes["intermediate_size"] < made.source.sizes["intermediate_size"]
    assert 0.7 * made.source_parameters < made.num_parameters <= 0.9 * made.source_parameters
    kept = plan(
        config,
        model_class=cls,
        params=0.9,
        hidden_size=width,
        intermediate_size=made.source.sizes["intermediate_size"],
    )
    assert kept.target.sizes["intermediate_size"] == made.source.sizes["intermediate_size"]


def test_a_budget_passes_over_widths_that_a_family_cannot_be_built_with():
    """MobileBERT's decoder takes what its width has beyond the embeddings': none that is narrower than these is a model."""
    model = tiny_model("mobilebert", "MobileBertForMaskedLM")
    made = plan(model, params=0.9, calibration=None)
    assert made.target.sizes["hidden_size"] >= model.config.embedding_size
    assert made.num_parameters <= 0.9 * made.source_parameters
    with pytest.raises(errors.InvalidSizeError, match="`mobilebert` cannot be built with|No size"):
        plan(model, params=0.9, hidden_size=8, calibration=None)
