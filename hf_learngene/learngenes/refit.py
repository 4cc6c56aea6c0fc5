"""The refit of a learngene on examples: what its layers share, and what each has of its own, by what its ancestry computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_learngene.anatomy import Anatomy
from hf_learngene.calibration.examples import Batches, Examples
from hf_learngene.calibration.held_back import held_back
from hf_learngene.calibration.record import record_of, told
from hf_learngene.calibration.shares import agree, shared
from hf_learngene.errors import UnsupportedFamilyError
from hf_learngene.learngenes.parts import picked_layers, stacked
from hf_learngene.learngenes.protocol import LearngeneLike
from hf_learngene.learngenes.sweeps import Sweeps
from hf_learngene.learngenes.weighted_fit import ridge_of, shared_matrix
from hf_learngene.pruning.moments import RIDGE, Moments, enough, lifted


logger = logging.get_logger("transformers")


class StageRefit(Sweeps):
    """A copy of a model in which the layers of a stage are one layer, fitted to what each of them computed.

    Each matrix is solved for all places of its stage at once. It begins as one of the stage's layers, whose norms it keeps.

    Args:
        source: the model.
        anatomy: its own.
        stages: the stage of each layer.
        examples: what is looked at.
        held: others, by which it is told what is better.
        ridge: how strongly weights are kept where the examples say little.
    """

    def __init__(
        self,
        source: PreTrainedModel,
        anatomy: Anatomy,
        stages: Sequence[int],
        examples: Batches,
        held: Batches,
        ridge: float = RIDGE,
    ) -> None:
        super().__init__(copy.deepcopy(source), source, anatomy, examples, held, ridge)
        self.stages = list(stages)
        tensors, depth = dict(source.named_parameters(remove_duplicate=False)), anatomy.num_layers
        picked = picked_layers(self.stages, len(set(self.stages)))
        with torch.no_grad():
            for template in dict.fromkeys(t.template for t in anatomy.tensors.values() if t.layer is not None):
                stack = stacked({i: template.format(i) for i in range(depth)}, tensors, depth)
                for layer in range(depth):
                    self._write(template, layer, stack[picked[layer]])

    def blocks(self) -> list[list[int]]:
        members = [[i for i, s in enumerate(self.stages) if s == stage] for stage in dict.fromkeys(self.stages)]
        one_after_another = list(chain(*members)) == list(range(len(self.stages)))
        return members if one_after_another else [list(range(len(self.stages)))]

    def fit(self, template: str, moments: Mapping[int, Moments]) -> None:
        bias = _bias_of(template)
        for stage in {self.stages[layer] for layer in moments}:
            members = [layer for layer in moments if self.stages[layer] == stage]
            weight, shift = (self._read(t, members[0]) for t in (template, bias))
            solved = shared_matrix([moments[m] for m in members], cast(Tensor, weight), shift, self.ridge)
            for layer in members:
                for name, value in zip((template, bias), solved, strict=True):
                    if value is not None:
                        self._write(name, layer, value)

    def state(self, block: Sequence[int]) -> dict[Tensor, Tensor]:
        names = (n for n, t in self.anatomy.tensors.items() if t.layer in block)
        return {p: p.detach().clone() for p in map(self.model.get_parameter, names)}

    def restore(self, state: Mapping[Tensor, Tensor]) -> None:
        for parameter, value in state.items():
            parameter.copy_(value)

    def _read(self, template: str, layer: int) -> Tensor | None:
        name = template.format(layer)
        return self.model.get_parameter(name).detach() if name in self.anatomy.tensors else None

    def _write(self, template: str, layer: int, value: Tensor) -> None:
        if (name := template.format(layer)) in self.anatomy.tensors:
            self.model.get_parameter(name).copy_(value)


class ScalerRefit(Sweeps):
    """What each layer of a learngene has of its own: its scalers, fitted layer by layer. What is shared stays.

    Args:
        learngene: it is changed in place.
        source: a model of the auxiliary size, which it is brought to.
        examples: what is looked at.
        held: others, by which it is told what is better.
    """

    def __init__(self, learngene: LearngeneLike, source: PreTrainedModel, examples: Batches, held: Batches) -> None:
        super().__init__(learngene.initialize(), source, learngene.anatomy, examples, held)
        self.learngene = learngene

    def blocks(self) -> list[list[int]]:
        return [[layer] for layer in range(self.anatomy.num_layers)]

    def fit(self, template: str, moments: Mapping[int, Moments]) -> None:
        learngene, bias = self.learngene, _bias_of(template)
        info, written = learngene.components[template], [template]
        for layer, each in moments.items():
            level = ridge_of(each, self.ridge, each.count)
            before = self.model.get_parameter(template.format(layer)).to(each.gram)
            has_bias = bias in learngene.components
            gram = each.covariance if has_bias else each.gram
            cross = each.cross if has_bias else each.cross + torch.outer(each.mean, each.wanted)
            learngene.fit_scalers(template, info, layer, lifted(gram, level), cross + level * before.T)
            if has_bias:
                made = self._made(template)[layer].to(each.gram)
                learngene.fit_vector(bias, learngene.components[bias], layer, each.wanted - made @ each.mean)
                written = [template, bias]
        self._write(written)

    def state(self, block: Sequence[int]) -> dict[Tensor, Tensor]:
        return {p: p.detach().clone() for p in self.learngene.scalers.parameters()}

    def restore(self, state: Mapping[Tensor, Tensor]) -> None:
        for parameter, value in state.items():
            parameter.copy_(value)
        self._write(list(self.learngene.components))

    def is_free(self, name: str) -> bool:
        held = dict(self.learngene.outside.named_parameters()).get(name)
        return held is not None and held.requires_grad and held.shape == self.model.get_parameter(name).shape

    def run(self) -> None:
        super().run()
        with torch.no_grad():
            for name, parameter in self.learngene.outside.named_parameters():
                if self.is_free(name):
                    parameter.copy_(self.model.get_parameter(name))

    def _made(self, template: str) -> Sequence[Tensor]:
        return self.learngene.materialise(template, self.learngene.components[template], self.learngene.target())

    def _write(self, templates: Sequence[str]) -> None:
        for template in templates:
            for layer, tensor in enumerate(self._made(template)):
                if (name := template.format(layer)) in self.anatomy.tensors:
                    self.model.get_parameter(name).copy_(tensor)


def check_one_depth(anatomy: Anatomy) -> None:
    """Refuses a hierarchy: layers are fitted along one residual stream, and each of its stages has its own.

    Raises:
        UnsupportedFamilyError: says how to go on.
    """
    if anatomy.num_stages:
        raise UnsupportedFamilyError(
            "What layers share is fitted on examples along one residual stream, and each stage of a "
            f"`{anatomy.model_type}` has one of its own. Leave calibration out here: weights are fitted to weights, and "
            "initialize and LearngeneTrainer take examples."
        )


def has_scalers(learngene: LearngeneLike) -> bool:
    return next(learngene.scalers.paths(), None) is not None


def refit(learngene: LearngeneLike, model: PreTrainedModel, examples: Examples, scalers_only: bool = False) -> None:
    """Brings a learngene to a model of its own size, with a record in its config (`calibration`).

    First the layers that it holds whole are fitted to all the layers that each stands for, then what every layer has of its own.
    Each is kept only where it brings the residual stream behind the last layer nearer to the model's, on examples held back.

    Args:
        learngene: it is changed in place.
        model: of the auxiliary size.
        examples: what is looked at; processes share them.
        scalers_only: whether what is shared stays.

    Raises:
        CalibrationError: too few tokens.
        UnsupportedFamilyError: a hierarchy, or a model whose layers write nothing that a norm reads.
    """
    check_one_depth(learngene.anatomy)
    stages = None if scalers_only else learngene.whole_stages()
    fitted, held = held_back(examples)
    enough(examples.tokens, learngene.anatomy.sizes["hidden_size"], "directions of the residual stream")
    with shared(fitted) as mine, torch.no_grad():
        seen = mine, held if held is not None else mine
        best = before = _distance(learngene, model, *seen)
        kept = _copied(learngene)
        for step in ("stages", "scalers"):
            if step == "stages" and stages is not None:
                staged = StageRefit(model, learngene.anatomy, stages, *seen)
                staged.run()
                learngene.fit_to(staged.model)
                del staged
            elif step == "scalers" and has_scalers(learngene):
                ScalerRefit(learngene, model, *seen).run()
            else:
                continue
            if (error := _distance(learngene, model, *seen)) < best:
                best, kept = error, _copied(learngene)
            else:
                _restore(learngene, kept)
        agree(cast(PreTrainedModel, learngene))
    record = record_of(examples)
    if best < before:
        learngene.config.calibration = {**record, "distance": best}
    said = told(record) if best < before else "The examples are of no help: it stays as it was fitted without them."
    learngene.measure_residuals(model)
    logger.warning(
        "%s The residual stream behind the last layer is off by %.0f %% of its spread on examples held back; before, by %.0f %%.",
        said, 100 * best, 100 * before,
    )  # fmt: skip


def _distance(learngene: LearngeneLike, model: PreTrainedModel, examples: Batches, held: Batches) -> float:
    return ScalerRefit(learngene, model, examples, held).error(learngene.anatomy.num_layers - 1)


def _copied(learngene: LearngeneLike) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in learngene.named_parameters()}


def _restore(learngene: LearngeneLike, state: Mapping[str, Tensor]) -> None:
    for name, parameter in learngene.named_parameters():
        parameter.copy_(state[name])


def _bias_of(name: str) -> str:
    return name.removesuffix("weight") + "bias"


__all__ = ["ScalerRefit", "StageRefit", "check_one_depth", "refit"]
