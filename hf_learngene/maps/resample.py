"""Ops for what lies on a grid or a line: position tables, relative position tables, patch kernels, channels; frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_learngene.maps.ops import Context, Op


@dataclass(frozen=True)
class ResampleGrid(Op):
    """Resamples a table over an image's patches in 2-D; leading prefix tokens are kept as they are.

    Bicubic with antialiasing, as timm's `resample_abs_pos_embed`.
    """

    dim: int
    old: tuple[int, int]
    new: tuple[int, int]
    prefix: int
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        moved = tensor.movedim(self.dim, 0)
        prefix, grid = moved[: self.prefix], moved[self.prefix :]
        rest = grid.shape[1:]
        image = grid.reshape(1, *self.old, -1).permute(0, 3, 1, 2)
        image = F.interpolate(image, size=self.new, mode="bicubic", antialias=True, align_corners=False)
        grid = image.permute(0, 2, 3, 1).reshape(self.new[0] * self.new[1], *rest)
        return torch.cat([prefix, grid]).movedim(0, self.dim).contiguous()


@dataclass(frozen=True)
class ResampleRelative(Op):
    """Resamples a table of relative positions, (2h-1)(2w-1) entries and the special ones behind them (BEiT)."""

    dim: int
    old: tuple[int, int]
    new: tuple[int, int]
    special: int
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        moved = tensor.movedim(self.dim, 0)
        count = moved.shape[0] - self.special
        special, grid = moved[count:], moved[:count]
        old, new = (tuple(2 * n - 1 for n in size) for size in (self.old, self.new))
        image = grid.reshape(1, *old, -1).permute(0, 3, 1, 2)
        image = F.interpolate(image, size=new, mode="bicubic", align_corners=True)  # distance 0 stays in the middle
        grid = image.permute(0, 2, 3, 1).reshape(new[0] * new[1], *grid.shape[1:])
        return torch.cat([grid, special]).movedim(0, self.dim).contiguous()


@dataclass(frozen=True)
class ResampleLine(Op):
    """Interpolates a table over text positions in 1-D, first and last kept; leading padding rows are kept."""

    dim: int
    new: int
    prefix: int
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        moved = tensor.movedim(self.dim, 0)
        prefix, line = moved[: self.prefix], moved[self.prefix :]
        flat = line.reshape(1, line.shape[0], -1).transpose(1, 2)
        flat = F.interpolate(flat, size=self.new - self.prefix, mode="linear", align_corners=True)
        line = flat.transpose(1, 2).reshape(-1, *line.shape[1:])
        return torch.cat([prefix, line]).movedim(0, self.dim).contiguous()


@dataclass(frozen=True)
class RepeatLine(Op):
    """Keeps every position and starts over behind the last one: what was exact for short inputs stays exact."""

    dim: int
    new: int
    prefix: int
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        old = tensor.shape[self.dim]
        index = torch.arange(self.new)
        index = torch.where(index < old, index, self.prefix + (index - self.prefix) % (old - self.prefix))
        return tensor.index_select(self.dim, index)


@dataclass(frozen=True)
class ResampleKernel(Op):
    """Resamples patch kernels so that resized patches give the same embedding (FlexiViT, arXiv 2212.08013, section 3.4).

    Pseudo-inverse of the bilinear resize P -> P*: w* = argmin over w of E (<x, w> - <Bx, w*>)^2.
    """

    old: tuple[int, int]
    new: tuple[int, int]
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        count = self.old[0] * self.old[1]
        eye = torch.eye(count, dtype=torch.float64).reshape(count, 1, *self.old)
        grows = self.new[0] >= self.old[0] and self.new[1] >= self.old[1]
        resized = F.interpolate(eye, size=self.new, mode="bilinear", antialias=not grows, align_corners=False)
        matrix = torch.linalg.pinv(resized.reshape(count, -1))  # (new, old)
        flat: Tensor = tensor.reshape(*tensor.shape[:2], count).to(torch.float64) @ matrix.T
        return flat.reshape(*tensor.shape[:2], *self.new).to(tensor.dtype)


@dataclass(frozen=True)
class MixChannels(Op):
    """Fits a patch kernel to another number of image channels; the response to a grey image stays the same.

    Channels are repeated in turn and share what their source had, or are folded onto the ones that stay.
    """

    dim: int
    new: int
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        old = tensor.shape[self.dim]
        source, target = torch.arange(max(old, self.new)) % old, torch.arange(max(old, self.new)) % self.new
        shares = 1.0 / torch.bincount(source)[source].to(tensor.dtype)
        parts = tensor.index_select(self.dim, source).movedim(self.dim, -1) * shares
        folded = parts.new_zeros(*parts.shape[:-1], self.new).index_add_(-1, target, parts)
        return folded.movedim(-1, self.dim).contiguous()


@dataclass(frozen=True)
class FirstRows(Op):
    """Keeps the first rows of a table; rows it lacks are drawn anew."""

    dim: int
    new: int
    std: float = 0.02
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        old = tensor.shape[self.dim]
        if self.new <= old:
            return tensor.narrow(self.dim, 0, self.new).clone()
        shape = [self.new - old if i == self.dim else n for i, n in enumerate(tensor.shape)]
        fresh = context.normal(torch.Size(shape), self.std if tensor.dim() > 1 else 0.0, tensor.dtype)
        return torch.cat([tensor, fresh], self.dim)


def dct_matrix(old: int, new: int) -> Tensor:
    """Orthonormal DCT-II of size `old`, its low frequencies cut or zero-padded, inverse of size `new`, constants kept.

    A constant vector stays that constant: an orthonormal transform alone would scale it by sqrt(old / new).

    Returns:
        `Tensor` of shape (new, old), float64.

    Example:
        >>> dct_matrix(4, 2).sum(1).round(decimals=6).tolist()
        [1.0, 1.0]
    """

    def basis(size: int) -> Tensor:
        frequency = torch.arange(size, dtype=torch.float64)[:, None]
        place = torch.arange(size, dtype=torch.float64)[None]
        rows = torch.cos(math.pi * frequency * (2 * place + 1) / (2 * size)) * math.sqrt(2 / size)
        rows[0] *= math.sqrt(0.5)
        return rows

    kept = min(old, new)
    return (basis(new)[:kept].T @ basis(old)[:kept]) * math.sqrt(new / old)
