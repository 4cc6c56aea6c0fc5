"""A learngene where a model is expected, whether or not its model type is registered with transformers yet."""

from __future__ import annotations

import subprocess
import sys

import pytest
from transformers import BertConfig, BertForSequenceClassification

from hf_learngene import AutoLearngene, AutoModel, plan
from hf_learngene.errors import LearngeneError


@pytest.fixture(scope="module")
def learngene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learngene")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
    teacher = BertForSequenceClassification(BertConfig(vocab_size=40, **sizes))
    AutoLearngene.from_ancestry(teacher, "sws", num_stages=2).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("verb", [plan, AutoModel.from_pretrained_resized])
def test_where_it_is_registered(learngene, verb):
    with pytest.raises(LearngeneError, match=r"is a learngene.*initialize\(") as error:
        verb(str(learngene), num_hidden_layers=1)
    assert "ResizableMixin" not in str(error.value)


def test_in_a_process_that_has_not_imported_learngenes(learngene):
    command = [sys.executable, "-m", "hf_learngene.cli", "plan", str(learngene), "--num-hidden-layers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is a learngene" in done.stderr
    assert "hf-learngene init" in done.stderr
    assert "Transformers" not in done.stderr
