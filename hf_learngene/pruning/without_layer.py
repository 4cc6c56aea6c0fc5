"""Outputs of a model without one of its layers, each run from where it first differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.store import Store, tensors_in
from hf_learngene.pruning.activations import Done, Runner, replaced
from hf_learngene.pruning.running import output_of


class Suffixes:
    """A model whose layers leave, over the same few batches again and again.

    What goes into each layer is kept, so that the output without a layer takes a pass over the later ones alone, and layers that
    have left are not run. A post-norm layer leaves its closing norm behind: the refit gives that of the layer before it the
    gains that later layers read. It is a context manager; what it keeps goes when it is closed.

    Args:
        model (`PreTrainedModel`): the model; it is left as it is.
        anatomy (`Anatomy`): the model's anatomy.
        batches: the model's inputs.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, batches: Sequence[Mapping[str, Tensor]]) -> None:
        self.model, self.batches, self.depth = model, batches, anatomy.num_layers
        self.container = anatomy.containers[0]
        with Runner(model, anatomy) as runner:
            self.early, self.apart = runner.early, bool(runner.layers)
        self.norms = {n.layer: n.name for n in anatomy.norms if n.closes_layer and n.layer is not None}
        self.gone: frozenset[int] = frozenset()
        self._started = False
        self._store = Store()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._store.close()

    def leave(self, *layers: int) -> list[Tensor]:
        """The outputs of a model that these layers have left too, which is what `without` goes on from."""
        self.gone |= set(layers)
        found = [self._kept(number, batch) for number, batch in enumerate(self.batches)]
        self._started = True
        return found

    def without(self, *layers: int) -> Iterator[Tensor]:
        """The outputs without one more layer, or without several, batch by batch."""
        layer = min(layers)
        for number, batch in enumerate(self.batches):
            if not self.apart:  # something reads layers from outside: all of them are run
                with self._passing([*self.gone, *layers]):
                    yield output_of(self.model, batch)
                continue
            kept = self._store.get(str(number))
            entry = kept["entry", layer]
            value = _handed_on(next(tensors_in(entry)), entry, self._norm(layer))
            given = {f"{self.container}.{i}": value for i in range(layer + 1)} | kept["early"]
            done = {name: Done(self.model.get_submodule(name), value) for name, value in given.items()}
            later = self._left(kept, [i for i in (*self.gone, *layers) if i > layer])
            with replaced(self.model, done | later):
                yield output_of(self.model, batch)

    def _left(self, kept: Mapping[Any, Any], layers: Iterable[int]) -> dict[str, nn.Module]:
        """What stands in for layers that have left, by name; nothing for those of which no output was seen yet."""
        return {
            f"{self.container}.{i}": _Left(
                self.model.get_submodule(f"{self.container}.{i}"), kept["entry", i], self._norm(i)
            )
            for i in layers
            if ("entry", i) in kept
        }

    def _norm(self, layer: int) -> nn.Module | None:
        """What a layer that has left does still: its closing norm."""
        return self.model.get_submodule(self.norms[layer]) if layer in self.norms else None

    def _kept(self, number: int, batch: Mapping[str, Tensor]) -> Tensor:
        """The output of the model as it is now, and what goes into each of its layers, in the form of what comes out."""
        before = self._store.get(str(number)) if self._started and self.apart else {}
        left = self._left(before, self.gone)
        kept: dict[Any, Any] = {}
        early: dict[str, list[Any]] = {}
        with ExitStack() as stack:
            for name in self.early if self.apart else ():

                def first(module: nn.Module, args: Any, result: Any, name: str = name) -> None:
                    if not kept:  # heads and closing norms come after the layers
                        early.setdefault(name, []).append(result)

                stack.callback(self.model.get_submodule(name).register_forward_hook(first).remove)
            run = {i for i in self.gone if f"{self.container}.{i}" not in left}
            stack.enter_context(self._passing(run))
            for layer in range(self.depth) if self.apart else ():

                def entry(module: nn.Module, args: Any, kwargs: Any, result: Any, layer: int = layer) -> None:
                    kept["entry", layer] = _in_form(next(tensors_in((args, kwargs))), result)

                module = self.model.get_submodule(f"{self.container}.{layer}")
                stack.callback(module.register_forward_hook(entry, with_kwargs=True).remove)
            stack.enter_context(replaced(self.model, left))
            found = output_of(self.model, batch)
        kept |= {("entry", i): before["entry", i] for i in self.gone if ("entry", i) in before}
        once = {n: v[0] for n, v in early.items() if len(v) == 1 and isinstance(v[0], Tensor)}
        self._store.put(str(number), kept | {"early": once})
        return found

    @contextmanager
    def _passing(self, layers: Iterable[int]) -> Iterator[None]:
        """The layers hand on what they are given."""
        with ExitStack() as stack:
            for layer in layers:

                def hook(module: nn.Module, args: Any, kwargs: Any, result: Any, layer: int = layer) -> Any:
                    return _handed_on(next(tensors_in((args, kwargs))), result, self._norm(layer))

                module = self.model.get_submodule(f"{self.container}.{layer}")
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            yield


class _Left(Done):
    """A layer that has left: it hands on what it is given, in the form of what it gave, and is the layer in all else."""

    def __init__(self, module: nn.Module, value: Any, norm: nn.Module | None) -> None:
        super().__init__(module, value)
        self.__dict__["norm"] = norm

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _handed_on(next(tensors_in((args, kwargs))), self.__dict__["value"], self.__dict__["norm"])


def _in_form(given: Tensor, result: Any) -> Any:
    return given if isinstance(result, Tensor) else (given, *result[1:])


def _handed_on(given: Tensor, result: Any, norm: nn.Module | None) -> Any:
    """What a layer that has left hands on, in the form of what it gave."""
    return _in_form(given if norm is None else next(tensors_in(norm(given))), result)


__all__ = ["Suffixes"]
