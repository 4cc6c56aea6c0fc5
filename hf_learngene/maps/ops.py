"""Ops: what is done to one tensor along one dimension.

An op is a small frozen object with a call and a label. `Context` gives it random numbers and other source tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hf_learngene.maps.noise import fill
from hf_learngene.maps.scratch import Scratch


@dataclass
class Context:
    """What an op may use besides the tensor: the source's other tensors, and random numbers of its own.

    Attributes:
        read: name -> source tensor.
        seed: the caller's seed.
        name: the target tensor, so that every tensor draws its own numbers whatever the order.
        more: whether another op follows, which makes new memory: until then a view will do, or what lies in `scratch`.
        scratch: memory for what does not last; None where gradients are followed.
    """

    read: Callable[[str], Tensor]
    seed: int = 0
    name: str = ""
    draws: int = 0
    more: bool = False
    scratch: Scratch | None = None
    rooms: int = 0

    def room(self, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> Tensor | None:
        """Memory for what lasts until the tensor is made, another each time; None where the result needs memory of its own."""
        if self.scratch is None or not self.more:
            return None
        self.rooms += 1  # an op may be made of others, and need what each of them gives
        return self.scratch.room(f"room {self.rooms}", shape, dtype)

    def normal(
        self, shape: tuple[int, ...] | torch.Size, std: float, dtype: torch.dtype, passing: bool = False
    ) -> Tensor:
        """Normal numbers that depend on nothing but the seed, the tensor's name and the number of earlier draws.

        What is `passing` is lost when the next of these are drawn.
        """
        self.draws += 1
        count = math.prod(shape)
        if passing and self.scratch is not None:
            flat = self.scratch.room("noise", (count,), dtype)
        else:
            flat = torch.empty(count, dtype=dtype, device="cpu")
        fill(flat, std, self.seed, f"{self.name}|{self.draws}")
        return flat.reshape(tuple(shape))


class Op:
    """Turns a tensor into a tensor.

    Attributes:
        label: what the report says; an empty label says nothing.
        only_moves: whether every entry of the result is an entry of the tensor, a zero or a one. In half precision that needs no
            arithmetic in float32.
    """

    label: str = ""
    only_moves: bool = False

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it does")


@dataclass(frozen=True)
class Blocks:
    """How a dimension is fused of equal parts, and how to see it as (parts, rest)."""

    dim: int
    parts: int = 1
    by_head: bool = False
    heads: tuple[int, int] = (1, 1)  # source and target number of heads, where the parts lie inside each head

    def apply(self, tensor: Tensor, act: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Runs `act(tensor, dim)` on each part alike: on one more dimension before `dim`."""
        if self.parts == 1:
            return act(tensor, self.dim)
        before, after = tensor.shape[: self.dim], tensor.shape[self.dim + 1 :]
        if self.by_head:
            opened = tensor.reshape(*before, self.heads[0], self.parts, -1, *after).transpose(self.dim, self.dim + 1)
            opened = opened.reshape(*before, self.parts, -1, *after)
        else:
            opened = tensor.reshape(*before, self.parts, -1, *after)
        done = act(opened, self.dim + 1)
        if self.by_head:
            done = done.reshape(*before, self.parts, self.heads[1], -1, *after).transpose(self.dim, self.dim + 1)
        return done.reshape(*before, -1, *after)


