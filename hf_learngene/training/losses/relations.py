"""Relations of queries, keys and values (MiniLM v2, arXiv 2012.15828): no projection, any width, any number of heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_learngene.training.losses.hidden import over_tokens


def relation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None, relation_heads: int
) -> Tensor:
    """KL of the teacher's to the student's relations of each example, mean over q, k, v, relation heads and tokens.

    Args:
        student: the q, k and v vectors of one layer, each (examples, tokens, width).
        teacher: the same.
        mask: (examples, tokens), 0 for padding.
        relation_heads: into how many equal parts the vectors of both are split; it divides both widths.

    Returns:
        (examples,).
    """
    total = torch.zeros(len(student[0]), device=student[0].device)
    for mine, theirs in zip(student, teacher, strict=True):
        wanted = _relations(theirs, mask, relation_heads)
        found = _relations(mine, mask, relation_heads)
        distance = F.kl_div(found, wanted, reduction="none", log_target=True)
        if mask is not None:
            distance = distance.masked_fill(mask[:, None, None].eq(0), 0.0)
        total = total + over_tokens(distance.sum(-1).mean(1), mask)
    return total / len(student)


def _relations(vectors: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    examples, tokens, width = vectors.shape
    split = vectors.float().reshape(examples, tokens, heads, width // heads).transpose(1, 2)
    scores = split @ split.transpose(-1, -2) / (width // heads) ** 0.5
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None].eq(0), torch.finfo(scores.dtype).min)
    return F.log_softmax(scores, -1)
