"""An adapter carried through one pass of a resize: each of its tensors by the recipe of the tensor that it changes."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.adapters.change import Change
from hf_learngene.adapters.reading import MERGE, Adapter
from hf_learngene.errors import AdapterError
from hf_learngene.maps import TensorRecipe, apply
from hf_learngene.maps.linear import LinearRecipe
from hf_learngene.maps.task import ResizeTask


@torch.inference_mode(False)
@torch.no_grad()
def carry(
    adapter: Adapter, source: PreTrainedModel, task: ResizeTask, recipes: Iterable[TensorRecipe], method: str
) -> Adapter:
    """The adapter of the resized base: merged there, it gives what the resize gives of the base with the adapter merged.

    Where layers are pruned, their part of the adapter goes with them.

    Args:
        adapter: of the source.
        source: the base that is resized.
        task: the resize.
        recipes: how each tensor of its result is made.
        method: its name, for messages.

    Raises:
        AdapterError: a tensor of the adapter that does not follow, or would not be exact.
    """
    return _Carrying(adapter, source, task, tuple(recipes), method).run()


class _Carrying:
    """One adapter, and the recipes of one pass."""

    def __init__(
        self,
        adapter: Adapter,
        source: PreTrainedModel,
        task: ResizeTask,
        recipes: tuple[TensorRecipe, ...],
        method: str,
    ) -> None:
        self.adapter, self.task, self.method = adapter, task, method
        self.tensors: dict[str, Tensor] = {
            n: p.detach().cpu() for n, p in source.named_parameters(remove_duplicate=False)
        }
        self.own = {**self.tensors, **adapter.saved}
        self.recipes = {recipe.name: recipe for recipe in recipes}
        self.made_of = defaultdict[str, list[TensorRecipe]](list)
        for recipe in recipes:
            for name, _ in recipe.sources:
                self.made_of[name].append(recipe)

    def run(self) -> Adapter:
        """Every change and every saved tensor, carried."""
        self._check_reads()
        changes = {place: self._changed(place, change, recipe) for place, change, recipe in self._places()}
        saved = self._saved()
        if (self.adapter.changes or self.adapter.saved) and not (changes or saved):
            raise AdapterError(
                "The resize keeps no layer that the adapter is on. Keep one (method='layers', layer_map=...), or merge it, "
                "then resize: peft_model.merge_and_unload()."
            )
        modules = {
            made: None
            for module in self.adapter.modules
            for name in self.adapter.saved
            if name.startswith(f"{module}.")
            for made in self._beside(module, name)
        }
        return dataclasses.replace(self.adapter, changes=changes, saved=saved, modules=tuple(modules))

    def _first(self, name: str) -> str:
        """A tensor's first name, where it is tied."""
        return self.task.source.ties.get(name, name)

    def _targets(self, name: str) -> list[tuple[str, TensorRecipe]]:
        """The target tensors that are made of a source tensor, under the names that they have at its place.

        Raises:
            AdapterError: there are none, and not since its layer was pruned.
        """
        first = self._first(name)
        if first not in self.task.source.tensors:
            raise AdapterError(f"The adapter changes `{name}`, which is no parameter that a resize knows. {MERGE}")
        found = self.made_of[first]
        if not found:
            tensor = self.task.source.tensors[first]
            kept = self.task.of(tensor).layer_map
            if tensor.layer is None or any(tensor.layer == i for layer in kept for i, _ in layer.sources):
                reason = self.recipes[first].reason if first in self.recipes else "not in the target"
                raise AdapterError(
                    f"The adapter changes `{name}`, which the resize does not take over ({reason}). Keep its size, or leave it "
                    "out of the adapter (target_modules, modules_to_save)."
                )
        return [(recipe.name if first == name else name, recipe) for recipe in found]

    def _places(self) -> Iterable[tuple[str, Change, TensorRecipe]]:
        for module, change in self.adapter.changes.items():
            for name, recipe in self._targets(f"{module}.weight"):
                yield name.removesuffix(".weight"), change, recipe

    def _changed(self, place: str, change: Change, recipe: TensorRecipe) -> Change:
        linear = self._linear(recipe)
        weight = self.tensors[linear.source].double()
        made = change.carried(place, weight, linear, self._bias(place, recipe) if change.changes_bias else None)
        if change.left is not None and change.right is not None and made.left is not None and made.right is not None:
            old, new = (min(len(a), b[0].numel()) for a, b in ((change.left, change.right), (made.left, made.right)))
            if change.rank <= old and change.rank > new:
                raise AdapterError(
                    f"The adapter has rank {change.rank} on `{place}`, whose weight is {recipe.shape} in the resized model: at "
                    f"most {new} is of use there. {MERGE}"
                )
        return made

    def _bias(self, place: str, recipe: TensorRecipe) -> tuple[Tensor, LinearRecipe] | None:
        """The bias beside the weight that a recipe makes, and how it is made; None where the module has none."""
        name = self._first(f"{place}.bias")
        if name not in self.recipes:
            return None
        linear = self._linear(self.recipes[name])
        return self.own[linear.source].double(), linear

    def _linear(self, recipe: TensorRecipe) -> LinearRecipe:
        found = LinearRecipe.of(recipe, self.tensors.__getitem__)
        if found is None:
            raise AdapterError(
                f"method={self.method!r} makes `{recipe.name}` of its source in a way that no adapter of the same rank follows "
                f"({recipe.origin}). {MERGE}"
            )
        return found

    def _saved(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, tensor in self.adapter.saved.items():
            first = self._first(name)  # what is tied in the base is the adapter's own here
            own = self.own if first == name else {**self.own, first: tensor}
            for made, recipe in self._targets(name):
                [(_, found[made])] = apply(own, [recipe], self.task.seed)
        return found

    def _beside(self, module: str, name: str) -> list[str]:
        """The target's modules in the place of one of the source's, by one of its parameters."""
        return [made.removesuffix(name.removeprefix(module)) for made, _ in self._targets(name)]

    def _check_reads(self) -> None:
        """Refuses saved tensors that others are made with: the base would have to hold those anew."""
        saved = self.adapter.saved.keys()
        for recipe in self.recipes.values() if saved else ():
            if not recipe.ops or any(name in saved for name, _ in recipe.sources):
                continue
            tensors = _Recorded(self.tensors)
            dict(apply(tensors, [recipe], self.task.seed))
            for name in tensors.read & saved:
                raise AdapterError(
                    f"The adapter has a `{name}` of its own, and method={self.method!r} makes `{recipe.name}` with it. {MERGE}"
                )


class _Recorded(dict[str, Tensor]):
    """Tensors by name that remember which of them were read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)


__all__ = ["carry"]
