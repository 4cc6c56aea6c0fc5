"""A plan carried out tensor by tensor: each of the result's is made when it is written, and then forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.disk import MappedFiles, reused_memory
from hf_learngene.hub.fingerprint import Excerpt, fingerprint_of, table_shapes
from hf_learngene.hub.shards import Shards
from hf_learngene.maps import apply
from hf_learngene.resizing.build_model import build_hollow, drawn
from hf_learngene.resizing.execute import check_fits, report
from hf_learngene.resizing.passes import Pass
from hf_learngene.resizing.plan import Plan
from hf_learngene.resizing.weights import Transfer
from hf_learngene.state import without_autocast


def needs_no_model(plan: Plan) -> bool:
    """Whether all that a plan does is said by its recipes: nothing is run, refitted, trained or measured on examples."""
    return (
        plan.examples is None
        and plan.budget is None
        and not any(step.method.needs_examples or step.method.refits or step.method.learns for step in plan.passes)
    )


@dataclass(frozen=True, eq=False)
class Streamed:
    """A resized model whose weights are made one at a time.

    Attributes:
        model: it, on meta but for its buffers, with the config that it is saved with.
        weights: parameter name -> tensor, each made when it is asked for.
        source: what they are made of.
        ties: names that stand for another's tensor.
        shards: the files of its weights; None where they hold other tensors than the model does.
    """

    model: PreTrainedModel
    weights: Mapping[str, Tensor]
    source: _Source
    ties: Mapping[str, str]
    shards: Shards | None

    @classmethod
    def of(
        cls, plan: Plan, model: PreTrainedModel, source: str | None, commit: str | None, max_shard_size: int | str
    ) -> Streamed | None:
        """What a plan makes of a model; None where it can only be made whole.

        That is so where a method runs the model, where files hold other tensors than the model does, or where a buffer is
        computed anew.

        Args:
            plan: what is to be done.
            model: the source, on the CPU, best as `from_pretrained` mapped it. Nobody may write to it.
            source: its name, for `config.learngene`.
            commit: the state of the Hub that it comes from.
            max_shard_size: as in `save_pretrained`.

        Raises:
            UnsupportedSourceError: the model is not what its config says.
        """
        if not needs_no_model(plan) or model.device.type != "cpu":
            return None
        check_fits(plan, model)
        base = _Source(model)
        base.give_back()  # tied tensors were compared
        weights: Mapping[str, Tensor] = base
        current = model
        for number, step in enumerate(plan.passes):
            selection = None
            if step.method.selects:
                if number:  # it would have to read a model that there is not
                    return None
                selection = step.method.select(step.task, current, None, True)
                base.give_back()
            if selection is not None:
                step = step.keeping(selection)
                plan = plan.replacing(number, step)
            if number == len(plan.passes) - 1:
                step.config.learngene = plan.record(source, commit)
            made = build_hollow(step.model_class, step.config, current, anatomy=step.task.target)
            Transfer(current, step).carry_buffers(made)
            weights = _Weights(weights, step, current.dtype, plan.seed)
            current = made
        names = plan.target.ties
        streamed = cls(current, weights, base, names, Shards.of(current, max_shard_size))
        if not streamed.complete:
            return None
        report(plan, [])
        return streamed

    @property
    def complete(self) -> bool:
        """Whether all that the files hold can be made alone."""
        return self.shards is not None and all(map(self._known, [*self.shards.tensors, *self._parameters]))

    @property
    def _parameters(self) -> list[str]:
        return [self._first(name) for name, _ in self.model.named_parameters()]

    def _first(self, name: str) -> str:
        return self.ties.get(name, name)

    def _known(self, name: str) -> bool:
        return self._first(name) in self.weights or not self._buffer(name).is_meta

    def _buffer(self, name: str) -> Tensor:
        return self.model.get_parameter_or_buffer(name)

    @torch.inference_mode(False)
    @torch.no_grad()
    @without_autocast()
    @reused_memory()
    def write(self, folder: Path) -> None:
        """Writes weights and config, sealed, as `save_pretrained` of the whole model does."""
        shards = cast(Shards, self.shards)
        tables, excerpts = table_shapes(self.model), dict[str, Excerpt]()
        parameters = dict.fromkeys(self._parameters)
        made_of = dict[str, set[str]]()  # a tensor that is kept shares the source's memory until it is written

        def read(name: str) -> Tensor:
            first = self._first(name)
            if first not in self.weights:
                return self._buffer(name)
            tensor = self.weights[first]
            made_of[name] = self.source.taken()
            if first in parameters and first not in excerpts:
                excerpts[first] = Excerpt.of(tensor, tables).copied()
            return tensor

        self.model.save_pretrained(folder, state_dict={})  # what stands beside weights; it would take shards away
        shards.write(folder, read, lambda name: self.source.give_back(made_of.pop(name, ())))
        for name in parameters.keys() - excerpts.keys():  # what is never saved is sealed too
            read(name)
        self.source.give_back()
        sealed = fingerprint_of(list(excerpts.values()))
        self.model.config.learngene = {**self.model.config.learngene, "weights": sealed}
        self.model.config.save_pretrained(folder)


class _Source(Mapping):
    """A model's parameters by name, as they were mapped; the memory of those that were read is given back at a word."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._tensors = {n: p.detach() for n, p in model.named_parameters(remove_duplicate=False)}
        self._files = MappedFiles()
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._read:
            self._files.fetch(self._tensors[name])
            self._read.add(name)
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:  # a plain mapping would read the tensor
        return name in self._tensors

    def taken(self) -> set[str]:
        """What was read since this was asked last."""
        found, self._read = self._read, set()
        return found

    def give_back(self, names: Iterable[str] | None = None) -> None:
        """Gives back the memory of some, or of all."""
        for name in self._tensors if names is None else names:
            self._files.give_back(self._tensors[name])


class _Weights(Mapping):
    """The weights that a pass leads to, each made anew when it is asked for."""

    def __init__(self, source: Mapping[str, Tensor], step: Pass, dtype: torch.dtype, seed: int) -> None:
        self._source, self._step, self._dtype, self._seed = source, step, dtype, seed
        self._recipes = {recipe.name: recipe for recipe in step.recipes}

    @cached_property
    def _drawn(self) -> dict[str, Tensor]:
        """What starts anew: it is drawn together, as in a model that is built whole."""
        fresh = {name for name, recipe in self._recipes.items() if not recipe.sources}
        return drawn(self._step.model_class, self._step.config, self._step.task.target, fresh, self._seed)

    def __getitem__(self, name: str) -> Tensor:
        recipe = self._recipes[name]
        if not recipe.sources:
            return self._drawn[name].to(self._dtype)
        # it is written or read on at once, so it may share the source's memory
        ((_, made),) = apply(self._source, [recipe], self._step.task.seed, share=True)
        return made.to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)

    def __contains__(self, name: object) -> bool:
        return name in self._recipes


__all__ = ["Streamed", "needs_no_model"]
