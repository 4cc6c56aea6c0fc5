"""Where each tensor of a resized model comes from, in words for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hf_learngene.maps import TensorRecipe
from hf_learngene.resizing.passes import Pass


# of a tensor that the family's own initialisation computes (sinusoids over the head size)
COMPUTED = "fresh (computed)"


@dataclass(frozen=True)
class TensorOrigin:
    """Where one tensor of the result comes from.

    Attributes:
        name: the target tensor.
        shape: its shape, and `source_shape` that of the tensor it comes from (None if fresh).
        origin: `kept`, `selected 384 of 768`, `duplicated ×2`, `interpolated 14×14 → 16×16`, `fresh (...)`, ...
    """

    name: str
    shape: tuple[int, ...]
    source_shape: tuple[int, ...] | None
    origin: str

    @property
    def fresh(self) -> bool:
        return self.source_shape is None


def origins(passes: Iterable[Pass]) -> list[TensorOrigin]:
    """The origin of each tensor after all passes, in the target's order."""
    found: dict[str, TensorOrigin] = {}
    for step in passes:
        previous, found = found, {}
        for recipe in step.recipes:
            first = recipe.sources[0][0] if recipe.sources else None
            before = previous.get(first) if first else None
            if first is None or (before is not None and before.fresh):
                origin = before.origin if before else recipe.origin
                found[recipe.name] = TensorOrigin(recipe.name, recipe.shape, None, origin)
                continue
            shape = before.source_shape if before else step.task.source.tensors[first].shape
            words = [w for w in ((before.origin if before else "kept"), _origin(recipe, step)) if w != "kept"]
            found[recipe.name] = TensorOrigin(recipe.name, recipe.shape, shape, ", then ".join(words) or "kept")
    return list(found.values())


def _origin(recipe: TensorRecipe, step: Pass) -> str:
    """The origin of a tensor in one pass; a layer that stands in another place, or twice, is told."""
    tensor = step.task.target.tensors[recipe.name]
    layer = tensor.layer
    if recipe.origin != "kept" or layer is None or recipe.sources[0][0] == recipe.name:
        return recipe.origin
    return "copied from another layer" if step.task.of(tensor).layer_map[layer].inserted else "kept, renumbered"
