"""One step behind a shrink: what `distill` learns from, what it keeps, and what it refuses."""

from __future__ import annotations

import logging

import pytest
import torch
from datasets import Dataset

from hf_learngene import distill, resize, save_resized
from hf_learngene.errors import TeacherError, TrainingDataError, UnknownOptionError
from hf_learngene.hub.card import model_card
from hf_learngene.training import LearngeneTrainingArguments
from hf_learngene.training.distilling import loss_of
from hf_learngene.training.losses import at_items, embedding_loss, soft_logit_loss
from testing.families import tiny_model
from testing.saving import tokenizer


QUIET = {"disable_tqdm": True, "max_steps": 12, "learning_rate": 3e-3, "seed": 1}


def images(count=64):
    generator = torch.Generator().manual_seed(3)
    return [{"pixel_values": torch.randn(3, 12, 12, generator=generator), "labels": 0} for _ in range(count)]


def texts(count=64, **more):
    generator = torch.Generator().manual_seed(3)
    rows = [
        torch.randint(5, 50, (int(n),), generator=generator).tolist()
        for n in torch.randint(4, 9, (count,), generator=generator)
    ]
    return Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(r) for r in rows], **more})


def distance(model, teacher, examples):
    with torch.no_grad():
        pixels = torch.stack([e["pixel_values"] for e in examples])
        return float(soft_logit_loss(model(pixels).logits, teacher(pixels).logits).mean())


def teacher_of(kind, name, **extra):
    return tiny_model(kind, name, extra, dtype=torch.float32)


def small_of(teacher):
    return resize(teacher, hidden_size=16, num_hidden_layers=2, method="weight_selection")


def test_it_comes_nearer_without_looking_at_labels():
    teacher = teacher_of("vit", "ViTForImageClassification")
    small, other = small_of(teacher), small_of(teacher)
    before = distance(small, teacher, images())
    made = distill(small, teacher, images(), **QUIET)
    assert made is small
    assert not made.training
    assert distance(made, teacher, images()) < 0.8 * before
    wrong = [{**row, "labels": i % 3} for i, row in enumerate(images())]
    same = distill(other, teacher, wrong, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), same.parameters(), strict=True))
    told = made.config.learngene["distillation"]
    assert (told["loss"], told["examples"], told["count"]) == ("soft", "given", 56)
    assert 0 < told["steps"] <= 12
    assert told["agreement"]["count"] == 8


def test_what_only_got_worse_is_given_back_as_it_was(caplog):
    teacher = teacher_of("vit", "ViTForImageClassification")
    small = resize(teacher)  # the teacher itself: no step comes nearer
    before = {n: t.clone() for n, t in small.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        made = distill(small, teacher, images(), **QUIET)
    assert all(torch.equal(t, before[n]) for n, t in made.state_dict().items())
    assert "given back as it was" in caplog.text
    assert made.config.learngene["distillation"]["steps"] == 0


def test_a_steep_rate_on_a_start_that_works_is_warned_of(caplog):
    teacher = teacher_of("vit", "ViTForImageClassification")
    small = resize(teacher, intermediate_size=20, calibration=images())
    with caplog.at_level(logging.WARNING):
        distill(small, teacher, images(), **{**QUIET, "max_steps": 1})
        assert "may undo more than it gains" in caplog.text
        caplog.clear()
        distill(small, teacher, images(), **{**QUIET, "max_steps": 1, "learning_rate": 3e-6})
        assert "may undo" not in caplog.text
    assert "agreement" not in small.config.learngene["calibration"]  # of the model before


@pytest.mark.parametrize(
    ("kind", "name", "loss"),
    [
        ("bert", "BertForSequenceClassification", "soft"),
        ("bert", "BertForTokenClassification", "soft"),
        ("bert", "BertForQuestionAnswering", "soft"),
        ("bert", "BertForMaskedLM", "soft"),
        ("bert", "BertModel", "embeddings"),
    ],
)
def test_every_head_of_texts(kind, name, loss):
    teacher = teacher_of(kind, name)
    small = resize(teacher, num_hidden_layers=2, method="weight_selection")
    words = tokenizer() if "MaskedLM" in name else _Padding()
    made = distill(small, teacher, texts(), processing_class=words, **QUIET)
    told = made.config.learngene["distillation"]
    assert told["loss"] == loss
    assert told["steps"] > 0


class _Padding:
    """What pads rows of ids, as a tokenizer does."""

    model_input_names = ("input_ids", "attention_mask")
    padding_side = "right"

    def pad(self, rows, return_tensors=None, **kwargs):
        longest = max(len(r["input_ids"]) for r in rows)
        made = {
            n: torch.tensor([list(r[n]) + [0] * (longest - len(r[n])) for r in rows]) for n in self.model_input_names
        }
        return made

    def save_pretrained(self, folder):
        return ()


def test_embeddings_of_another_width_learn_the_cosines_between_examples():
    teacher = teacher_of("bert", "BertModel")
    small = small_of(teacher)
    made = distill(small, teacher, texts(), processing_class=_Padding(), pooling="mean", **QUIET)
    told = made.config.learngene["distillation"]
    assert told["agreement"]["kind"] == "rank correlation of cosines"
    assert told["steps"] > 0


def test_made_up_examples_do_where_there_are_none(monkeypatch):
    monkeypatch.setattr("hf_learngene.training.distilling.MADE_UP", 64)
    teacher = teacher_of("vit", "ViTForImageClassification")
    made = distill(small_of(teacher), teacher, **QUIET)
    assert made.config.learngene["distillation"]["examples"] == "synthetic"


def test_the_card_tells_of_it_and_a_saved_model_is_the_same(tmp_path):
    teacher = teacher_of("vit", "ViTForImageClassification")
    made = distill(small_of(teacher), teacher, images(), **QUIET)
    save_resized(made, tmp_path / "small")
    assert "distilled from its source for" in (tmp_path / "small" / "README.md").read_text()
    again = type(made).from_pretrained(tmp_path / "small")
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))
    assert "distilled from its source" in model_card(again)
    assert again.config.learngene["distillation"] == made.config.learngene["distillation"]


