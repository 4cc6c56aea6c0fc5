"""Optimal brain surgeon: the units, heads and entries of the residual stream whose loss the others can make up for least."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hf_learngene.pruning.moments import RIDGE, damp


UNIT_RIDGE = 10.0  # times the ridge of the refit: fewer tokens speak for a choice than for a fit
FLOOR = 1e-7  # exact copies leave the matrix without an inverse
PORTION = 32  # of the units, one share in so many is pruned between two corrections
DEARER = (
    0.1  # of a portion, a unit stays for now whose share of [G^-1] the others of the portion leave less than this of
)


def kept_units(
    gram: Tensor, weight: Tensor, keep: int, size: int = 1, ridge: float = RIDGE, group: int = 0, least: int = 0
) -> Tensor:
    """Indices of the units whose loss the others can make up for least: optimal brain surgeon on one layer's least squares.

    A unit (or block of `size` inputs, a head) costs tr(W_q ([G^-1]_qq)^-1 W_q^T) once the remaining inputs have been
    refitted. The cheapest are pruned a few at a time; after each removal the others take over what they can.

    Args:
        gram: mean product of the inputs, (inputs, inputs), float64.
        weight: the matrix that reads them, (outputs, inputs).
        keep: how many units (or blocks) are kept.
        size: inputs of one block.
        ridge: the ridge of the refit that follows.
        group: if given, of each `group` units (or blocks) that follow one another, `least` are kept.
        least: see `group`.

    Returns:
        Indices of the kept units (or blocks), ascending.

    Source: Hassibi & Stork 1993 (optimal brain surgeon), in blocks as Kurtic et al. 2023 (arXiv 2302.04089, section 3).

    Example:
        >>> gram = torch.eye(3, dtype=torch.float64)
        >>> kept_units(gram, torch.tensor([[3.0, 0.1, 2.0]]), keep=2).tolist()
        [0, 2]
    """
    left = _leave(gram, weight, keep, size, ridge, group, least)
    alive = torch.ones(len(gram) // size, dtype=torch.bool)
    alive[torch.cat([torch.empty(0, dtype=torch.long), *left])] = False
    return alive.nonzero().flatten()


def leaving_order(gram: Tensor, weight: Tensor, size: int = 1, ridge: float = RIDGE) -> Tensor:
    """Units (or blocks) by how long they stay: first what would be kept last of all, so that the first `k` are a choice of `k`.

    Args:
        gram: mean product of the inputs, (inputs, inputs), float64.
        weight: the matrix that reads them, (outputs, inputs).
        size: inputs of one block.
        ridge: the ridge of the refit that follows.

    Returns:
        Indices of all units (or blocks).

    Example:
        >>> gram = torch.eye(3, dtype=torch.float64)
        >>> leaving_order(gram, torch.tensor([[3.0, 0.1, 2.0]])).tolist()
        [0, 2, 1]
    """
    left = torch.cat([torch.empty(0, dtype=torch.long), *_leave(gram, weight, 1, size, ridge, shrinking=True)])
    last = torch.ones(len(gram) // size, dtype=torch.bool)
    last[left] = False
    return torch.cat([last.nonzero().flatten(), left.flip(0)])


def _leave(
    gram: Tensor,
    weight: Tensor,
    keep: int,
    size: int,
    ridge: float,
    group: int = 0,
    least: int = 0,
    shrinking: bool = False,
) -> Iterator[Tensor]:
    """Units (or blocks) in the order in which they leave, a few at a time; fewer of fewer, where `shrinking`."""
    blocks, place = len(gram) // size, gram.device
    inside, numbers = torch.arange(size, device=place), torch.arange(blocks, device=place)
    columns = weight.to(place, torch.float64).T.clone()  # (inputs, outputs)
    inverse = _inverse(damp(gram, max(UNIT_RIDGE * ridge, FLOOR)))
    squares = inverse.reshape(blocks, size, blocks, size)[numbers, :, numbers].clone()  # (blocks, size, size)
    # [G^-1] of what is left is [G^-1] - F F^T: only what is read of it is worked out
    factors = torch.empty(len(gram), (blocks - keep) * size, dtype=torch.float64, device=place)
    alive = torch.ones(blocks, dtype=torch.bool, device=place)
    removed = 0
    while removed < blocks - keep:
        portion = max(1, (blocks - removed if shrinking else blocks) // PORTION) if size == 1 else 1
        costs = torch.where(alive, _costs(columns, squares), torch.inf)
        if group:
            full = alive.reshape(-1, group).sum(1) > least
            costs = torch.where(full[numbers // group], costs, torch.inf)
        leave = costs.argsort()[: min(portion, blocks - keep - removed)]
        before = factors[:, : removed * size]
        while True:
            gone = (leave[:, None] * size + inside).flatten()
            cross = inverse[:, gone] - before @ before[gone].T
            root = torch.linalg.cholesky(cross[gone])
            # copies of one another all cost nothing, until all but one are gone
            dear = root.diagonal().pow(2) < DEARER * cross[gone].diagonal()
            if size > 1 or not bool(dear.any()):
                break
            leave = leave[~dear]
        alive[leave] = False
        cross = torch.linalg.solve_triangular(root, cross.T, upper=False).T
        factors[:, removed * size : removed * size + len(gone)] = cross
        # in place: what is taken from the system anew takes longer than the sums
        columns.addmm_(cross, torch.linalg.solve_triangular(root, columns[gone], upper=False), alpha=-1)
        opened = cross.reshape(blocks, size, -1)
        squares -= opened @ opened.mT if size > 1 else opened.pow(2).sum(-1, keepdim=True)
        squares[leave] = torch.eye(size, dtype=torch.float64, device=place)  # nothing is left of them to solve with
        removed += len(leave)
        yield leave.cpu()


def _inverse(gram: Tensor) -> Tensor:
    """The inverse of a positive definite matrix, in its place."""
    return torch.cholesky_inverse(torch.linalg.cholesky(gram), out=gram)


def kept_heads(
    gram: Tensor,
    weight: Tensor,
    size: int,
    groups: tuple[tuple[int, int], tuple[int, int]],
    ridge: float = RIDGE,
) -> Tensor:
    """Indices of the query heads whose loss the others can make up for least.

    Whole groups that share keys and values are pruned first, then heads of each group.

    Args:
        gram: mean product of what the output matrix reads, (heads x head size, heads x head size), float64.
        weight: the output matrix.
        size: the head size.
        groups: ((groups, query heads of each) of the source, the same of the target).
        ridge: the ridge of the refit that follows.

    Returns:
        Indices of the kept heads, ascending.
    """
    (_, each), (keep, most) = groups
    kept = kept_units(gram, weight, keep, each * size, ridge)
    heads = (kept[:, None] * each + torch.arange(each)).flatten()
    if most == each:
        return heads
    entries = (heads[:, None] * size + torch.arange(size)).flatten()
    inner = kept_units(gram[entries][:, entries], weight[:, entries], keep * most, size, ridge, each, most)
    return heads[inner]


def _costs(columns: Tensor, squares: Tensor) -> Tensor:
    """What each block costs, from the columns of the weight, (inputs, outputs), and its block of [G^-1]."""
    blocks, size, _ = squares.shape
    if size == 1:
        return columns.pow(2).sum(1) / squares.flatten().clamp_min(1e-30)
    parts = columns.reshape(blocks, size, -1)
    return (parts * torch.linalg.solve(squares, parts)).sum((1, 2))
