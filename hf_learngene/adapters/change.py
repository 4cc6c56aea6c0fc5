"""`Change`: what an adapter does to the weight and the bias of one module, and what of it the resized module takes over."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_learngene.errors import AdapterError
from hf_learngene.maps.linear import LinearRecipe


CLOSE = 1e-10  # of float64, relative to the largest entry


@dataclass(frozen=True, eq=False)
class Change:
    """W becomes rows · (W + scaling · left · right) · columns, in float64; the bias b becomes rows · (b + scaling · bias).

    Attributes:
        left, right: factors of what LoRA adds, (rows, rank) and (rank, what else the weight has); None where nothing is added.
        scaling: what their product is multiplied by.
        alpha: the setting that this comes from.
        bias: what LoRA adds to the bias.
        rows: what each row is multiplied by: an IA³ vector of the outputs, or DoRA's magnitudes over the norms of the rows.
        columns: what each column is multiplied by: an IA³ vector of the inputs.
        magnitudes: whether `rows` are DoRA's, which leave the bias alone.
    """

    left: Tensor | None = None
    right: Tensor | None = None
    scaling: float = 1.0
    alpha: float = 1.0
    bias: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None
    magnitudes: bool = False

    @property
    def rank(self) -> int:
        """The rank of what it adds; 0 where it adds nothing."""
        return 0 if self.right is None else len(self.right)

    @property
    def changes_bias(self) -> bool:
        return self.bias is not None or (self.rows is not None and not self.magnitudes)

    def added(self, weight: Tensor) -> Tensor:
        """The weight with what LoRA adds to it."""
        if self.left is None or self.right is None:
            return weight
        added = (self.scaling * self.left @ self.right.flatten(1)).reshape(weight.shape)
        return added.add_(weight)

    def scaled(self, tensor: Tensor) -> Tensor:
        """A weight, or a bias that changes, with its rows and columns multiplied."""
        if self.rows is not None:
            tensor = tensor * self.rows.reshape(-1, *[1] * (tensor.dim() - 1))
        return tensor if self.columns is None else tensor * self.columns

    def weight(self, weight: Tensor) -> Tensor:
        """What the weight is with the adapter merged into it."""
        return self.scaled(self.added(weight))

    def shifted(self, bias: Tensor) -> Tensor:
        """The bias with what LoRA adds to it."""
        return bias if self.bias is None else bias + self.scaling * self.bias

    def carried(
        self, name: str, weight: Tensor, recipe: LinearRecipe, bias: tuple[Tensor, LinearRecipe] | None
    ) -> Change:
        """The change of the resized module: merged into it, it gives what the resize gives of the merged module.

        Args:
            name: the module, for messages.
            weight: the source's, in float64.
            recipe: how the resized one is made of it.
            bias: the source's bias, in float64, and how the resized one is made; None where there is none or it does not change.

        Raises:
            AdapterError: no change of this form does that.
        """
        made = self
        if self.left is not None and self.right is not None:
            made = dataclasses.replace(made, left=recipe.rows(self.left), right=recipe.columns(self.right))
        if bias is not None and self.bias is not None:
            made = dataclasses.replace(made, bias=bias[1](self.bias))
        if self.rows is None and self.columns is None:  # the weight itself stands on both sides
            weight, plain = torch.zeros_like(weight), weight.new_zeros(recipe.shape)
        else:
            plain = recipe(weight)
        both = [(recipe(self.weight(weight)), made.added(plain))]
        if bias is not None and self.changes_bias:
            both.append((bias[1](self.scaled(self.shifted(bias[0]))), made.shifted(bias[1](bias[0]))))
        if self.rows is not None:
            parts = [(a.reshape(len(a), -1), b.reshape(len(b), -1)) for a, b in both]
            made = dataclasses.replace(made, rows=_factors(parts))
        if self.columns is not None:
            made = dataclasses.replace(made, columns=_factors([(a.T, b.T) for a, b in both]))
        for (wanted, found), what in zip(both, ("weight", "bias"), strict=False):
            _check(f"{name}.{what}", wanted, made.scaled(found))
        return made


def _factors(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """For each row the number that brings the second of each pair nearest to the first; 1 where there is nothing to bring."""
    dots = torch.stack([(a * b).sum(1) for a, b in pairs]).sum(0)
    squares = torch.stack([b.square().sum(1) for _, b in pairs]).sum(0)
    return torch.where(squares > 0, dots / squares.clamp_min(torch.finfo(squares.dtype).tiny), 1.0)


def _check(name: str, wanted: Tensor, found: Tensor) -> None:
    largest = max(float(wanted.abs().max()), torch.finfo(torch.float64).tiny)
    error = float((wanted - found).abs_().max())
    if not error <= CLOSE * largest:
        raise AdapterError(
            f"No adapter of this kind does to the resized `{name}` what it does to the source's: the nearest is off by "
            f"{error / largest:.1e} of its largest entry. Merge it, then resize: peft_model.merge_and_unload()."
        )


__all__ = ["CLOSE", "Change"]
