"""Where each tensor of a resized model comes from, in words for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hf_learngene.maps import TensorRecipe
from hf_learngene.maps.task import ResizeTask
from hf_learngene.resizing.passes import Pass


# of a tensor that the family's own initialisation computes (sinusoids over the head size)
COMPUTED = "fresh (computed)"


@dataclass(frozen=True)
class TensorOrigin:
    """Where one tensor of the result comes from.

    Attributes:
        name: the target tensor.
        shape: its shape, and `source_shape` that of the tensor it comes from (None if fresh).
        origin: `kept`, `copied` (into a new layer), `selected 384 of 768`, `rotated to 384 of 768`, `duplicated ×2`,
            `interpolated 14×14 → 16×16`, `fresh (...)`, ...
        template: its name with the layer left open; its name, outside of the layers.
        layer: the layer that it is in; None outside of them.
        source_layer: the source's layer that it comes from; None too where it comes from several, or where weights or examples
            choose it first.
    """

    name: str
    shape: tuple[int, ...]
    source_shape: tuple[int, ...] | None
    origin: str
    template: str = ""
    layer: int | None = None
    source_layer: int | None = None

    @property
    def fresh(self) -> bool:
        return self.source_shape is None


def origins(passes: Iterable[Pass]) -> list[TensorOrigin]:
    """The origin of each tensor after all passes, in the target's order."""
    found: dict[str, TensorOrigin] = {}
    for step in passes:
        previous, found = found, {}
        for recipe in step.recipes:
            tensor = step.task.target.tensors[recipe.name]
            first = recipe.sources[0][0] if recipe.sources else None
            before = previous.get(first) if first else None
            place = (tensor.template, tensor.layer)
            if first is None or (before is not None and before.fresh):
                origin = before.origin if before else recipe.origin
                found[recipe.name] = TensorOrigin(recipe.name, recipe.shape, None, origin, *place)
                continue
            source = step.task.source.tensors[first]
            shape = before.source_shape if before else source.shape
            layer = before.source_layer if before else source.layer
            if len(recipe.sources) > 1 or (tensor.layer is not None and chooses_layers(step, step.task.of(tensor))):
                layer = None
            words = [w for w in ((before.origin if before else "kept"), _origin(recipe, step)) if w != "kept"]
            origin = ", then ".join(words) or "kept"
            found[recipe.name] = TensorOrigin(recipe.name, recipe.shape, shape, origin, *place, layer)
    return list(found.values())


def chooses_layers(step: Pass, task: ResizeTask) -> bool:
    """Whether a pass is still to choose which layers stay, by weights or examples."""
    return step.method.selects and task.selection is None and len(task.layer_map) < task.source.num_layers


def _origin(recipe: TensorRecipe, step: Pass) -> str:
    """The origin of a tensor in one pass; what is copied into a new layer is told from what stays."""
    tensor = step.task.target.tensors[recipe.name]
    if recipe.origin != "kept" or tensor.layer is None:
        return recipe.origin
    return "copied" if step.task.of(tensor).layer_map[tensor.layer].inserted else "kept"
