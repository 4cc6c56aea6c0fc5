"""A recipe for each target tensor, and their application, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_learngene.errors import InvalidSizeError
from hf_learngene.maps.ops import Context, Op
from hf_learngene.maps.scratch import Scratch


@dataclass(frozen=True)
class TensorRecipe:
    """How one target tensor is made.

    Attributes:
        name: the target tensor.
        shape: its shape.
        sources: (source tensor, weight) pairs to be summed; none leaves the tensor to the model's own initialisation.
        ops: what is done to the sum, in order.
        reason: why it is fresh, if it is.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[tuple[str, float], ...] = ()
    ops: tuple[Op, ...] = ()
    reason: str = ""

    @property
    def origin(self) -> str:
        """What becomes of the tensor, in a few words: `kept`, `selected 384 of 768`, `duplicated x2`, `fresh`."""
        if not self.sources:
            return f"fresh ({self.reason})" if self.reason else "fresh"
        labels = list(dict.fromkeys(op.label for op in self.ops if op.label))
        if len(self.sources) > 1:
            labels.insert(0, f"mixed of {len(self.sources)} layers")
        return ", ".join(labels) or "kept"


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic is done in float32 or better, whatever the checkpoint's dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def apply(
    source: Mapping[str, Tensor], recipes: Iterable[TensorRecipe], seed: int = 0, share: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Makes the target tensors, one at a time; fresh ones are left out. Differentiable in the source's tensors.

    Args:
        source (`Mapping[str, Tensor]`): the source's state dict.
        recipes (`Iterable[TensorRecipe]`): one for each target tensor.
        seed (`int`): for every random number that is drawn.
        share (`bool`): whether the first tensor kept as it is may share the source's memory, for a source that nobody else
            holds.

    Yields:
        (name, tensor) in the source's dtype, on the source's device.

    Raises:
        InvalidSizeError: a recipe makes another shape than its target tensor has.

    Example:
        >>> dict(apply({"w": torch.ones(2)}, [TensorRecipe("w", (2,), (("w", 1.0),))]))
        {'w': tensor([1., 1.])}
    """
    shared: set[str] = set()
    scratch = None if torch.is_grad_enabled() else Scratch()
    for recipe in recipes:
        if not recipe.sources:
            continue
        first = source[recipe.sources[0][0]]
        if len(recipe.sources) == 1 and recipe.sources[0][1] == 1.0 and not recipe.ops:
            # a tensor made under inference_mode could never be trained: a copy of it can
            once = share and recipe.sources[0][0] not in shared and not first.is_inference()
            shared.add(recipe.sources[0][0])
            _check_shape(recipe, first)
            yield recipe.name, first if once else first.clone()
            continue
        dtype = compute_dtype(first.dtype)
        context = Context(source.__getitem__, seed, recipe.name, scratch=scratch if first.is_cpu else None)
        alone = len(recipe.sources) == 1 and recipe.sources[0][1] == 1.0
        tensor = first if alone else _mixed(source, recipe.sources, dtype)
        for place, op in enumerate(recipe.ops, 1):
            context.more = place < len(recipe.ops)
            # what is only moved is the same in any dtype: half of the bytes, and two casts less
            tensor = op(tensor if op.only_moves else tensor.to(dtype), context)
        _check_shape(recipe, tensor)
        made = tensor.to(first.dtype).contiguous()
        # an op that has nothing to do may hand on what it was given
        yield recipe.name, made.clone() if scratch is not None and scratch.holds(made) else made


def _check_shape(recipe: TensorRecipe, made: Tensor) -> None:
    if tuple(made.shape) != tuple(recipe.shape):
        raise InvalidSizeError(
            f"The recipe of `{recipe.name}` ({recipe.origin}) makes {tuple(made.shape)}, and the model has "
            f"{tuple(recipe.shape)}. A method's `ops` gives an op for each of `task.width_changes(tensor)`."
        )


def _mixed(source: Mapping[str, Tensor], sources: tuple[tuple[str, float], ...], dtype: torch.dtype) -> Tensor:
    name, weight = sources[0]
    tensor = source[name].to(dtype) * weight
    for name, weight in sources[1:]:
        tensor.add_(source[name].to(dtype), alpha=weight)
    return tensor
