"""SWS: stage-wise weight sharing (arXiv 2404.16897, IJCAI 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hf_learngene.anatomy import TensorInfo
from hf_learngene.errors import InvalidSizeError
from hf_learngene.learngenes.base import Learngene
from hf_learngene.learngenes.parts import Target, picked_layers, stage_of_each_layer
from hf_learngene.learngenes.sws.config import SwsConfig


PER_GROUP = 3  # blocks of a hierarchy, or pairs of them; the paper's stages have 3, 3, 4, 3, 3 layers


class SwsLearngene(Learngene):
    """SWS: every tensor of a layer, biases and norms included, is that of its stage.

    The released auxiliary model has other heads than its descendants; here heads stay whole, so that a descendant of the
    auxiliary depth is the auxiliary model. In a hierarchy, of which the paper has none, every stage has groups of blocks of its
    own, and what stands between the stages is stored as it is.
    """

    config_class = SwsConfig
    config: SwsConfig
    has_stages = True
    refits = True
    within_stages = True

    def num_groups(self, stage: int | None = None) -> int:
        """Groups of layers that share all weights: the paper's stages, and in a hierarchy those within one of its own."""
        given = self.config.num_stages
        if not isinstance(given, list):
            if stage is None:
                return given or 1
            given = self.config.num_stages = self._groups_of_stages(given)
        return int(given[stage or 0])

    def _groups_of_stages(self, given: int | None) -> list[int]:
        lengths = [self.depth_of(stage) for stage in range(self.anatomy.num_stages)]
        return [max(1, -(-n // PER_GROUP) if given is None else min(given, n)) for n in lengths]

    def _check_groups(self, stage: int) -> None:
        count, most = self.num_groups(stage), self.depth_of(stage)
        part = self.anatomy.of_stage(stage)
        if not 1 <= count <= max(1, most):
            pairs = f", which alternate and are shared {part.period} at a time" if part.period > 1 else ""
            raise InvalidSizeError(
                f"num_stages[{stage}]={count} does not fit stage {stage} of the auxiliary model, of {part.num_layers} blocks"
                f"{pairs}; it lies between 1 and {max(1, most)}."
            )

    def make(self, template: str, info: TensorInfo) -> None:
        if info.stage is not None:
            self._check_groups(info.stage)
        for group in self._held(template, info):
            self.add_shared(template, str(group), *info.shape)

    def _held(self, template: str, info: TensorInfo) -> list[int]:
        """Groups with a layer that has this tensor: where blocks alternate, a last one may lack its partner."""
        groups = self._own_groups(info.stage)
        return sorted({groups[place] for place in self.places[template]})

    def _own_groups(self, stage: int | None) -> list[int]:
        given: Sequence[int] | None = self.config.stages
        return list(given) if given is not None else stage_of_each_layer(self.depth_of(stage), self.num_groups(stage))

    def draw(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        for place, group in enumerate(self._held(template, info)):
            self.part(template, str(group)).copy_(stack[place])

    def picked(self, stage: int | None = None) -> list[int] | None:
        whole = self.config.fit_layers == "picked"
        return picked_layers(self._own_groups(stage), self.num_groups(stage)) if whole else None

    def fit(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        layers = self._own_groups(info.stage)
        for group in self._held(template, info):
            members = [i for i, s in enumerate(layers) if s == group and i in self.places[template]]
            self.part(template, str(group)).copy_(stack[members].mean(0))

    def stages_of(self, target: Target, stage: int | None = None) -> list[int]:
        """The group of each layer of the target; in a hierarchy, of each block or pair of blocks of a stage."""
        if target.stages is not None:
            return list(target.stages)
        depth = target.depth_of(stage)
        if depth == self.depth_of(stage):
            return self._own_groups(stage)
        return stage_of_each_layer(depth, self.num_groups(stage))

    def whole_stages(self, stage: int | None = None) -> list[int] | None:
        return self._own_groups(stage)

    def check_target(self, target: Target) -> None:
        groups = self.num_groups() if not self.anatomy.num_stages else 0
        given = target.stages or ()
        if not all(isinstance(s, int) and 0 <= s < groups for s in given):
            raise InvalidSizeError(f"stages are numbers from 0 to {groups - 1}; they were {list(given)}.")

    def materialise(self, template: str, info: TensorInfo, target: Target) -> Sequence[Tensor]:
        held = self._held(template, info)
        nearest = [min(held, key=lambda one: abs(one - group)) for group in self.stages_of(target, info.stage)]
        return [self.part(template, str(group)) for group in nearest]


__all__ = ["SwsLearngene"]
