"""Least squares for what layers share, by what each layer's matrix is given and what it is to make of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from hf_learngene.pruning.moments import RIDGE, Moments, damp, positive_solve, scarcity


RELATIVE = 1e-4  # of the mean diagonal of a system whose unknowns may be several names of one thing
TINY = 1e-30


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
    gram, right = None, None
    tokens = sum(m.count for m in moments)
    for each in moments:
        inner, cross = each.gram, each.cross + torch.outer(each.mean, each.wanted)
        level = ridge_of(each, ridge, tokens).expand(weight.shape[1])
        if bias is not None:  # its input is a 1, and it is free
            below = torch.cat([each.mean, torch.ones_like(each.mean[:1])])
            inner = torch.cat([torch.cat([inner, each.mean[:, None]], 1), below[None]])
            cross = torch.cat([cross, each.wanted[None]])
            level = torch.cat([level, RELATIVE * level[:1].clamp_min(TINY)])
        inner, cross = inner + level.diag(), cross + level[:, None] * prior.to(inner).T
        gram, right = (inner, cross) if gram is None or right is None else (gram + inner, right + cross)
    solved = torch.linalg.solve(cast(Tensor, gram), cast(Tensor, right)).T
    return (solved, None) if bias is None else (solved[:, :-1], solved[:, -1])


def ridge_of(moments: Moments, ridge: float, tokens: int) -> Tensor:
    """How strongly a matrix that is fitted on so many tokens is kept as it is, in the units of its inputs' variance."""
    variances = moments.covariance.diagonal()
    return ridge * scarcity(len(variances), tokens) * variances.mean()


def solve_few(normal: Tensor, right: Tensor, before: Tensor) -> Tensor:
    """The solution of a small system, which stays what it was where unknowns can hardly be told apart.

    Without that, parts that hold next to nothing would be taken a million times, and the first step of training would throw
    everything away.
    """
    missing = right - normal @ before
    return before + positive_solve(damp(normal, RELATIVE), missing.reshape(len(missing), -1)).reshape(missing.shape)


__all__ = ["ridge_of", "shared_matrix", "solve_few"]
