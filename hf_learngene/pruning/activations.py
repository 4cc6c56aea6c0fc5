"""Forward passes that keep what goes into and out of named modules, without paying for the layers that are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate
from typing import Any, Self, cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.store import Store, tensors_in
from hf_learngene.pruning.running import run


ROOM = 2 << 30  # bytes for the activations of one layer


class _Enough(Exception):
    """Everything asked for was captured: the rest of the pass is not needed."""


class Activations:
    """Inputs and outputs of modules in one pass: for each module, the tensors of its calls in order."""

    def __init__(self) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        self.outputs: dict[str, list[Tensor]] = {}


class Done(nn.Module):
    """A module that has been run: it hands on its output, and is the module in all else."""

    def __init__(self, module: nn.Module, value: Any) -> None:
        super().__init__()
        # its parameters are seen as before: a model whose modules are all done still has a device and a dtype
        self.__dict__ |= {
            "module": module,
            "value": value,
            "_parameters": module._parameters,
            "_modules": module._modules,
        }

    def hand_on(self, value: Any) -> None:
        """Makes it hand on another output."""
        self.__dict__["value"] = value

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["value"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)


class Runner:
    """A model that is run again and again over the same batches.

    The outputs of the layers that are finished, and of what comes before the first (patches, embeddings), are kept (on disk where
    they are large) and stand in for them: going through all layers costs a few passes, however deep the model, and memory does
    not grow with the examples. A runner is a context manager; what it keeps goes when it is closed.

    The layers of a hierarchy are counted through all of its stages; of a stage that is done, what its last layer gave is kept,
    for the patch merging behind it is run on.

    Args:
        model (`PreTrainedModel`): the model; it is left as it is.
        anatomy (`Anatomy`): the model's anatomy.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy) -> None:
        self.model, self._modules = model, list(model.modules())
        # something that reads an early layer later on would get what stands in for it
        backbone = any(isinstance(module, BackboneMixin) for module in self._modules)
        plain = not backbone and (anatomy.num_stages or not anatomy.layers_read_from_outside)
        stages = stages_of_layers(anatomy) if plain else []
        self.layers = [name for stage in stages for name in stage]  # their modules; none where all is run each time
        self._ends = [end for stage, end in zip(stages, accumulate(map(len, stages)), strict=True) for _ in stage]
        self.done = 0  # layers whose outputs are kept
        self.early = self._beside_the_way()
        self._remembered: set[tuple[str, str]] = set()
        self._ahead: dict[int, set[int]] = {}  # batches whose output of so many layers is kept already
        self._settled: set[str] = set()
        self._given: set[tuple[str, int]] = set()  # settled modules and batches whose output is kept
        self._store = Store()
        self._done_as: dict[str, Done] = {}  # what stands in for modules

    def close(self) -> None:
        """Removes what was kept."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _beside_the_way(self) -> list[str]:
        """Names of modules with weights beside the path to the layers: embeddings, but closing norms and heads too."""
        if not self.layers:
            return []
        way = self.layers[0].split(".")[:-1]
        found = []
        for depth in range(len(way)):
            parent = ".".join(way[:depth])
            for name, child in self.model.get_submodule(parent).named_children():
                whole = f"{parent}.{name}" if parent else name
                leads = any(layer.startswith(f"{whole}.") for layer in self.layers)
                if not leads and any(True for _ in child.parameters()):
                    found.append(whole)
        return found

    def capture(
        self,
        number: int,
        batch: Mapping[str, Tensor],
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        ahead: int | None = None,
    ) -> Activations:
        """One pass over one batch, up to the last module asked for.

        Args:
            number: which batch it is.
            batch: the model's inputs.
            inputs: modules whose first input is wanted.
            outputs: modules whose (first) output is wanted.
            ahead: layers whose output is kept on the way, so that the `cache_prefix` of so many finds it.
        """
        found = Activations()
        ahead = ahead if self.layers and ahead is not None and ahead > self.done else None
        wanted_in, wanted_out = list(dict.fromkeys(inputs)), list(dict.fromkeys(outputs))
        wanted = {("in", n) for n in wanted_in} | {("out", n) for n in wanted_out}
        if wanted and wanted <= self._remembered:
            found.inputs = {n: self._store.lent(f"in_{n}_{number}") for n in wanted_in}
            found.outputs = {n: self._store.lent(f"out_{n}_{number}") for n in wanted_out}
            return found
        single = bool(self.layers)
        copies: dict[int, tuple[Tensor, int, Tensor]] = {}  # by id: the tensor, its version, the copy

        def copied(tensor: Tensor) -> Tensor:
            if tensor.is_inference():  # says nothing of its versions
                return tensor.clone()
            known = copies.get(id(tensor))
            if known is None or known[1] != tensor._version:
                known = copies[id(tensor)] = tensor, tensor._version, tensor.detach().clone()  # some change in place
            return known[2]

        def complete() -> bool:
            if ahead is not None and number not in self._ahead.get(ahead, ()):
                return False
            return single and len(found.inputs) == len(wanted_in) and len(found.outputs) == len(wanted_out)

        def passed() -> None:
            if complete():
                raise _Enough

        def keep(values: dict[str, list[Tensor]], name: str, tensor: Tensor) -> None:
            kept = values.setdefault(name, [])
            if (
                complete()
            ):  # nothing runs that could change it; what has a copy stays one with it, for products are shared
                kept.append(copied(tensor) if id(tensor) in copies else tensor)
                raise _Enough
            kept.append(copied(tensor))

        def before(name: str) -> Any:
            def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
                keep(found.inputs, name, next(tensors_in((args, kwargs))))

            return hook

        def after(name: str) -> Any:
            def hook(module: nn.Module, args: Any, result: Any) -> None:
                keep(found.outputs, name, next(tensors_in(result)))

            return hook

        with ExitStack() as stack:
            for name in wanted_in:
                handle = _module(self.model, name).register_forward_pre_hook(before(name), with_kwargs=True)
                stack.callback(handle.remove)
            for name in wanted_out:
                stack.callback(_module(self.model, name).register_forward_hook(after(name)).remove)
            if ahead is not None:
                stack.enter_context(self._keeping(number, ahead, passed))
            stack.enter_context(self._shortened(number))
            with suppress(_Enough):
                run(self.model, batch, self._modules)
        return found

    def remember(
        self,
        batches: Iterable[Mapping[str, Tensor]],
        inputs: Sequence[str],
        outputs: Sequence[str],
        ahead: int | None = None,
    ) -> None:
        """One pass over all batches, kept for `capture` until the next one, unless it takes too much room.

        Only for a model that stays as it is.
        """
        batches = list(batches)
        for side, name in self._remembered:
            for number in range(len(batches)):
                self._store.drop(f"{side}_{name}_{number}")
        self._remembered = set()
        for number, batch in enumerate(batches):
            found = self.capture(number, batch, inputs, outputs, ahead)
            kept = {f"in_{n}_{number}": v for n, v in found.inputs.items()}
            kept |= {f"out_{n}_{number}": v for n, v in found.outputs.items()}
            if sum(t.nbytes for v in kept.values() for t in v) * len(batches) > ROOM:
                return
            for name, values in kept.items():
                self._store.put(name, values, own=True)
        self._remembered = {("in", n) for n in inputs} | {("out", n) for n in outputs}

    def cache_prefix(self, layers: int, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Runs the first `layers` layers as they are now, and keeps their outputs."""
        if not self.layers or layers <= self.done:
            return
        count = 0
        for count, batch in enumerate(batches, start=1):
            if count - 1 not in self._ahead.get(layers, ()):
                with self._keeping(count - 1, layers, _stop), self._shortened(count - 1), suppress(_Enough):
                    run(self.model, batch, self._modules)
        past = {self.done, *self._ahead} - {layers, *self._ends}
        for name in [_prefix(n, b) for n in past for b in range(count)]:
            self._store.drop(name)
        for module, number in self._given:
            self._store.drop(f"{module}_{number}")
        self.done = layers
        self._ahead, self._settled, self._given = {}, set(), set()

    def settle(self, *names: str) -> None:
        """Says that these modules of the next layer stay as they are: their outputs stand in for them from the next pass on.

        What has changed of the layer does not come before them.
        """
        if self.done < len(self.layers):
            self._settled |= {n for n in names if n.startswith(f"{self.layers[self.done]}.")}

    @contextmanager
    def _keeping(self, number: int, layers: int, told: Callable[[], None]) -> Iterator[None]:
        """Keeps the output of the first `layers` layers for a batch, and of what comes before them; `told` is called then."""
        early: dict[str, list[Any]] = {}

        def hook(module: nn.Module, args: Any, result: Any) -> None:
            if not self.done:
                once = {n: v[0] for n, v in early.items() if len(v) == 1 and isinstance(v[0], Tensor)}
                self._store.put(f"early_{number}", once)
            self._store.put(_prefix(layers, number), result)
            self._ahead.setdefault(layers, set()).add(number)
            told()

        with ExitStack() as stack:
            for end in {e for e in self._ends if self.done < e < layers}:

                def ended(module: nn.Module, args: Any, result: Any, end: int = end) -> None:
                    self._store.put(_prefix(end, number), result)

                stack.callback(self.model.get_submodule(self.layers[end - 1]).register_forward_hook(ended).remove)
            last = self.model.get_submodule(self.layers[layers - 1])
            stack.callback(last.register_forward_hook(hook).remove)
            for name in self.early if not self.done else ():

                def first(module: nn.Module, args: Any, result: Any, name: str = name) -> None:
                    early.setdefault(name, []).append(result)

                stack.callback(self.model.get_submodule(name).register_forward_hook(first).remove)
            yield

    @contextmanager
    def _shortened(self, number: int) -> Iterator[None]:
        """The model with its finished layers and settled modules replaced by what they gave for this batch."""
        given: dict[str, Any] = {}
        if self.done:
            ends = [min(end, self.done) for end in self._ends[: self.done]]
            values = {end: self._store.get(_prefix(end, number)) for end in set(ends)}
            early = self._store.lent(f"early_{number}")  # nothing of it is read but its shape
            given = {name: values[end] for name, end in zip(self.layers, ends, strict=False)} | early
        calls: dict[str, int] = {}
        with ExitStack() as stack:
            for name in self._settled:
                if (name, number) in self._given:
                    given[name] = self._store.get(f"{name}_{number}")
                    continue

                def hook(module: nn.Module, args: Any, result: Any, name: str = name) -> None:
                    calls[name] = calls.get(name, 0) + 1
                    # kept at once: some models change it in place
                    if calls[name] > 1 or not isinstance(result, Tensor):
                        self._given.discard((name, number))
                    elif self._store.offer(f"{name}_{number}", result):
                        self._given.add((name, number))

                stack.callback(_module(self.model, name).register_forward_hook(hook).remove)
            for name, value in given.items():
                if name not in self._done_as:
                    self._done_as[name] = Done(_module(self.model, name), None)
                self._done_as[name].hand_on(value)
            stack.enter_context(replaced(self.model, {name: self._done_as[name] for name in given}))
            yield


