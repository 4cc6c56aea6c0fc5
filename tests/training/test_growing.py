"""A learned growth as a training: resumed, recorded, and on data of every form that it takes."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_learngene import resize
from hf_learngene.errors import AdapterError, ResumeError
from hf_learngene.hub.card import model_card
from hf_learngene.training import LearngeneTrainingArguments
from testing.examples import examples_for
from testing.families import tiny_model
from testing.saving import WORDS, tokenizer
from testing.training import NO_DROPOUT


SIZES = {"method": "ligo", "hidden_size": 48, "num_hidden_layers": 4}


@pytest.fixture(scope="module")
def vit():
    return tiny_model("vit", "ViTForImageClassification", NO_DROPOUT, dtype=torch.float32)


@pytest.fixture(scope="module")
def data(vit):
    return examples_for(vit, 32, labels=True)


@pytest.fixture(scope="module")
def whole(vit, data, tmp_path_factory):
    """A folder with the checkpoints of four steps, and what they made."""
    folder = tmp_path_factory.mktemp("whole")
    training = {
        "output_dir": str(folder),
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "disable_tqdm": True,
    }
    return folder, resize(vit, **SIZES, train_dataset=data, training=training)


def test_a_resumed_run_is_the_uninterrupted_one(vit, data, whole, tmp_path):
    folder, made = whole
    training = {"output_dir": str(tmp_path), "max_steps": 4, "disable_tqdm": True}
    last = {**training, "resume_from_checkpoint": str(folder / "checkpoint-2")}
    resumed = resize(vit, **SIZES, train_dataset=data, training=last)
    wanted = made.state_dict()
    assert all(torch.equal(t, wanted[n]) for n, t in resumed.state_dict().items())
    with pytest.raises(ResumeError, match="growth.method"):
        resize(vit, **{**SIZES, "method": "mango"}, train_dataset=data, training=last)


def test_record_and_card_say_what_was_done(vit, data, whole):
    _, made = whole
    record = made.config.learngene["training"]
    assert (record["steps"], record["count"], record["learning_rate"]) == (4, 32, 1e-3)
    card = model_card(made)
    assert f"learned in 4 steps at a peak rate of 0.001 on 32 examples (data {record['data'][:12]})" in card
    assert "**Needs training.**" in card
    args = LearngeneTrainingArguments("unused", max_steps=1, report_to="none", save_strategy="no", disable_tqdm=True)
    other = resize(vit, **SIZES, train_dataset=data[1:], training=args).config.learngene["training"]
    assert (other["steps"], other["learning_rate"]) == (1, args.learning_rate)
    assert other["data"] != record["data"]


def test_a_masked_lm_learns_from_texts_without_labels():
    bert = tiny_model("bert", "BertForMaskedLM", dtype=torch.float32)
    texts = Dataset.from_dict({"text": [" ".join(WORDS[5 + i % 20 : 15 + i % 20]) for i in range(16)]})
    few = {"max_steps": 2, "disable_tqdm": True}
    made = resize(
        bert, method="mango", hidden_size=48, train_dataset=texts, processing_class=tokenizer(), training=few
    )
    assert made.config.learngene["training"]["count"] == 16
    own = dict(made.named_parameters(remove_duplicate=False))
    assert own["cls.predictions.decoder.weight"] is own["bert.embeddings.word_embeddings.weight"]


def test_an_adapter_does_not_follow_maps_that_are_learned(data):
    peft = pytest.importorskip("peft")
    vit = tiny_model("vit", "ViTForImageClassification", NO_DROPOUT, dtype=torch.float32)
    adapted = peft.get_peft_model(vit, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(AdapterError, match="method='lemon', which learns nothing"):
        resize(adapted, **SIZES, train_dataset=data)