def _along(vector: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """`vector` shaped to multiply `tensor` along `dim`."""
    return vector.reshape([-1 if i == dim else 1 for i in range(tensor.dim())])


def _progression(index: Tensor) -> slice | None:
    """The slice that picks `index`, if it is an ascending progression: slices are copied several times faster."""
    if len(index) == 0:
        return slice(0, 0)
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    first = int(index[0])
    if step <= 0 or not torch.equal(index, torch.arange(len(index)) * step + first):
        return None
    return slice(first, first + step * (len(index) - 1) + 1, step)


class _Stretch(NamedTuple):
    """Neighbours with the same flag."""

    start: int
    length: int
    flag: bool


def _stretches(flags: Tensor) -> list[_Stretch]:
    """Stretches of equal flags, in order."""
    values, lengths = torch.unique_consecutive(flags, return_counts=True)
    starts = (lengths.cumsum(0) - lengths).tolist()
    return [_Stretch(*found) for found in zip(starts, lengths.tolist(), values.tolist(), strict=True)]


def select(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """`tensor.index_select(dim, index)`, as a view where a slice can say it."""
    span = _progression(index)
    return tensor.index_select(dim, index) if span is None else tensor[(slice(None),) * dim + (span,)]


def gather(tensor: Tensor, dim: int, index: Tensor, out: Tensor | None = None) -> Tensor:
    """`tensor.index_select(dim, index)`, in new memory or in `out`; copied in pieces where `index` starts over regularly."""
    restart = (index == index[0]).nonzero().flatten().tolist() if len(index) else []
    bounds = [*restart, len(index)]
    if 0 < len(restart) <= 16:
        slices = [_progression(index[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
        if all(s is not None for s in slices):
            pieces = [tensor[(slice(None),) * dim + (s,)] for s in slices]
            if len(pieces) > 1:
                return torch.cat(pieces, dim, out=out)
            return pieces[0].clone(memory_format=torch.contiguous_format) if out is None else out.copy_(pieces[0])
    return torch.index_select(tensor, dim, index.to(tensor.device), out=out)


def put(
    target: Tensor, dim: int, places: Tensor, values: Tensor, factor: float = 1.0, more: Tensor | None = None
) -> None:
    """Writes `values` x `factor` (+ `more`) to `places` of `target` along `dim`."""
    span = _progression(places)
    if span is None:
        scaled = values * factor if more is None else torch.add(more, values, alpha=factor)
        target.index_copy_(dim, places, scaled.contiguous())
        return
    view = target[(slice(None),) * dim + (span,)]
    if more is not None:
        torch.add(more, values, alpha=factor, out=view)
    elif factor == 1.0:
        view.copy_(values)
    else:
        torch.mul(values, factor, out=view)


@dataclass(frozen=True, eq=False)
class Take(Op):
    """Picks entries along a dimension; an index of -1 is a new entry.

    Attributes:
        index: (target size,) source entry of each target entry, int64.
        new: what a new entry is: `zero`, `mean` (of all source entries), `random` (normal, `std`).
        weights: with `mean`: name of a source vector that weighs the entries first (a LayerScale).
        scale: factor for every entry.
    """

    blocks: Blocks
    index: Tensor
    label: str = ""
    new: str = "zero"
    std: float = 0.02
    weights: str = ""
    scale: float = 1.0

    @property
    def only_moves(self) -> bool:  # type: ignore[override]
        return self.scale == 1.0 and (self.new in ("zero", "one") or not bool((self.index < 0).any()))

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        taken = self.blocks.apply(tensor, lambda part, dim: self._take(part, dim, context))
        return taken.mul_(self.scale) if self.scale != 1.0 else taken

    def _take(self, tensor: Tensor, dim: int, context: Context) -> Tensor:
        is_new = self.index < 0
        if not bool(is_new.any()):
            views = context.more and self.scale == 1.0 and _progression(self.index) is not None
            if views:
                return select(tensor, dim, self.index)
            return gather(tensor, dim, self.index, self._room(tensor, dim, context))
        pieces = []
        for start, length, new in _stretches(is_new):
            piece = self.index[start : start + length]
            pieces.append(self._new(tensor, dim, length, context) if new else gather(tensor, dim, piece))
        return torch.cat(pieces, dim, out=self._room(tensor, dim, context))

    def _room(self, tensor: Tensor, dim: int, context: Context) -> Tensor | None:
        shape = [len(self.index) if i == dim else n for i, n in enumerate(tensor.shape)]
        return context.room(torch.Size(shape), tensor.dtype)

    def _new(self, tensor: Tensor, dim: int, count: int, context: Context) -> Tensor:
        shape = [count if i == dim else n for i, n in enumerate(tensor.shape)]
        if self.new == "mean":
            weighed = tensor * _along(context.read(self.weights).to(tensor), tensor, dim) if self.weights else tensor
            return weighed.mean(dim, keepdim=True).expand(shape)
        if self.new == "random":
            return context.normal(torch.Size(shape), self.std, tensor.dtype)
        return torch.full(shape, 1.0 if self.new == "one" else 0.0, dtype=tensor.dtype, device=tensor.device)


@dataclass(frozen=True, eq=False)
class Split(Op):
    """Splits each source column over its copies, so that the copies sum to it: W_j = R_j + (W - sum R) / n.

    Attributes:
        index: (target size,) source entry of each target entry; -1 is a new column.
        std: standard deviation of R; 0 splits equally.
        new: what a new column is: `zero` or `random`.
        cancel: drop W: the copies sum to nothing, a column with one copy is zero (LEMON's `cancelzero`).
        first: the first copy holds the column, W_0 = W - sum R, and the others noise alone, W_j = R_j (LEMON's `comp`).
        ratio: size of R over that of W / n, in place of `std`; neighbours get one R with either sign (HyperCloning).
    """

    blocks: Blocks
    index: Tensor
    label: str = ""
    std: float = 0.0
    new: str = "zero"
    new_std: float = 0.02
    cancel: bool = False
    first: bool = False
    ratio: float = 0.0

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        return self.blocks.apply(tensor, lambda part, dim: self._split(part, dim, context))

    def _split(self, tensor: Tensor, dim: int, context: Context) -> Tensor:
        if self.std == 0 and self.ratio == 0 and not self.cancel and bool((self.index >= 0).all()):
            return self._equally(tensor, dim)
        target = tensor.new_empty([len(self.index) if i == dim else n for i, n in enumerate(tensor.shape)])
        columns = torch.arange(tensor.shape[dim])
        copies = torch.bincount(self.index[self.index >= 0], minlength=tensor.shape[dim])
        # where the copies of each source column stand, the first copies first
        order = torch.sort(torch.where(self.index < 0, tensor.shape[dim], self.index), stable=True).indices
        starts = copies.cumsum(0) - copies
        for count in sorted(set(copies.tolist())):
            chosen = columns[copies == count]
            part = select(tensor, dim, chosen)
            noises = self._noises(part, count, context) if (self.std or self.ratio) and count > 1 else None
            for copy in range(count):
                places = order[starts[chosen] + copy]
                share = torch.zeros_like(part) if self.cancel else part
                noise = next(noises) if noises is not None else None
                put(target, dim, places, share, float(copy == 0) if self.first else 1.0 / count, noise)
        places = (self.index < 0).nonzero().flatten()
        if len(places):
            shape = torch.Size([len(places) if i == dim else n for i, n in enumerate(target.shape)])
            new = (
                context.normal(shape, self.new_std, target.dtype) if self.new == "random" else target.new_zeros(shape)
            )
            put(target, dim, places, new)
        return target

    def _equally(self, tensor: Tensor, dim: int) -> Tensor:
        """The copies without noise. Out of place, so that gradients pass: a learngene's weights are made of it too."""
        copies = torch.bincount(self.index)[self.index]
        return gather(tensor, dim, self.index) * _along(copies.double().reciprocal().to(tensor), tensor, dim)

    def _noises(self, part: Tensor, count: int, context: Context) -> Iterator[Tensor]:
        """`count` random parts that sum to zero: R_j - mean R; for two, one draw and its negative are as good."""
        if self.ratio:
            std = self.ratio * float(part.norm()) / (count * math.sqrt(part.numel()))
            for _ in range(count // 2):
                noise = context.normal(part.shape, std, part.dtype, passing=True)
                yield noise
                yield noise.neg_()
            if count % 2:
                yield torch.zeros_like(part)
            return
        if self.first:
            drawn = [context.normal(part.shape, self.std, part.dtype) for _ in range(count - 1)]
            yield torch.stack(drawn).sum(0).neg_()
            yield from drawn
            return
        if count == 2:
            noise = context.normal(part.shape, self.std * math.sqrt(0.5), part.dtype, passing=True)
            yield noise
            yield noise.neg_()
            return
        drawn = [context.normal(part.shape, self.std, part.dtype) for _ in range(count)]
        mean = torch.stack(drawn).mean(0)
        for noise in drawn:
            yield noise.sub_(mean)


@dataclass(frozen=True, eq=False)
class Matrix(Op):
    """Multiplies along a dimension by a dense (target, source) matrix."""

    blocks: Blocks
    matrix: Tensor
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        def act(part: Tensor, dim: int) -> Tensor:
            moved = part.movedim(dim, -1)
            return (moved @ self.matrix.to(part.dtype).T).movedim(-1, dim).contiguous()

        return self.blocks.apply(tensor, act)


@dataclass(frozen=True)
class Weigh(Op):
    """Multiplies along a dimension by a vector of the source (a LayerScale that the target does without).

    Attributes:
        dim: the dimension.
        name: the source vector.
    """

    dim: int
    name: str
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        vector = context.read(self.name).to(tensor)  # parts that are fused are weighed alike
        return tensor * _along(vector.repeat(tensor.shape[self.dim] // len(vector)), tensor, self.dim)


@dataclass(frozen=True)
class Scale(Op):
    """Multiplies everything by one number."""

    factor: float
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        return tensor * self.factor


@dataclass(frozen=True)
class Fill(Op):
    """Replaces every entry by one number."""

    value: float
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        return torch.full_like(tensor, self.value)


def uniform_indices(old: int, new: int) -> Tensor:
    """Evenly spaced entries: the index rule released with Weight Selection (arXiv 2311.18823).

    A whole multiple takes every (old / new)-th entry from 0; any other size takes the rounded entries of a float32
    `linspace(0, old - 1, new)`, which counts up from 0 in its lower half and down from old - 1 in its upper. The released
    code before its fix of September 2024 ran past the end there; this is the fixed rule. Where more than 3,000 entries
    lose one to three, float32 is too coarse, and an entry may come twice: that is the release's too.

    Example:
        >>> uniform_indices(6, 3).tolist(), uniform_indices(5, 3).tolist()
        ([0, 2, 4], [0, 2, 4])
    """
    if old % new == 0:
        return torch.arange(new) * (old // new)
    # float32 and both ends are the release's: they decide which way a half is rounded. torch.linspace itself would do, but
    # its last bit depends on the processor, which may or may not fuse product and sum. Both are exact in float64 (24 bits
    # times a small integer), so rounding once to float32 is the fused result, everywhere.
    step = torch.tensor(old - 1, dtype=torch.float32).div(torch.tensor(new - 1, dtype=torch.float32)).double()
    place = torch.arange(new, dtype=torch.float64)
    spaced = torch.where(place < new // 2, place * step, (old - 1) - (new - 1 - place) * step)
    return spaced.float().round().to(torch.int64)
