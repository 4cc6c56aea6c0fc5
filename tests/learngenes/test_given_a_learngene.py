"""Where a model is asked for, a learngene is an error that says how to make a model of it."""

from __future__ import annotations

import pytest
import torch

import hf_learngene
from hf_learngene import AutoLearngene, plan, resize, verify
from hf_learngene.errors import LearngeneError
from testing.families import tiny_model


@pytest.fixture(scope="module")
def learngene():
    return AutoLearngene.from_ancestry(tiny_model("vit", "ViTForImageClassification", dtype=torch.float32), "tleg")


@pytest.fixture(scope="module")
def folder(learngene, tmp_path_factory):
    path = tmp_path_factory.mktemp("learngene")
    learngene.save_pretrained(path)
    return path


VERBS = {
    "resize": lambda learngene, _: resize(learngene, num_hidden_layers=2),
    "plan": lambda learngene, _: plan(learngene, num_hidden_layers=2),
    "plan of a config": lambda learngene, _: plan(learngene.config, num_hidden_layers=2),
    "plan of a folder": lambda _, folder: plan(folder, num_hidden_layers=2),
    "verify, first": lambda learngene, _: verify(learngene, learngene.initialize()),
    "verify, second": lambda learngene, _: verify(learngene.initialize(), learngene),
    "from_ancestry": lambda learngene, _: AutoLearngene.from_ancestry(learngene, "sws"),
    "from_ancestry of a folder": lambda _, folder: AutoLearngene.from_ancestry(folder, "sws"),
    "AutoModel": lambda _, folder: hf_learngene.AutoModel.from_pretrained_resized(folder, num_hidden_layers=2),
    "AutoModelForImageClassification": lambda _, folder: (
        hf_learngene.AutoModelForImageClassification.from_pretrained_resized(folder, num_hidden_layers=2)
    ),
}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_it_says_to_initialise_first(verb, learngene, folder):
    with pytest.raises(LearngeneError, match=r"learngene\.initialize\("):
        VERBS[verb](learngene, folder)
