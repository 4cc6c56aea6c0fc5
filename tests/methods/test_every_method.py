"""What holds for every registered method, on images and on texts."""

from __future__ import annotations

import pytest
import torch

from hf_learngene.methods import METHODS
from testing.families import tiny_model
from testing.method_tester import MethodTester, shipped


SOURCES = {"vit": "ViTForImageClassification", "bert": "BertForSequenceClassification"}


@pytest.fixture(params=SOURCES)
def tester(request, name):
    return MethodTester(name, tiny_model(request.param, SOURCES[request.param], dtype=torch.float32))


pytestmark = pytest.mark.parametrize("name", shipped())


def test_it_makes_a_plain_model_of_the_planned_shape(tester):
    tester.check_a_plain_model_of_the_planned_shape()


def test_a_seed_gives_one_model(tester):
    tester.check_a_seed_gives_one_model()


def test_the_source_stays_as_it_is(tester):
    tester.check_the_source_stays_as_it_is()


def test_the_record_says_what_was_done(tester):
    tester.check_the_record_says_what_was_done()


def test_it_saves_and_loads_as_any_model(tester, tmp_path):
    tester.check_it_saves_and_loads_as_any_model(tmp_path)


def test_what_is_lossless_keeps_the_function(tester):
    tester.check_what_is_lossless_keeps_the_function()


def test_the_other_direction_is_refused(tester):
    tester.check_the_other_direction_is_refused()


def test_examples_are_asked_for_or_refused(tester):
    tester.check_examples_are_asked_for_or_refused()


def test_what_a_ranking_does_not_refuse_it_ranks(tester):
    tester.check_what_a_ranking_does_not_refuse_it_ranks()


def test_half_precision_is_rounded_once(tester):
    tester.check_half_precision_is_rounded_once()


def test_it_is_described(name):
    method = METHODS[name]
    assert method.name == name
    assert method.grows or method.shrinks
    assert method.summary
    assert method.__doc__
    assert not method.lossless or method.grows
    assert not (method.needs_labels or method.refits_with({})) or method.needs_examples
