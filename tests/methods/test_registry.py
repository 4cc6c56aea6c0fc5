"""Which method `auto` takes, methods as objects, and methods of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from hf_learngene import plan, resize, verify
from hf_learngene.errors import InvalidSizeError, UnknownOptionError
from hf_learngene.methods import (
    METHODS,
    Front,
    Layers,
    Lemon,
    Method,
    WeightSelection,
    register_method,
    registered_methods,
)
from hf_learngene.methods.registry import option_owners
from testing.families import inputs_for, tiny_model
from testing.method_tester import shipped


# ---- auto


@pytest.mark.parametrize(
    ("task_", "wanted"),
    [
        ({"hidden_size": 16}, "calibrated"),
        ({"num_hidden_layers": 2}, "calibrated"),
        ({"hidden_size": 16, "num_attention_heads": 4}, "weight_selection"),  # more heads, but of a smaller total
        ({"image_size": 16}, "weight_selection"),  # neither grows nor shrinks: kept, and the grid interpolated
        ({}, "weight_selection"),
        ({"hidden_size": 40}, "lemon"),
        ({"num_hidden_layers": 4}, "lemon"),
        ({"intermediate_size": 50, "num_hidden_layers": 4}, "lemon"),
        ({"hidden_size": 48, "num_hidden_layers": 2}, "calibrated+lemon"),
        ({"hidden_size": 16, "num_hidden_layers": 5}, "calibrated+lemon"),
        ({"intermediate_size": 20, "num_attention_heads": 4, "head_dim": 8}, "calibrated+lemon"),
        (
            {"hidden_size": 48, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 40},
            "calibrated+lemon",
        ),
    ],
    ids=str,
)
def test_auto_shrinks_what_shrinks_then_grows_what_grows(task_, wanted):
    model = tiny_model("vit", "ViTForImageClassification")
    assert plan(model, **task_).method == wanted
    made = resize(model, **task_)
    assert {n: getattr(made.config, n) for n in task_} == task_
    assert torch.isfinite(made(**inputs_for(made)).logits).all()
    if wanted == "lemon":
        assert verify(model, made, inputs_for(model)).function_preserving


def test_a_mixed_resize_is_the_selection_and_then_a_growth_of_it():
    model = tiny_model("bert", "BertForMaskedLM")
    mixed = resize(model, hidden_size=48, num_hidden_layers=2, intermediate_size=30)
    selected = resize(model, method="calibrated", num_hidden_layers=2, intermediate_size=30)
    assert verify(selected, mixed, inputs_for(model)).function_preserving
    origins = {t.name: t for t in plan(model, hidden_size=48, num_hidden_layers=2, intermediate_size=30).tensors}
    up = origins["bert.encoder.layer.1.intermediate.dense.weight"]
    assert up.origin == "selected 30 of 40, then duplicated ×2"
    assert (up.source_shape, up.shape) == ((40, 24), (30, 48))


# ---- registry and objects


def test_a_method_that_comes_along_is_a_file_of_its_name():
    assert registered_methods() == ["auto", *sorted(METHODS)]
    assert {name: METHODS[name].__module__ for name in shipped()} == {
        n: f"hf_learngene.methods.{n}" for n in shipped()
    }
    assert {"weight_selection", "lemon", "calibrated"} <= set(shipped())


def test_an_option_is_known_by_its_method():
    assert option_owners("symmetry") == ["lemon", "ligo", "mango"]
    assert option_owners("rank") == ["mango"]
    assert option_owners("hidden_size") == []


@pytest.mark.parametrize(
    ("method", "name", "options"),
    [
        (WeightSelection(element_selection="consecutive"), "weight_selection", {"element_selection": "consecutive"}),
        (Lemon(symmetry="equal"), "lemon", {"symmetry": "equal"}),
        (Layers([0, 1]), "layers", {"layer_map": [0, 1]}),
        (Front(), "front", {}),
    ],
)
def test_an_object_is_as_good_as_its_name(method, name, options):
    model = tiny_model("vit", "ViTForImageClassification", dtype=torch.float32)
    sizes = {} if name == "layers" else {"hidden_size": 48 if name == "lemon" else 16}
    by_object, by_name = resize(model, method=method, **sizes), resize(model, method=name, **options, **sizes)
    expected = by_name.state_dict()
    assert all(torch.equal(p, expected[n]) for n, p in by_object.state_dict().items())
    assert by_object.config.learngene == by_name.config.learngene


def test_a_method_of_ones_own():
    @dataclass(frozen=True)
    class Halves(WeightSelection):
        """The last entries of every axis, times a factor."""

        name: ClassVar[str] = "halves_of_mine"

        factor: float = 2.0

        def _index(self, old, new, *_):
            return torch.arange(old - new, old)

        def ops(self, tensor, task):
            from hf_learngene.maps import Scale

            return [*super().ops(tensor, task), Scale(self.factor)]

    assert register_method(Halves) is Halves
    try:
        assert "halves_of_mine" in registered_methods()
        assert register_method(Halves) is Halves  # once more is no error
        model = tiny_model("vit", "ViTForImageClassification")
        small = resize(model, method="halves_of_mine", factor=3.0, hidden_size=16)
        assert torch.allclose(small.vit.layernorm.weight, 3.0 * model.vit.layernorm.weight[-16:])
        (stage,) = small.config.learngene["passes"]
        assert (stage["method"], stage["options"]["factor"]) == ("halves_of_mine", 3.0)
        with pytest.raises(
            UnknownOptionError, match="'factor' is an option of method 'halves_of_mine', not of 'lemon'"
        ):
            resize(model, method="lemon", factor=3.0, hidden_size=48)
    finally:
        METHODS.pop("halves_of_mine")
    assert "halves_of_mine" not in registered_methods()


def test_a_method_that_forgets_a_width_is_told_which():
    class Forgetful(Method):
        name = "forgetful"
        shrinks = True

    with pytest.raises(
        InvalidSizeError, match=r"cls_token` \(kept\) makes \(1, 1, 24\), and the model has \(1, 1, 16\)"
    ):
        resize(tiny_model("vit", "ViTForImageClassification"), method=Forgetful(), hidden_size=16)


@pytest.mark.parametrize("name", ["", "auto", "My method", "Lemon", "lemon-2", "2nd"])
def test_names_that_a_method_cannot_have(name):
    with pytest.raises(UnknownOptionError, match=r"name is lower_snake_case and not 'auto'; Mine has"):
        register_method(type("Mine", (Method,), {"name": name}))
    assert name == "auto" or name not in METHODS


def test_a_name_that_is_taken():
    with pytest.raises(UnknownOptionError, match="The name 'lemon' is taken by Lemon"):
        register_method(type("Lemonade", (Method,), {"name": "lemon"}))
    assert METHODS["lemon"] is Lemon
