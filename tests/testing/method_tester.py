"""What holds for every method: a new one is tested by being registered.

What applies to it follows from its class variables, and which sizes it can make is asked of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from hf_learngene import plan, resize, verify
from hf_learngene.anatomy import anatomy_of
from hf_learngene.calibration.examples import Examples
from hf_learngene.errors import CalibrationError, DirectionError, InvalidSizeError, UnknownOptionError
from hf_learngene.methods import METHODS, PruningMethod
from testing.examples import examples_for
from testing.families import inputs_for, plan_of
from testing.numerics import RELATIVE, assert_close_for
from testing.saving import tokenizer


# of a method that learns
FEW_STEPS = {"max_steps": 2, "disable_tqdm": True}
# What is asked for, the first that the method does not refuse: most make widths and depth, some depth alone.
SMALLER = ({"hidden_size": 16, "num_hidden_layers": 2}, {"num_hidden_layers": 2}, {"hidden_size": 16}, {})
LARGER = ({"hidden_size": 48, "num_hidden_layers": 5}, {"num_hidden_layers": 5}, {})
# of three heads as large, where a family lets them part from the width
FEWER_HEADS = {"num_attention_heads": 2, "head_dim": 8, "hidden_size": 24}
# Options without a default: (smaller, larger) of a model with three layers.
NEEDED = {"layers": ({"layer_map": [0, 2]}, {"layer_map": [0, 1, 1, 2]})}


def shipped() -> list[str]:
    """Names of the methods that come along; those that other tests register are theirs."""
    return sorted(name for name, method in METHODS.items() if method.__module__.startswith("hf_learngene."))


def methods_that(**flags: bool) -> list[str]:
    """Names of the methods that come along and whose class variables say so: `methods_that(shrinks=True)`."""
    return [name for name in shipped() if all(getattr(METHODS[name], flag) == value for flag, value in flags.items())]


def makes(name: str, **sizes: Any) -> bool:
    """Whether a method makes these sizes of a tiny BERT."""
    try:
        plan_of("bert", "BertForSequenceClassification", method=name, **sizes)
    except DirectionError:
        return False
    return True


class MethodTester:
    """One method on one tiny model of three layers, width 24 and three heads."""

    def __init__(self, name: str, model: PreTrainedModel) -> None:
        self.method, self.model = METHODS[name], model
        self.directions = [d for d in ("shrinks", "grows") if getattr(self.method, d)]
        self.examples = examples_for(model, labels=True)

    def request(self, direction: str) -> dict[str, Any]:
        """Keywords of a resize in a direction, without examples."""
        larger = direction == "grows"
        options = NEEDED.get(self.method.name, ({}, {}))[larger]
        for sizes in LARGER if larger else SMALLER:
            request = {"method": self.method.name, **options, **sizes}
            try:
                plan(self.model, **request)
            except (DirectionError, InvalidSizeError):
                continue
            return request
        raise AssertionError(
            f"{self.method.name} says that it {direction}, and makes none of {LARGER if larger else SMALLER}"
        )

    def given(self, **more: Any) -> dict[str, Any]:
        """The examples, where the method looks at any or is trained on some."""
        if self.method.learns:
            reads = tokenizer() if self.model.main_input_name == "input_ids" else None
            return {"train_dataset": self.examples, "training": FEW_STEPS, "processing_class": reads, **more}
        return {"calibration": self.examples, **more} if self.method.needs_examples else more

    def resized(self, direction: str, **more: Any) -> PreTrainedModel:
        return resize(self.model, **self.request(direction), **self.given(**more))

    def check_a_plain_model_of_the_planned_shape(self) -> None:
        for direction in self.directions:
            made, planned = self.resized(direction), plan(self.model, **self.request(direction))
            assert type(made) is type(self.model)
            assert made.dtype == self.model.dtype
            assert not made.training
            assert all(p.requires_grad for p in made.parameters())
            assert [tuple(p.shape) for p in made.parameters()] == [tuple(t.shape) for t in planned.tensors]
            assert made.num_parameters() == planned.num_parameters
            outputs = made(**inputs_for(made))
            assert all(torch.isfinite(v).all() for v in outputs.values() if isinstance(v, torch.Tensor))
            own = dict(made.named_parameters(remove_duplicate=False))
            assert all(own[a] is own[b] for a, b in anatomy_of(made.config, type(made)).ties.items())

    def check_a_seed_gives_one_model(self) -> None:
        for direction in self.directions:
            state = torch.random.get_rng_state()
            first, again = (self.resized(direction, seed=3) for _ in range(2))
            assert same_bits(first.state_dict(), again.state_dict())
            assert torch.equal(torch.random.get_rng_state(), state)

    def check_the_source_stays_as_it_is(self) -> None:
        before = {n: t.clone() for n, t in self.model.state_dict().items()}
        config = self.model.config.to_json_string()
        for training in (False, True):  # as the Trainer leaves a model
            self.model.train(training)
            try:
                for direction in self.directions:
                    self.resized(direction)
                assert [m.training for m in self.model.modules()] == [training] * len(list(self.model.modules()))
            finally:
                self.model.eval()
        assert same_bits(self.model.state_dict(), before)
        assert self.model.config.to_json_string() == config
        assert all(p.grad is None and p.requires_grad for p in self.model.parameters())

    def check_the_record_says_what_was_done(self) -> None:
        for direction in self.directions:
            record = self.resized(direction, seed=5).config.learngene
            assert json.loads(json.dumps(record)) == record
            (step,) = record["passes"]
            assert step["method"] == self.method.name
            assert record["seed"] == 5
            assert set(self.method.option_names()) <= step["options"].keys()

    def check_it_saves_and_loads_as_any_model(self, folder: Path) -> None:
        for direction in self.directions:
            made = self.resized(direction)
            made.save_pretrained(folder / direction)
            again = type(made).from_pretrained(folder / direction, dtype=made.dtype)
            assert same_bits(again.state_dict(), made.state_dict())

    def check_what_is_lossless_keeps_the_function(self) -> None:
        if self.method.lossless:
            report = verify(self.model, self.resized("grows"), inputs_for(self.model))
            assert report.function_preserving
            assert report.relative <= RELATIVE[self.model.dtype]

    def check_the_other_direction_is_refused(self) -> None:
        for direction, sizes in (("grows", {"intermediate_size": 80}), ("shrinks", {"intermediate_size": 20})):
            if direction not in self.directions:
                options = NEEDED.get(self.method.name, ({}, {}))[direction == "grows"]
                with pytest.raises(DirectionError):
                    plan(self.model, method=self.method.name, **options, **sizes)

    def check_examples_are_asked_for_or_refused(self) -> None:
        request = self.request(self.directions[0])
        if not self.method.needs_examples:
            with pytest.raises(UnknownOptionError, match="looks at no examples"):
                resize(self.model, **request, calibration=self.examples)
            return
        with pytest.raises(CalibrationError, match="looks at examples"):
            resize(self.model, **request, calibration=None)
        without = [{n: v for n, v in example.items() if n != "labels"} for example in self.examples]
        if self.method.needs_labels:
            with pytest.raises(CalibrationError, match="labels"):
                resize(self.model, **request, calibration=without)
        else:
            found, wanted = (resize(self.model, **request, calibration=given) for given in (without, self.examples))
            assert same_bits(found.state_dict(), wanted.state_dict())

    def check_what_a_ranking_does_not_refuse_it_ranks(self) -> None:
        method = self.method
        if not issubclass(method, PruningMethod) or method.score is PruningMethod.score:
            return
        anatomy = anatomy_of(self.model.config, type(self.model))
        with Examples(self.examples, self.model, labels=method.needs_labels) as examples:
            found = method().score(self.model, anatomy, examples, disable_progress=True)
        scores = {
            "num_hidden_layers": [found.layers],
            "hidden_size": [found.stream],
            "intermediate_size": list(found.units.values()),
            "num_attention_heads": list(found.heads.values()),
        }
        asked = [{"num_hidden_layers": 2}, {"hidden_size": 16}, {"intermediate_size": 20}, FEWER_HEADS]
        for (size, given), sizes in zip(scores.items(), asked, strict=True):
            try:
                plan(self.model, method=method.name, **sizes)
            except (DirectionError, InvalidSizeError, UnknownOptionError):
                continue
            assert given, f"{method.name} scores no {size}, and check lets {sizes} through"
            assert all(score.unique().numel() > 1 for score in given), f"{method.name} scores every {size} alike"

    def check_half_precision_is_rounded_once(self) -> None:
        half = type(self.model)(self.model.config).to(torch.bfloat16).eval()
        half.load_state_dict(self.model.state_dict())
        given = {"calibration": examples_for(half, labels=True)} if self.method.needs_examples else {}
        given = self.given() if self.method.learns else given
        for direction in self.directions:
            made = resize(half, **self.request(direction), **given)
            assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
            assert made.config.dtype == torch.bfloat16
            if not self.method.needs_examples:
                exact = resize(_as(half, torch.float32), **self.request(direction), **given)
                for (name, found), wanted in zip(made.named_parameters(), exact.parameters(), strict=True):
                    assert_close_for(found, wanted.to(torch.bfloat16), name=name)


def same_bits(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> bool:
    """The same operation on the same numbers: nothing is rounded otherwise."""
    return found.keys() == wanted.keys() and all(torch.equal(found[n], t) for n, t in wanted.items())


def _as(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    other = type(model)(model.config).to(dtype).eval()
    other.load_state_dict(model.state_dict())
    return other
