"""Least squares for what layers share, by what each layer's matrix is given and what it is to make of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_learngene.pruning.moments import RIDGE, Moments, damp, lifted


RELATIVE = 1e-10  # of the mean diagonal of a system whose unknowns may be several names of one thing


def shared_matrix(
    moments: Sequence[Moments], weight: Tensor, bias: Tensor | None, ridge: float = RIDGE
) -> tuple[Tensor, Tensor | None]:
    """The one matrix, and bias, that do best what several layers want of them.

    Args:
        moments: of each layer.
        weight: the matrix as it is, (outputs, inputs), which counts where the examples say little.
        bias: the same for the bias, (outputs,), if there is one.
        ridge: how strongly that counts, as a share of the inputs' mean variance.

    Returns:
        weight (outputs, inputs) and bias (outputs,) or None, float64.

    Example:
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> moments, wanted = Moments(), torch.ones(2, 3)
        >>> moments.add(x, x @ wanted.T)
        >>> found, _ = shared_matrix([moments], torch.zeros(2, 3), None)
        >>> torch.allclose(found, wanted.double(), atol=1e-2)
        True
    """
    prior = weight if bias is None else torch.cat([weight, bias[:, None]], 1)
    sums = list[tuple[Tensor, Tensor]]()
    for each in moments:
        inner, cross = each.gram, each.cross + torch.outer(each.mean, each.wanted)
        if bias is not None:  # its input is a 1
            below = torch.cat([each.mean, torch.ones_like(each.mean[:1])])
            inner = torch.cat([torch.cat([inner, each.mean[:, None]], 1), below[None]])
            cross = torch.cat([cross, each.wanted[None]])
        level = ridge_of(each, ridge)
        sums.append((lifted(inner, level), cross + level * prior.to(inner).T))
    gram, right = (sum(rest, first) for first, *rest in zip(*sums, strict=True))
    solved = torch.linalg.solve(gram, right).T
    return (solved, None) if bias is None else (solved[:, :-1], solved[:, -1])


def ridge_of(moments: Moments, ridge: float = RIDGE) -> Tensor:
    """How strongly a matrix is kept as it is, in the units of its inputs' variance."""
    return ridge * moments.covariance.diagonal().mean()


def solve_few(normal: Tensor, right: Tensor) -> Tensor:
    """The solution of a small system; where unknowns mean the same, one of its solutions."""
    return torch.linalg.solve(damp(normal, RELATIVE), right)


__all__ = ["ridge_of", "shared_matrix", "solve_few"]
