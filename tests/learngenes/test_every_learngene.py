"""What holds for every registered kind of learngene, on families of different build."""

from __future__ import annotations

import pytest

from hf_learngene.learngenes import Learngene, LearngeneConfig, registered_learngenes
from hf_learngene.learngenes.registry import LEARNGENE_MAPPING
from testing.learngene_tester import LearngeneTester
from testing.learngenes import KINDS


FAMILIES = [
    ("vit", "ViTForImageClassification"),
    ("bert", "BertForMaskedLM"),
    ("dinov2", "Dinov2Model"),
    ("beit", "BeitForImageClassification"),
    ("roberta", "RobertaForSequenceClassification"),
    ("distilbert", "DistilBertForQuestionAnswering"),
    ("deberta-v2", "DebertaV2ForTokenClassification"),
    ("modernbert", "ModernBertForMaskedLM"),
]
every_kind = pytest.mark.parametrize("kind", KINDS)
an_image_and_a_text = pytest.mark.parametrize(("family", "name"), FAMILIES[:2])


@pytest.fixture
def tester(kind, family, name):
    return LearngeneTester(kind, family, name)


@every_kind
@pytest.mark.parametrize(("family", "name"), FAMILIES)
def test_the_descendant_is_the_auxiliary_model(tester):
    tester.check_the_descendant_is_the_auxiliary_model()
    tester.check_every_depth_runs(1, 2, 5)


@every_kind
def test_it_is_described(kind):
    config = registered_learngenes()[kind]
    model = LEARNGENE_MAPPING[config]
    assert config.learngene_type == kind
    assert {config.__module__, model.__module__} == {
        f"hf_learngene.learngenes.{kind}.{n}" for n in ("config", "model")
    }
    assert config.summary
    assert config.__doc__ != LearngeneConfig.__doc__
    assert model.__doc__ != Learngene.__doc__


@every_kind
@an_image_and_a_text
def test_saved_and_loaded_it_is_the_same(tester, tmp_path):
    tester.check_saved_and_loaded_it_is_the_same(tmp_path)


@every_kind
@an_image_and_a_text
def test_weights_are_a_function_of_the_config(tester):
    tester.check_weights_are_a_function_of_the_config()


@every_kind
@an_image_and_a_text
def test_gradients_reach_every_part_and_nothing_else(tester):
    tester.check_gradients_reach_every_part_and_nothing_else()
