"""Hidden states of matching layers (TinyBERT, arXiv 1909.10351), through a projection where widths differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def teacher_layers(student: int, teacher: int) -> list[int]:
    """The teacher's hidden state for each of the student's, embeddings first: evenly spaced, ends meet.

    TinyBERT asks for a whole ratio of the depths; this rule is the same there and works for any.

    Example:
        >>> teacher_layers(4, 12), teacher_layers(3, 7)
        ([0, 3, 6, 9, 12], [0, 2, 5, 7])
    """
    return [round(i * teacher / student) for i in range(student + 1)]


def hidden_state_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None, projection: nn.Module | None = None
) -> Tensor:
    """Mean squared error of each example, over layers, tokens and entries.

    Args:
        student: hidden states with the embeddings first, each (examples, tokens, width).
        teacher: the same.
        mask: (examples, tokens), 0 for padding.
        projection: one linear layer for all, where widths differ (as in TinyBERT).

    Returns:
        (examples,).
    """
    pairs = teacher_layers(len(student) - 1, len(teacher) - 1)
    total = torch.zeros(len(student[0]), device=student[0].device)
    for state, place in zip(student, pairs, strict=True):
        made = projection(state) if projection is not None else state
        error = F.mse_loss(made.float(), teacher[place].float(), reduction="none").mean(-1)
        total = total + over_tokens(error, mask)
    return total / len(student)


def over_tokens(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the tokens that are no padding: (examples, tokens) -> (examples,)."""
    if mask is None or mask.shape != values.shape:
        return values.mean(-1)
    kept = mask.to(values.dtype)
    return (values * kept).sum(-1) / kept.sum(-1).clamp_min(1)