def test_a_seed_gives_one_model():
    teacher = teacher_of("vit", "ViTForImageClassification")
    first, second = (distill(small_of(teacher), teacher, images(), **QUIET) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_arguments_of_ones_own_are_taken_as_they_are(tmp_path):
    teacher = teacher_of("vit", "ViTForImageClassification")
    args = LearngeneTrainingArguments(
        tmp_path, max_steps=3, alpha=1.0, report_to="none", disable_tqdm=True, save_strategy="no"
    )
    made = distill(small_of(teacher), teacher, images(), args=args)
    assert made.config.learngene["distillation"]["steps"] == 3
    with pytest.raises(UnknownOptionError, match="max_steps stand beside it"):
        distill(small_of(teacher), teacher, images(), args=args, max_steps=2)


def test_what_cannot_teach_or_be_learnt_from_is_refused():
    teacher = teacher_of("vit", "ViTForImageClassification")
    small = small_of(teacher)
    with pytest.raises(TeacherError, match="ViTForImageClassification.from_pretrained"):
        distill(small, teacher_of("vit", "ViTModel"), images())
    with pytest.raises(TeacherError, match="labels"):
        distill(small, resize(teacher, num_labels=7), images())
    with pytest.raises(TrainingDataError, match="give 16 or more"):
        distill(small, teacher, images(9))
    with pytest.raises(TrainingDataError, match="Give processing_class="):
        distill(small, teacher, [{"image": 1}] * 32)
    with pytest.raises(TrainingDataError, match="knows its length"):
        distill(small, teacher, iter(images()))
    with pytest.raises(UnknownOptionError, match="'steps' is no field"):
        distill(small, teacher, images(), steps=3)


def test_the_losses():
    assert loss_of(*(teacher_of("bert", "BertModel") for _ in range(2))) == "embeddings"
    # one number is no distribution: KL of a softmax over it is always zero
    assert soft_logit_loss(torch.tensor([[1.0]]), torch.tensor([[3.0]])).item() == 4.0
    student, wanted = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    p, q = wanted.sigmoid(), student.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(-1)
    torch.testing.assert_close(soft_logit_loss(student, wanted, each=True), expected)
    states, mask = torch.randn(2, 4, 6), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    other = states.clone()
    other[0, 2:] += 5.0  # padding does not count
    assert embedding_loss(other, states, mask).abs().max() < 1e-6
    assert embedding_loss(states * 1.1, states, mask).mean().item() == pytest.approx(0.01, rel=1e-4)
    turned = (
        states @ torch.linalg.qr(torch.randn(6, 6)).Q
    )  # cosines between examples are those of any rotation, of any width
    assert embedding_loss(torch.cat([turned, torch.zeros(2, 4, 3)], -1), states, mask).abs().max() < 1e-6
    rows, owner = at_items(torch.zeros(2, 4, 5), None, mask)
    assert owner.tolist() == [0, 0, 1, 1, 1, 1]
