"""Heads over tokens, and labels that the source does not have."""

from __future__ import annotations

import pytest
import torch
from transformers import default_data_collator

from testing.comparing import SMALL, small
from testing.training import Texts, teacher_of


def test_text_with_a_head_for_each_token(tmp_path):
    source, held = teacher_of("mlm"), Texts(16, "mask")
    found = small(tmp_path, source, train=Texts(task="mask"), held=held)
    batch = default_data_collator([held[i] for i in range(16)])
    with torch.no_grad():
        right = source(**batch).logits.argmax(-1) == batch["labels"]
    assert found.source_metric == pytest.approx(right[batch["labels"] != -100].float().mean().item())


def test_other_labels_are_not_measured_against_the_source(tmp_path):
    found = small(tmp_path, sizes=[{"num_labels": 9, **SMALL}])
    assert found.source_metric is None
    assert found.steps_until_source(found.rows[0]) is None
    both = small(tmp_path / "both", sizes={"other": {"num_labels": 9, **SMALL}, "same": SMALL})
    assert [row.same_task for row in both.rows] == [False, True]
    assert [both.source_of(row) for row in both.rows] == [None, both.source_metric]
