"""Features of a teacher without a head: its last hidden state (arXiv 2205.14141)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hf_learngene.training.losses.hidden import over_tokens


def feature_loss(student: Tensor, teacher: Tensor, mask: Tensor | None, projection: nn.Module | None = None) -> Tensor:
    """Smooth L1 distance to the teacher's normalised last hidden state, mean over tokens and entries.

    The teacher's vectors are normalised over their width without weights, so that none of its large entries rules the loss
    (feature distillation, arXiv 2205.14141, section 3).

    Args:
        student: (examples, tokens, width).
        teacher: (examples, tokens, width).
        mask: (examples, tokens), 0 for padding.
        projection: a linear layer where widths differ.

    Returns:
        (examples,).
    """
    made = projection(student) if projection is not None else student
    wanted = F.layer_norm(teacher.float(), teacher.shape[-1:])
    return over_tokens(F.smooth_l1_loss(made.float(), wanted, reduction="none").mean(-1), mask)
