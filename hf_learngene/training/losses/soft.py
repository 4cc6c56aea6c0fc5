"""Soft logits (Hinton et al., arXiv 1503.02531; DeiT's soft distillation, arXiv 2012.12877)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_logit_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0, each: bool = False) -> Tensor:
    """temperature² x KL(teacher || student) of each item.

    A single number, which regression has in place of classes, is no distribution: there it is the squared difference.

    The code that SWS and TLEG inherit divides by items x classes, which makes the loss weaker by the number of classes (DeiT
    issue 134); here each item counts once.

    Args:
        student: logits, (items, classes).
        teacher: logits, (items, classes).
        temperature: softens both distributions.
        each: whether each class is decided by itself (several labels at once), in place of one out of all.

    Returns:
        (items,) float32 or better.

    Example:
        >>> import torch
        >>> soft_logit_loss(torch.zeros(1, 2), torch.zeros(1, 2)).item()
        0.0
    """
    wide = student if student.dtype.itemsize >= 4 else student.float()
    if student.shape[-1] == 1 and not each:
        return (wide - teacher.to(wide.dtype)).square().sum(-1)
    if each:
        wide, teacher = (torch.stack([x, -x], -1) / 2 for x in (wide, teacher))  # the two outcomes of each class
        return soft_logit_loss(wide, teacher, temperature).sum(-1)
    log_student = F.log_softmax(wide / temperature, -1)
    log_teacher = F.log_softmax(teacher.to(wide.dtype) / temperature, -1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1) * temperature**2
