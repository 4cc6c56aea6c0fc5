"""Units, coordinates and directions to keep, by their second-order cost under the source's activations."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_learngene.pruning.moments import RIDGE, damp


UNIT_RIDGE = 10.0  # times the ridge of the refit: fewer tokens speak for a choice than for a fit
FLOOR = 1e-7  # exact copies leave the matrix without an inverse
PORTION = 64  # of the units, one share in so many is pruned between two corrections


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
    blocks, place = len(gram) // size, gram.device
    inside, numbers = torch.arange(size, device=place), torch.arange(blocks, device=place)
    columns = weight.to(place, torch.float64).T.clone()  # (inputs, outputs)
    inverse = _inverse(damp(gram, max(UNIT_RIDGE * ridge, FLOOR)))
    squares = inverse.reshape(blocks, size, blocks, size)[numbers, :, numbers].clone()  # (blocks, size, size)
    # [G^-1] of what is left is [G^-1] - F F^T: only what is read of it is worked out
    factors = torch.empty(len(gram), (blocks - keep) * size, dtype=torch.float64, device=place)
    alive = torch.ones(blocks, dtype=torch.bool, device=place)
    portion = max(1, blocks // PORTION) if size == 1 else 1
    for first in range(0, blocks - keep, portion):
        costs = torch.where(alive, _costs(columns, squares), torch.inf)
        if group:
            full = alive.reshape(-1, group).sum(1) > least
            costs = torch.where(full[numbers // group], costs, torch.inf)
        leave = costs.argsort()[: min(portion, blocks - keep - first)]
        alive[leave] = False
        gone = (leave[:, None] * size + inside).flatten()
        before = factors[:, : first * size]
        cross = inverse[:, gone] - before @ before[gone].T
        root = torch.linalg.cholesky(cross[gone])
        cross = torch.linalg.solve_triangular(root, cross.T, upper=False).T
        factors[:, first * size : first * size + len(gone)] = cross
        columns -= cross @ torch.linalg.solve_triangular(root, columns[gone], upper=False)
        opened = cross.reshape(blocks, size, -1)
        squares -= opened @ opened.mT
        squares[leave] = torch.eye(size, dtype=torch.float64, device=place)  # nothing is left of them to solve with
    return alive.nonzero().flatten().cpu()


def _inverse(gram: Tensor) -> Tensor:
    """The inverse of a positive definite matrix."""
    return torch.cholesky_inverse(torch.linalg.cholesky(gram))


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


def principal_directions(covariance: Tensor, count: int, centred: bool) -> Tensor:
    """The `count` orthonormal directions of most variance of the residual stream, (width, count).

    Args:
        covariance: mean product of the normalised residual stream, (width, width).
        count: how many.
        centred: whether the residual stream's norms subtract the mean, so that the direction of ones says nothing.
    """
    width = len(covariance)
    if centred:
        basis = without_ones(width)
        return basis @ torch.linalg.eigh(basis.T @ covariance @ basis).eigenvectors.flip(-1)[:, :count]
    return torch.linalg.eigh(covariance).eigenvectors.flip(-1)[:, :count]


def without_ones(width: int) -> Tensor:
    """An orthonormal basis of all vectors with mean 0, (width, width - 1), float64.

    Example:
        >>> basis = without_ones(4)
        >>> bool(basis.sum(0).abs().max() < 1e-12), torch.allclose(basis.T @ basis, torch.eye(3, dtype=torch.float64))
        (True, True)
    """
    helmert = torch.ones(width, width, dtype=torch.float64).triu(0)[:, 1:]
    steps = torch.arange(1, width, dtype=torch.float64)
    helmert[torch.arange(1, width), torch.arange(width - 1)] = -steps
    return helmert / (steps * (steps + 1)).sqrt()


def stream_map(covariance: Tensor, width: int, centred: bool) -> Tensor:
    """The rotation of the residual stream to fewer directions, (source width, target width); norms keep variance and epsilon.

    The target's stream holds the principal part of the source's in the vectors its own norms can see (those of mean 0, where
    the norms subtract the mean).

    Source: SliceGPT (arXiv 2401.15024, section 3) with one rotation for all sites; the directions of mean 0 are ours.
    """
    old = len(covariance)
    if centred:
        directions = principal_directions(covariance, min(width, old) - 1, True) @ without_ones(width)[:, : old - 1].T
    else:
        directions = principal_directions(covariance, width, False)
    return directions * (width / old) ** 0.5


def mixed_map(covariance: Tensor, width: int, gains: Tensor) -> Tensor:
    """The map of a post-norm residual stream to fewer directions, (source width, target width), that norms mind least.

    A norm's mean must stay a mean: the direction of ones goes to that of ones, the principal ones of mean 0 to others of mean 0.
    Which to which is free, and the gains of norms, which scale entries, decide: those directions that they hardly mix are brought
    near to the target's entries.

    Args:
        covariance: mean product of what norms hand on, (source width, source width).
        width: the target's.
        gains: of the source's norms, their mean, (source width,).

    Example:
        >>> stream = mixed_map(torch.eye(4, dtype=torch.float64), 3, torch.tensor([1.0, 2.0, 3.0, 4.0]))
        >>> torch.allclose(stream.T @ stream, 0.75 * torch.eye(3, dtype=torch.float64))
        True
        >>> torch.allclose(stream.sum(1), torch.full((4,), 0.75, dtype=torch.float64))
        True
    """
    old = len(covariance)
    directions = principal_directions(covariance, width - 1, True)
    directions = directions @ torch.linalg.eigh(directions.T @ (gains.double()[:, None] * directions)).eigenvectors
    near = torch.eye(width, dtype=torch.float64)[:, : width - 1] - 1 / width  # entries but the last, brought to mean 0
    left, _, right = torch.linalg.svd(near, full_matrices=False)
    ones = torch.full((old, width), (old * width) ** -0.5, dtype=torch.float64)
    return (directions @ (left @ right).T + ones) * (width / old) ** 0.5


def head_maps(queries: Tensor, keys: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Maps of one head's queries and keys to fewer dimensions that preserve their products best.

    Minimises |q (I - A B^T) k^T| over tokens, from the second moments of both.

    Args:
        queries: mean product over tokens, (head size, head size).
        keys: the same of the keys.
        size: the new head size.

    Returns:
        A and B, (head size, size): the new query is q @ A, the new key k @ B.
    """
    left, left_inverse = _roots(queries)
    right, right_inverse = _roots(keys)
    u, s, v = torch.linalg.svd(left @ right)
    root = s[:size].sqrt()
    return left_inverse @ u[:, :size] * root, right_inverse @ v[:size].T * root


def value_map(values: Tensor, reader: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The map of one head's values to fewer dimensions that preserves what is read of them best, and its way back.

    Args:
        values: mean product of the values as the output matrix reads them, (head size, head size).
        reader: the output matrix's columns of this head, (width, head size).
        size: the new head size.

    Returns:
        A (head size, size) and B (size, head size): the new value is v @ A, and v A B is near v where it is read.
    """
    root, inverse = _roots(values)
    u, _, _ = torch.linalg.svd(root @ reader.double().T, full_matrices=False)
    if u.shape[1] < size:
        u = torch.linalg.qr(torch.cat([u, torch.eye(len(u), dtype=u.dtype, device=u.device)], 1)).Q
    return inverse @ u[:, :size], u[:, :size].T @ root


def _roots(gram: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(1e-10 * values.max().clamp_min(1e-30))
    return vectors * values.sqrt() @ vectors.T, vectors / values.sqrt() @ vectors.T
