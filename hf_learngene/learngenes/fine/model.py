"""FINE: W[l] = U diag(sigma[l]) V^T, U and V shared by all layers (arXiv 2409.19289)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_learngene.anatomy import TensorInfo
from hf_learngene.learngenes.base import Learngene
from hf_learngene.learngenes.fine.config import FineConfig
from hf_learngene.learngenes.parts import Target, along_depth, path_of, principal, stage_of_each_layer
from hf_learngene.learngenes.weighted_fit import solve_few


SWEEPS = 15  # of the alternating least squares; the residual hardly moves afterwards


class FineLearngene(Learngene):
    """FINE: layers share the factors of their matrices, and a few vectors for biases and norms (the paper is silent on those).

    Queries, keys and values have factors of their own; the paper's are one fused matrix. The paper draws the diagonals of a new
    depth at random and trains them. Here they start on the lines through the auxiliary model's, since the paper itself finds
    them nearly linear in depth; a random start is not offered.
    """

    config_class = FineConfig
    config: FineConfig
    refits = True

    def make(self, template: str, info: TensorInfo) -> None:
        depth = self.anatomy.num_layers
        if is_matrix(info):
            rank = self.rank_of(info)
            groups = self.config.num_groups
            self.add_shared(template, "u", groups, info.shape[0], rank)
            self.add_shared(template, "v", groups, info.shape[1], rank)
            self.add_scaler(template, "sigma", depth, rank)
        else:
            count = min(self.config.num_vectors or -(-depth // 2), depth)
            self.add_shared(template, "vectors", count, *info.shape)
            self.add_scaler(template, "mix", depth, count)

    def rank_of(self, info: TensorInfo) -> int:
        return min(self.config.rank or min(info.shape), *info.shape)

    def draw(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        if not is_matrix(info):
            draw_mixture(self.part(template, "vectors"), self.scaler(template, "mix"), stack)
            return
        u, v = self.part(template, "u"), self.part(template, "v")
        (_, rows, rank), columns = u.shape, v.shape[1]
        u.normal_(std=rows**-0.5)
        v.normal_(std=columns**-0.5)
        # gives W the standard deviation that the family initialises its matrices with
        self.scaler(template, "sigma").normal_(std=float(stack.std()) * (rows * columns / rank) ** 0.5)

    def fit(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        if not is_matrix(info):
            fit_mixture(self.part(template, "vectors"), self.scaler(template, "mix"), stack)
            return
        start = 0
        for group, count in enumerate(self._counts(len(stack))):
            layers = slice(start, start + count)
            u, v, sigma = shared_factors(stack[layers], self.rank_of(info))
            self.part(template, "u")[group].copy_(u)
            self.part(template, "v")[group].copy_(v)
            self.scaler(template, "sigma")[layers].copy_(sigma)
            start += count

    def whole_stages(self, stage: int | None = None) -> list[int] | None:
        depth, groups = self.anatomy.num_layers, self.config.num_groups
        whole = all(not is_matrix(i) or self.rank_of(i) == min(i.shape) for i in self.components.values())
        return stage_of_each_layer(depth, groups) if whole and 2 <= groups < depth else None

    def fit_scalers(self, template: str, info: TensorInfo, layer: int, gram: Tensor, cross: Tensor) -> None:
        if not is_matrix(info):
            return
        group = stage_of_each_layer(self.anatomy.num_layers, self.config.num_groups)[layer]
        u, v = (self.part(template, n)[group].to(gram) for n in ("u", "v"))
        normal = (u.T @ u) * (v.T @ gram @ v)
        sigma = self.scaler(template, "sigma")[layer]
        sigma.copy_(solve_few(normal, ((v.T @ cross) * u.T).sum(1), sigma.to(normal)))

    def fit_vector(self, template: str, info: TensorInfo, layer: int, wanted: Tensor) -> None:
        mix = self.scaler(template, "mix")[layer : layer + 1]
        mix.copy_(mixed(self.part(template, "vectors"), wanted[None], mix))

    def _counts(self, depth: int) -> list[int]:
        """Number of layers of each group at a depth."""
        stages = stage_of_each_layer(depth, self.config.num_groups)
        return [stages.count(group) for group in range(self.config.num_groups)]

    def scaler_rows(self, target: Target) -> dict[str, Tensor]:
        rows = {}
        for path in self.scalers.paths():
            follow = self._along if path.endswith(".sigma") else along_depth
            rows[path] = follow(self.scalers.take(path), target.depth)
        return rows

    def _along(self, sigma: Tensor, depth: int) -> Tensor:
        """Diagonals of another depth, on the lines through those of the same group: others belong to other factors."""
        if self.config.num_groups == 1:
            return along_depth(sigma, depth)
        own, new = self._counts(len(sigma)), self._counts(depth)
        parts = [along_depth(rows, count) for rows, count in zip(sigma.split(own), new, strict=True) if count]
        return torch.cat(parts)

    def materialise(self, template: str, info: TensorInfo, target: Target) -> Sequence[Tensor]:
        path = path_of(template)
        if is_matrix(info):
            u, v = self.part(template, "u"), self.part(template, "v")
            groups = stage_of_each_layer(target.depth, self.config.num_groups)
            sigma = self._along(self.scalers.take(f"{path}.sigma"), target.depth).unbind(0)
            if u.shape[1] > v.shape[1]:  # the shorter factor is the cheaper one to scale
                return [u[g] @ (v[g] * row).T for g, row in zip(groups, sigma, strict=True)]
            return [(u[g] * row) @ v[g].T for g, row in zip(groups, sigma, strict=True)]
        mix = along_depth(self.scalers.take(f"{path}.mix"), target.depth)
        return torch.tensordot(mix, self.part(template, "vectors"), dims=1).unbind(0)


def is_matrix(info: TensorInfo) -> bool:
    """Whether a tensor is a product's matrix, of two widths. Tables and convolutions in a layer are mixed as a whole."""
    return info.kind == "linear" and len(info.dims) == 2 and all(d.side in ("out", "in") for d in info.dims)


