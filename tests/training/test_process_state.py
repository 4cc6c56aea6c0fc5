"""What a training changes for the whole process: nothing that transformers' Trainer does not change too."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from hf_learngene import LearngeneTrainer
from testing.training import Images, student_of, trainer_of


def process_state() -> dict[str, object]:
    """All but random numbers, which the Trainer seeds by its arguments."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "matmul": torch.get_float32_matmul_precision(),
        "verbosity": logging.get_verbosity(),
        "bars": logging.is_progress_bar_enabled(),
        "init": {name: value for name, value in vars(torch.nn.init).items() if callable(value)},
        "signals": {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)},
        "environment": dict(os.environ),
        "hooks": dict(torch.nn.modules.module._global_forward_hooks),
    }


def changes(make) -> set[str]:
    before = process_state()
    make().train()
    after = process_state()
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("learngene", "options"),
    [
        ("wave", {"sandwich_weight": 0.5, "sandwich_min_layers": 1, "save_strategy": "steps", "save_steps": 1}),
        ("plain", {"distillation": "features", "hidden_states_weight": 0.5, "relations_weight": 0.5, "relation_heads": 3}),
        ("tleg", {"cache_teacher": True}),
    ],
)  # fmt: skip
def test_no_more_than_the_trainer_does(learngene, options, tmp_path):
    def plain():
        args = TrainingArguments(
            str(tmp_path / "plain"), max_steps=2, report_to="none", disable_tqdm=True, use_cpu=True
        )
        return Trainer(student_of("vit", "plain"), args, train_dataset=Images())

    theirs = changes(plain)
    assert changes(lambda: trainer_of("vit", learngene, tmp_path / "own", max_steps=2, **options)) <= theirs


def test_the_difference_would_be_seen(tmp_path, monkeypatch):
    whole = LearngeneTrainer.training_step

    def training_step(self, *given, **named):
        torch.set_float32_matmul_precision("medium")
        return whole(self, *given, **named)

    monkeypatch.setattr(LearngeneTrainer, "training_step", training_step)
    try:
        assert changes(lambda: trainer_of("vit", "plain", tmp_path, max_steps=1)) == {"matmul"}
    finally:
        torch.set_float32_matmul_precision("highest")
