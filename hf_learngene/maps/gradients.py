"""How gradients follow a growth that keeps the function, and with them the moments that Adam made of them.

The growth makes a tensor W' = A(W) + noise and new entries. The loss stays what it was for every W, so the chain rule binds the
gradient g' of the grown tensor to that of the source, g = Aᵀ(g'). Not A but another map B makes g' of g, one with AᵀB = 1:

- copies of an entry that others read in equal shares (rows of a unit that was copied) share its gradient in those shares;
- shares of an entry (columns that were split over copies) each read what the entry read, and each have its whole gradient;
- what is multiplied by a number has its gradient divided by it.

So on an index the gradient of `Take` is a `Split`, and that of `Split` a `Take`. Where all shares are equal and nothing is drawn,
B(g) is the gradient itself. Parts that were drawn and cancel add to it what is zero on average over the draws.
"""

from __future__ import annotations

from functools import singledispatch
from typing import NamedTuple, Self

import torch
from torch import Tensor

from hf_learngene.maps.convolutions import TakeGrouped
from hf_learngene.maps.ops import Context, Fill, Matrix, Op, Scale, Split, Take
from hf_learngene.maps.recipe import TensorRecipe, compute_dtype
from hf_learngene.maps.resample import FirstRows, RepeatLine


Ops = tuple[Op, ...]


class GradientOps(NamedTuple):
    """What is done to a gradient where an op is done to its tensor.

    Attributes:
        equal: what reads the copies of an entry has equal shares of it.
        first: what reads them reads the first copy alone.
        originals: keeps the first copy of each entry as it is, and leaves zeros at the others.
    """

    equal: Ops
    first: Ops
    originals: Ops

    @classmethod
    def alike(cls, *ops: Op) -> Self:
        """The same ops whoever reads the copies."""
        return cls(ops, ops, ops)


@singledispatch
def gradient(op: Op) -> GradientOps | None:
    """What is done to the gradient; None where no such map is known. An op of a method's own registers its own.

    Example:
        >>> import torch
        >>> from hf_learngene.maps.ops import Blocks
        >>> copied = Take(Blocks(0), torch.tensor([0, 1, 0]))
        >>> gradient(copied).equal[0](torch.tensor([4.0, 8.0]), Context({}.__getitem__))
        tensor([2., 8., 2.])
        >>> gradient(Op()) is None
        True
    """
    return None


@gradient.register
def _(op: Take) -> GradientOps:
    first = Take(op.blocks, first_copies(op.index))
    scale: Ops = (Scale(1.0 / op.scale),) if op.scale != 1.0 else ()
    return GradientOps((Split(op.blocks, op.index), *scale), (first, *scale), (first,))


@gradient.register
def _(op: Split) -> GradientOps:
    every: Ops = (Take(op.blocks, op.index),)
    if op.cancel:  # nothing of the column is left
        return GradientOps.alike(*every, Fill(0.0))
    return GradientOps(every, every, (Take(op.blocks, first_copies(op.index)),))


@gradient.register
def _(op: Scale) -> GradientOps | None:
    scaled = (Scale(1.0 / op.factor),) if op.factor else None
    return GradientOps(scaled, scaled, ()) if scaled is not None else None


@gradient.register
def _(op: Fill) -> GradientOps:
    return GradientOps.alike(Fill(0.0))


@gradient.register
def _(op: Matrix) -> GradientOps | None:
    """Of a matrix that moves entries, each to one place: what mixes them has no such map for second moments."""
    moves = op.matrix != 0
    if not bool((moves.sum(0) == 1).all() and (moves.sum(1) <= 1).all()):
        return None
    undone = Matrix(op.blocks, torch.where(moves, op.matrix, 1.0).reciprocal() * moves)
    return GradientOps((undone,), (undone,), (Matrix(op.blocks, moves.to(op.matrix)),))


@gradient.register
def _(op: RepeatLine) -> GradientOps:
    """Positions behind the source's last are met by longer inputs alone."""
    return GradientOps.alike(FirstRows(op.dim, op.new, std=0.0))


@gradient.register
def _(op: TakeGrouped) -> GradientOps | None:
    copies = torch.bincount(op.index[op.index >= 0])
    if bool((op.index < 0).any()) or not bool((copies == copies[0]).all()):
        return None
    whole = TakeGrouped(op.index, op.groups, shared=False)
    return GradientOps((whole, Scale(1.0 / float(copies[0]))), (whole, Scale(1.0 / float(copies[0]))), (whole,))


def first_copies(index: Tensor) -> Tensor:
    """An index with -1 in the place of every further copy.

    Example:
        >>> first_copies(torch.tensor([0, 1, 0, -1])).tolist()
        [0, 1, -1, -1]
    """
    ordered, place = index.sort(stable=True)
    again = torch.zeros_like(index, dtype=torch.bool)
    again[place[1:]] = ordered[1:] == ordered[:-1]
    return torch.where(again, -1, index)


class GradientRecipe:
    """How the gradient of a target tensor is made of that of the one source tensor that the target tensor is made of.

    Attributes:
        recipe: of the target tensor.
    """

    def __init__(self, recipe: TensorRecipe, ops: Ops, originals: Ops) -> None:
        self.recipe, self._ops, self._originals = recipe, ops, originals

    @classmethod
    def of(cls, recipe: TensorRecipe, first: bool = False) -> GradientRecipe | None:
        """The recipe of a gradient; None where the tensor is mixed of several, starts anew, or an op has no such map.

        Args:
            recipe: how the target tensor is made.
            first: whether what reads the copies of its entries reads the first alone.
        """
        if len(recipe.sources) != 1 or recipe.sources[0][1] == 0:
            return None
        weight = recipe.sources[0][1]
        done = [gradient(op) for op in (*recipe.ops, *((Scale(weight),) if weight != 1 else ()))]
        if any(ops is None for ops in done):
            return None
        found = [ops for ops in done if ops is not None]
        chosen = tuple(op for ops in found for op in (ops.first if first else ops.equal))
        return cls(recipe, chosen, tuple(op for ops in found for op in ops.originals))

    @property
    def source(self) -> str:
        """The source tensor."""
        return self.recipe.sources[0][0]

    @property
    def starts_anew(self) -> bool:
        """Whether nothing of the source's values is left in the target tensor, so that nothing of its gradient is either."""
        return any(isinstance(op, Fill) for op in self._ops)

    def __call__(self, tensor: Tensor) -> Tensor:
        """The gradient, or a first moment, of the target tensor; of the source's dtype."""
        return self._run(self._ops, tensor)

    def squared(self, tensor: Tensor) -> Tensor:
        """The second moment of the target tensor: every entry comes from one, so its square is that one's times a square."""
        return self._run(self._ops, tensor.to(compute_dtype(tensor.dtype)).sqrt()).square().to(tensor.dtype)

    def of_originals(self, tensor: Tensor) -> Tensor:
        """1 at the first copy of each of the source's entries, 0 elsewhere; `tensor` has the source's shape."""
        return self._run(self._originals, torch.ones_like(tensor)).ne(0).to(tensor.dtype)

    def _run(self, ops: Ops, tensor: Tensor) -> Tensor:
        context = Context(_nothing, name=self.recipe.name)
        made = tensor.to(compute_dtype(tensor.dtype))
        for op in ops:
            made = op(made, context)
        return (made.clone() if made.data_ptr() == tensor.data_ptr() else made).to(tensor.dtype).contiguous()


def _nothing(name: str) -> Tensor:
    raise TypeError(f"what is done to a gradient reads no weights, and reads `{name}`")


__all__ = ["GradientOps", "GradientRecipe", "first_copies", "gradient"]
