"""Embeddings of a teacher without a head, as they stand: for a student that begins near its teacher (a resized one)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hf_learngene.training.losses.hidden import over_tokens


def embedding_loss(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Distance of the last hidden states to the teacher's, and of each example's mean vector in angle.

    The squared error of each token is taken relative to the teacher's mean square, so that the scale of a model does not set the
    learning rate; 1 - cosine of the mean vectors is added, for embeddings are compared by cosine. Vectors of two widths have no
    distance: there the cosines between the examples of the micro-batch are compared, as they are used in a search
    (relational distillation, arXiv 1904.05068, with the angle at the origin).

    Args:
        student: (examples, tokens, width).
        teacher: (examples, tokens, width of its own).
        mask: (examples, tokens), 0 for padding.

    Returns:
        (examples,).

    Example:
        >>> import torch
        >>> same = torch.randn(2, 3, 4)
        >>> embedding_loss(same, same, None).abs().max().item() < 1e-6
        True
    """
    mine, wanted = student.float(), teacher.float()
    one, other = (over_tokens_of(x, mask) for x in (mine, wanted))  # (examples, width)
    if mine.shape == wanted.shape:
        scale = over_tokens(wanted.square().mean(-1), mask).clamp_min(1e-12)
        error = over_tokens((mine - wanted).square().mean(-1), mask) / scale
        return error + 1 - F.cosine_similarity(one, other, dim=-1)
    one, other = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
    return (one @ one.T - other @ other.T).square().mean(-1)


def over_tokens_of(states: Tensor, mask: Tensor | None) -> Tensor:
    """Mean vector of each example over the tokens that are no padding: (examples, tokens, width) -> (examples, width)."""
    if mask is None or mask.shape != states.shape[:2]:
        return states.mean(1)
    kept = mask.to(states.dtype)[..., None]
    return (states * kept).sum(1) / kept.sum(1).clamp_min(1)
