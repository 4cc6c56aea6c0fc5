"""Rotations of the residual stream, and maps of a head's queries, keys and values, to fewer dimensions."""

from __future__ import annotations

import torch
from torch import Tensor


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


def turned_map(covariance: Tensor, centred: bool) -> Tensor:
    """The rotation of the residual stream after which `nested_map` takes its principal directions, (width, width), orthogonal.

    Args:
        covariance: mean product of the normalised residual stream, (width, width).
        centred: whether the norms subtract the mean: then the direction of ones stays where it is.

    Example:
        >>> turn = turned_map(torch.diag(torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)), False)
        >>> (turn @ nested_map(3, 1, False)).abs().flatten().tolist()
        [0.0, 0.5773502691896257, 0.0]
    """
    width = len(covariance)
    if not centred:
        return principal_directions(covariance, width, False)
    mean_free = reflected(torch.eye(width, dtype=torch.float64))[:-1]
    return principal_directions(covariance, width - 1, True) @ mean_free + 1 / width


def nested_map(old: int, new: int, centred: bool) -> Tensor:
    """The map of a residual stream that `turned_map` turned to fewer directions, (old, new): the same whatever the weights.

    Args:
        old: width of the source.
        new: width of the target.
        centred: whether the norms subtract the mean: then the first `new - 1` directions go to the vectors of mean 0.
    """
    return narrowed(torch.eye(old, dtype=torch.float64), new, centred)


def narrowed(values: Tensor, new: int, centred: bool, factor: float = 1.0) -> Tensor:
    """`factor * values @ nested_map(...)`, (..., old) -> (..., new), for about the price of a copy. Differentiable."""
    old = values.shape[-1]
    scale = factor * (new / old) ** 0.5
    if not centred:
        return values[..., :new] * scale
    if new == 1:
        return values[..., :1] * 0.0  # a norm that subtracts the mean sees nothing of one entry
    # a mirror's vector has one number in all entries but the last: what is added to the first ones is the same for all
    (every, last), (new_every, new_last) = _mirror(old), _mirror(new)
    first = values[..., : new - 1]
    along = every * values[..., :-1].sum(-1, keepdim=True) + last * values[..., -1:]
    moved = -2 * every * along
    back = -2 * new_every * (first.sum(-1, keepdim=True) + (new - 1) * moved)
    return torch.cat([torch.add((moved + back * new_every) * scale, first, alpha=scale), back * new_last * scale], -1)


def reflected(values: Tensor) -> Tensor:
    """The last axis in its mirror that puts the direction of ones in the place of the last entry, and back (Householder)."""
    width = values.shape[-1]
    if width == 1:
        return values
    every, last = _mirror(width)
    mirror = values.new_full((width,), every)
    mirror[-1] = last
    return values - 2 * (values @ mirror)[..., None] * mirror


def _mirror(width: int) -> tuple[float, float]:
    """The unit vector that a width is mirrored along: every entry but the last, and the last."""
    one = width**-0.5
    length = ((width - 1) * one**2 + (1 - one) ** 2) ** 0.5
    return -one / length, (1 - one) / length


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
