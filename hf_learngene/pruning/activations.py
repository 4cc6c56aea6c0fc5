"""Forward passes that show what goes into and out of named modules, without paying for the layers that are done."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy


ROOM = 2 << 30  # bytes on disk for what one layer shows


class _Enough(Exception):
    """Everything asked for was seen: the rest of the pass is not needed."""


class Activations:
    """What one pass showed: for each module, the tensors of its calls in order."""

    def __init__(self) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        self.outputs: dict[str, list[Tensor]] = {}


class _Done(nn.Module):
    """Stands in for a layer that has been run: hands on what it gave, and is it in all else."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.__dict__["layer"] = layer
        self.__dict__["value"] = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["value"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["layer"], name)


class Runner:
    """A model, run again and again over the same batches.

    The outputs of the layers that are finished, and of what comes before the first (patches, embeddings), are kept on disk, and
    stand in for them: going through all layers costs a few passes, however deep the model, and memory does not grow with the
    examples.

    Args:
        model (`PreTrainedModel`): stays as it is.
        anatomy (`Anatomy`): its own.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy) -> None:
        self.model = model.eval()
        containers = {t.partition(".{}.")[0] for t in anatomy.templates if ".{}." in t}
        # something that reads an early layer later on would get what stands in for it
        plain = len(containers) == 1 and not anatomy.layers_read_from_outside
        self.container = next(iter(containers)) if plain else None
        self.done = 0  # layers whose outputs are on disk
        self._early = self._beside_the_way()
        self._remembered: set[tuple[str, str]] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="learngene_calibration_")

    def close(self) -> None:
        self._folder.cleanup()

    def _stored(self, layer: int, batch: int) -> Path:
        return Path(self._folder.name) / f"{layer % 2}_{batch}.pt"

    def _early_stored(self, batch: int) -> Path:
        return Path(self._folder.name) / f"early_{batch}.pt"

    def _beside_the_way(self) -> list[str]:
        """Modules with weights that hang where the way to the layers passes: embeddings, but closing norms and heads too."""
        if self.container is None:
            return []
        way = self.container.split(".")
        found = []
        for depth in range(len(way)):
            parent = ".".join(way[:depth])
            for name, child in self.model.get_submodule(parent).named_children():
                if name != way[depth] and any(True for _ in child.parameters()):
                    found.append(f"{parent}.{name}" if parent else name)
        return found

    def capture(
        self,
        number: int,
        batch: Mapping[str, Tensor],
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
    ) -> Activations:
        """One pass over one batch, up to the last module asked for.

        Args:
            number: which batch it is.
            batch: the model's inputs.
            inputs: modules whose first input is wanted.
            outputs: modules whose (first) output is wanted.
        """
        seen = Activations()
        wanted_in, wanted_out = list(dict.fromkeys(inputs)), list(dict.fromkeys(outputs))
        wanted = {("in", n) for n in wanted_in} | {("out", n) for n in wanted_out}
        if wanted and wanted <= self._remembered:
            stored = torch.load(self._stored_pass(number), mmap=True, weights_only=True)
            seen.inputs = {n: stored["in", n] for n in wanted_in}
            seen.outputs = {n: stored["out", n] for n in wanted_out}
            return seen
        single = self.container is not None

        def complete() -> bool:
            return single and len(seen.inputs) == len(wanted_in) and len(seen.outputs) == len(wanted_out)

        def before(name: str) -> Any:
            def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
                first = next(_tensors((args, kwargs)))
                seen.inputs.setdefault(name, []).append(first.detach().clone())  # some are changed in place
                if complete():
                    raise _Enough

            return hook

        def after(name: str) -> Any:
            def hook(module: nn.Module, args: Any, result: Any) -> None:
                seen.outputs.setdefault(name, []).append(next(_tensors(result)).detach().clone())
                if complete():
                    raise _Enough

            return hook

        with ExitStack() as stack:
            for name in wanted_in:
                module = self.model.get_submodule(name)
                handle = module.register_forward_pre_hook(before(name), with_kwargs=True)
                stack.callback(handle.remove)
            for name in wanted_out:
                stack.callback(self.model.get_submodule(name).register_forward_hook(after(name)).remove)
            stack.enter_context(self._shortened(number))
            with suppress(_Enough):
                self._run(batch, number)
        return seen

    def remember(self, batches: Iterable[Mapping[str, Tensor]], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """One pass over all batches, kept on disk for `capture` until the next one, unless it takes too much room there.

        Only for a model that stays as it is.
        """
        self._remembered = set()
        batches = list(batches)
        for number, batch in enumerate(batches):
            seen = self.capture(number, batch, inputs, outputs)
            kept = {("in", n): v for n, v in seen.inputs.items()} | {("out", n): v for n, v in seen.outputs.items()}
            if sum(t.nbytes for v in kept.values() for t in v) * len(batches) > ROOM:
                return
            torch.save(kept, self._stored_pass(number))
        self._remembered = {("in", n) for n in inputs} | {("out", n) for n in outputs}

    def _stored_pass(self, batch: int) -> Path:
        return Path(self._folder.name) / f"pass_{batch}.pt"

    def cache_prefix(self, layers: int, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Keeps the outputs of the first `layers` layers, run as they are now."""
        if self.container is None or layers <= self.done:
            return
        last = f"{self.container}.{layers - 1}"
        for number, batch in enumerate(batches):
            kept: list[Any] = []
            early: dict[str, list[Any]] = {}

            def hook(module: nn.Module, args: Any, result: Any, kept: list[Any] = kept) -> None:
                kept.append(result)
                raise _Enough

            with ExitStack() as stack:
                stack.callback(self.model.get_submodule(last).register_forward_hook(hook).remove)
                for name in self._early if not self.done else ():

                    def first(module: nn.Module, args: Any, result: Any, name: str = name, early: Any = early) -> None:
                        early.setdefault(name, []).append(result)

                    stack.callback(self.model.get_submodule(name).register_forward_hook(first).remove)
                stack.enter_context(self._shortened(number))
                with suppress(_Enough):
                    self._run(batch, number)
            if not self.done:
                once = {n: v[0] for n, v in early.items() if len(v) == 1 and isinstance(v[0], Tensor)}
                torch.save(once, self._early_stored(number))
            torch.save(kept[0], self._stored(layers, number))
        self.done = layers

    @contextmanager
    def _shortened(self, number: int) -> Iterator[None]:
        """The finished layers replaced by what they gave for this batch."""
        if self.container is None or not self.done:
            yield
            return
        value = torch.load(self._stored(self.done, number), weights_only=True)
        # nothing of it is read but its shape
        early = torch.load(self._early_stored(number), mmap=True, weights_only=True)
        given = {f"{self.container}.{index}": value for index in range(self.done)} | early
        replaced: list[tuple[nn.Module, str, nn.Module]] = []
        try:
            for name, stored in given.items():
                parent, _, leaf = name.rpartition(".")
                holder = self.model.get_submodule(parent)
                module = holder.get_submodule(leaf)
                stand_in = _Done(module)
                stand_in.__dict__["value"] = stored
                replaced.append((holder, leaf, module))
                holder._modules[leaf] = stand_in
            yield
        finally:
            for holder, leaf, module in replaced:
                holder._modules[leaf] = module

    def _run(self, batch: Mapping[str, Tensor], number: int) -> None:
        run(self.model, batch, number)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def execution_order(model: PreTrainedModel, batch: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    """Module names in the order of their first calls; those that are not called are left out."""
    order: list[str] = []
    with ExitStack() as stack:
        for name in names:

            def hook(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                if name not in order:
                    order.append(name)

            handle = model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        run(model, batch)
    return order


def run(model: PreTrainedModel, batch: Mapping[str, Tensor], number: int = 0) -> Any:
    """The model's outputs for a batch; what it draws at random (ViT-MAE's patches) is the same for the same number."""
    device = next(model.parameters()).device
    moved = {k: v.to(device, model.dtype if v.is_floating_point() else None) for k, v in batch.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)  # torch.manual_seed takes milliseconds: it looks for accelerators
        return model(**moved)