def draw_mixture(vectors: Tensor, mix: Tensor, stack: Tensor) -> None:
    """Fills shared vectors at random: the first is what the family starts with, the others are small and wait for training."""
    vectors.normal_(std=0.02)
    vectors[0].copy_(stack.mean(0))
    mix.normal_(std=0.02)
    mix[:, 0].fill_(1.0)


def fit_mixture(vectors: Tensor, mix: Tensor, stack: Tensor) -> None:
    """Fits shared vectors and their mixture by a truncated SVD over the layers."""
    coefficients, shared = principal(stack.reshape(len(stack), -1), len(vectors))
    vectors.copy_(shared.reshape(vectors.shape))
    mix.copy_(coefficients)


def mixed(vectors: Tensor, wanted: Tensor, before: Tensor) -> Tensor:
    """How shared vectors, (number, *shape), are mixed to come nearest to others, (rows, size): (rows, number), float64.

    `before` is how they are mixed, which stays where vectors can hardly be told apart.

    Example:
        >>> found = mixed(torch.eye(3)[:2], torch.tensor([[1.0, 2.0, 5.0]]), torch.zeros(1, 2))
        >>> [round(share, 3) for share in found[0].tolist()]
        [1.0, 2.0]
    """
    flat = vectors.reshape(len(vectors), -1).double()
    return solve_few(flat @ flat.T, flat @ wanted.to(flat).T, before.to(flat).T).T


def shared_factors(stack: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shared factors U (m, r) and V (n, r), and sigma (layers, r) with W[l] ≈ U diag(sigma[l]) V^T in least squares.

    Starts from the SVDs of the layers side by side and on top of one another, then solves for one of the three at a time
    (each in closed form, so the residual never rises). With one layer this is its SVD.

    Example:
        >>> u, v, sigma = shared_factors(torch.eye(3)[None], 3)
        >>> torch.allclose((u * sigma[0]) @ v.T, torch.eye(3), atol=1e-5)
        True
    """
    wide = stack.double()
    rows = torch.einsum("lij,lkj->ik", wide, wide)
    columns = torch.einsum("lij,lik->jk", wide, wide)
    u = torch.linalg.eigh(rows).eigenvectors.flip(-1)[:, :rank]
    v = torch.linalg.eigh(columns).eigenvectors.flip(-1)[:, :rank]
    # the two bases are turned so that they meet: the mean layer becomes diagonal between them
    left, _, right = torch.linalg.svd(u.T @ wide.mean(0) @ v)
    u, v = u @ left, v @ right.T
    sigma = torch.einsum("ir,lij,jr->lr", u, wide, v)
    for _ in range(SWEEPS):
        u = _solve(torch.einsum("lij,jr,lr->ir", wide, v, sigma), (v.T @ v) * (sigma.T @ sigma))
        v = _solve(torch.einsum("lij,ir,lr->jr", wide, u, sigma), (u.T @ u) * (sigma.T @ sigma))
        sigma = _solve(torch.einsum("lij,ir,jr->lr", wide, u, v), (u.T @ u) * (v.T @ v))
    u_size, v_size = u.norm(dim=0).clamp_min(1e-12), v.norm(dim=0).clamp_min(1e-12)
    return tuple(t.to(stack.dtype) for t in (u / u_size, v / v_size, sigma * u_size * v_size))


def _solve(right: Tensor, gram: Tensor) -> Tensor:
    """`right @ inverse(gram)`; a little on the diagonal keeps factors that vanish from blowing up."""
    ridge = 1e-10 * gram.diagonal().mean().clamp_min(1e-30)
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), right.T).T


__all__ = ["FineLearngene"]
