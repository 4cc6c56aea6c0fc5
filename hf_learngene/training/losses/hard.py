"""Hard distillation: the teacher's decision is the label (DeiT, arXiv 2012.12877, section 3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def hard_label_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross entropy of each item with the class that the teacher finds likeliest.

    Args:
        student: logits, (items, classes).
        teacher: logits, (items, classes).

    Returns:
        (items,) float32 or better.

    Example:
        >>> import torch
        >>> round(hard_label_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])).item(), 4)
        0.6931
    """
    wide = student if student.dtype.itemsize >= 4 else student.float()
    return F.cross_entropy(wide, teacher.argmax(-1), reduction="none")