def stages_of_layers(anatomy: Anatomy) -> list[list[str]]:
    """Names of the layers of each stage, in order; of a model without stages in one list. None where a layer is no one module."""
    if any(len(part.containers) != 1 for part in anatomy.parts):
        return []
    return [[f"{part.containers[0]}.{index}" for index in range(part.num_layers)] for part in anatomy.parts]


@contextmanager
def replaced(model: nn.Module, given: Mapping[str, nn.Module]) -> Iterator[None]:
    """The model with other modules under these names."""
    before: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for name, module in given.items():
            parent, _, leaf = name.rpartition(".")
            holder = _module(model, parent)
            before.append((holder, leaf, _module(holder, leaf)))
            holder._modules[leaf] = module
        yield
    finally:
        for holder, leaf, module in before:
            holder._modules[leaf] = module


def _module(model: nn.Module, name: str) -> nn.Module:
    """`get_submodule`, which takes a small model as long as to run."""
    for part in filter(None, name.split(".")):
        model = cast(nn.Module, model._modules[part])
    return model


def _stop() -> None:
    raise _Enough


def _prefix(layers: int, batch: int) -> str:
    """The name under which the output of the first layers is kept."""
    return f"prefix_{layers}_{batch}"


__all__ = ["Activations", "Done", "Runner", "replaced", "stages_of_layers"]
