"""The linear part of a recipe: what becomes of a change of the source's tensor, in the tensor that is made of it.

Every op but a few is affine: it moves entries along one dimension, and may add noise, constants and new entries, in which a
change of the source has no part. So a change of low rank stays one: ops on the rows act on its left factor,
the others on its right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import singledispatch
from typing import NamedTuple

from torch import Tensor

from hf_learngene.maps.ops import Context, Fill, Matrix, Op, Scale, Split, Take, Weigh
from hf_learngene.maps.recipe import TensorRecipe
from hf_learngene.maps.resample import (
    FirstRows,
    MixChannels,
    RepeatLine,
    ResampleGrid,
    ResampleKernel,
    ResampleLine,
    ResampleRelative,
)
from hf_learngene.maps.selection import Keep


class LinearOp(NamedTuple):
    """An op without what it adds.

    Attributes:
        op: what is left of it.
        dim: the one dimension that it acts along; 0 too where it acts on every entry alike, -1 where on several behind the rows.
    """

    op: Op
    dim: int = 0


@singledispatch
def linear(op: Op) -> LinearOp | None:
    """The linear part of an op; None where it has none along one dimension. An op of a method's own registers its own.

    Example:
        >>> import torch
        >>> from hf_learngene.maps.ops import Blocks
        >>> linear(Take(Blocks(1), torch.tensor([0, -1]), new="random")).op.new, linear(Op())
        ('zero', None)
    """
    return None


@linear.register
def _(op: Take) -> LinearOp:
    return LinearOp(dataclasses.replace(op, new="mean" if op.new == "mean" else "zero"), op.blocks.dim)


@linear.register
def _(op: Split) -> LinearOp:
    return LinearOp(dataclasses.replace(op, std=0.0, ratio=0.0, new="zero"), op.blocks.dim)


@linear.register
def _(op: Matrix) -> LinearOp:
    return LinearOp(op, op.blocks.dim)


@linear.register
def _(op: Scale) -> LinearOp:
    return LinearOp(op)


@linear.register
def _(op: Fill) -> LinearOp:
    return LinearOp(Fill(0.0))


@linear.register(Keep)
@linear.register(MixChannels)
@linear.register(RepeatLine)
@linear.register(ResampleGrid)
@linear.register(ResampleLine)
@linear.register(ResampleRelative)
@linear.register(Weigh)
def _along(op: Keep | MixChannels | RepeatLine | ResampleGrid | ResampleLine | ResampleRelative | Weigh) -> LinearOp:
    return LinearOp(op, op.dim)


@linear.register
def _(op: FirstRows) -> LinearOp:
    return LinearOp(dataclasses.replace(op, std=0.0), op.dim)


@linear.register
def _(op: ResampleKernel) -> LinearOp:
    return LinearOp(op, -1)


class LinearRecipe:
    """The linear part of a recipe with one source."""

    def __init__(self, recipe: TensorRecipe, ops: tuple[LinearOp, ...], read: Callable[[str], Tensor]) -> None:
        self.recipe, self._ops, self._read = recipe, ops, read

    @classmethod
    def of(cls, recipe: TensorRecipe, read: Callable[[str], Tensor]) -> LinearRecipe | None:
        """The linear part of a recipe; None where it mixes several tensors, or does what is not linear along one dimension.

        Args:
            recipe: how a target tensor is made.
            read: name -> source tensor.
        """
        ops = tuple(linear(op) for op in recipe.ops)
        if len(recipe.sources) != 1 or any(op is None for op in ops):
            return None
        return cls(recipe, tuple(op for op in ops if op is not None), read)

    @property
    def source(self) -> str:
        """The source tensor."""
        return self.recipe.sources[0][0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the target tensor."""
        return self.recipe.shape

    def __call__(self, tensor: Tensor) -> Tensor:
        """What becomes of a change of the source tensor, of its shape."""
        return self._run(tensor * self.recipe.sources[0][1], lambda dim: True)

    def rows(self, factor: Tensor) -> Tensor:
        """What becomes of the left factor, (rows of the source, rank), of such a change."""
        return self._run(factor * self.recipe.sources[0][1], lambda dim: dim == 0)

    def columns(self, factor: Tensor) -> Tensor:
        """What becomes of the right factor, (rank, what else the source tensor has)."""
        return self._run(factor.clone(), lambda dim: dim != 0)

    def _run(self, tensor: Tensor, chosen: Callable[[int], bool]) -> Tensor:
        context = Context(self._read, name=self.recipe.name)
        for op in self._ops:
            if chosen(op.dim):
                tensor = op.op(tensor, context)
        return tensor


__all__ = ["LinearOp", "LinearRecipe", "linear"]
