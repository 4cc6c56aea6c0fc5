"""Vectors of examples, and whether two models find the same ones similar."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_learngene.errors import CalibrationError


def pooled(tokens: Tensor, shown: Tensor | None, pooling: str = "mean") -> Tensor:
    """One vector of the tokens that are no padding: their mean, their largest entries, or the first of them.

    Args:
        tokens: (examples, tokens, width); anything else is one vector for each example as it is.
        shown: (examples, tokens); None where none is padding.
        pooling: `"mean"`, `"max"` or `"cls"`.

    Returns:
        (examples, width), float64 on the CPU.

    Example:
        >>> pooled(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]], dtype=torch.float64)
    """
    tokens = tokens.double()
    if tokens.dim() != 3:
        return tokens.flatten(1).cpu()
    kept = (
        torch.ones(tokens.shape[:2], dtype=torch.bool) if shown is None or shown.shape != tokens.shape[:2] else shown
    )
    kept = kept.to(tokens.device)[..., None]
    if pooling == "cls":
        return tokens[torch.arange(len(tokens)), kept[..., 0].int().argmax(1)].cpu()
    if pooling == "max":
        return tokens.masked_fill(~kept, -torch.inf).amax(1).cpu()
    return ((tokens * kept).sum(1) / kept.sum(1).clamp(min=1)).cpu()


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's correlation of two lists of numbers; 0 where one of them is constant or not finite.

    Raises:
        CalibrationError: fewer than two numbers.

    Example:
        >>> round(rank_correlation(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 5.0, 9.0])), 6)
        1.0
    """
    if len(one) < 2:
        raise CalibrationError("A rank correlation needs at least three examples: their pairs are ranked.")
    if not (one.isfinite().all() and other.isfinite().all()):
        return 0.0
    found = float(torch.corrcoef(torch.stack([_ranks(one), _ranks(other)]))[0, 1])
    return found if found == found else 0.0


def _ranks(values: Tensor) -> Tensor:
    """Ranks; equal values share the mean of theirs."""
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[places].double()


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors of length 1; those that are not finite become 0, and agree with none."""
    vectors = vectors.where(vectors.isfinite().all(1, keepdim=True), 0.0)
    return torch.nn.functional.normalize(vectors, dim=1)


def cosines_of_pairs(vectors: Tensor) -> Tensor:
    """Cosines of all pairs of different vectors."""
    vectors = unit_length(vectors)
    rows, columns = torch.triu_indices(len(vectors), len(vectors), offset=1)
    return (vectors @ vectors.T)[rows, columns]


__all__ = ["cosines_of_pairs", "pooled", "rank_correlation", "unit_length"]
