"""SWS: stage-wise weight sharing (arXiv 2404.16897, IJCAI 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hf_learngene.anatomy import TensorInfo
from hf_learngene.errors import InvalidSizeError
from hf_learngene.learngenes.base import Learngene
from hf_learngene.learngenes.parts import Target, picked_layers, stage_of_each_layer
from hf_learngene.learngenes.sws.config import SwsConfig


class SwsLearngene(Learngene):
    """SWS: every tensor of a layer, biases and norms included, is that of its stage.

    The released auxiliary model has other heads than its descendants; here heads stay whole, so that a descendant of the
    auxiliary depth is the auxiliary model.
    """

    config_class = SwsConfig
    config: SwsConfig
    has_stages = True
    refits = True

    @property
    def num_stages(self) -> int:
        return int(self.config.num_stages or 1)

    def make(self, template: str, info: TensorInfo) -> None:
        for stage in range(self.num_stages):
            self.add_shared(template, str(stage), *info.shape)

    def draw(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        for stage in range(self.num_stages):
            self.part(template, str(stage)).copy_(stack[stage])

    def picked(self) -> list[int] | None:
        whole = self.config.fit_layers == "picked"
        return picked_layers(self.stages_of(self.target()), self.num_stages) if whole else None

    def fit(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        layers = self.stages_of(self.target())
        for stage in range(self.num_stages):
            members = [i for i, s in enumerate(layers) if s == stage]
            self.part(template, str(stage)).copy_(stack[members].mean(0))

    def stages_of(self, target: Target) -> list[int]:
        """The stage of each layer of the target."""
        given: Sequence[int] | None = target.stages
        if given is None and target.depth == self.anatomy.num_layers:
            given = self.config.stages
        return list(given) if given is not None else stage_of_each_layer(target.depth, self.num_stages)

    def whole_stages(self) -> list[int] | None:
        return self.stages_of(self.target())

    def check_target(self, target: Target) -> None:
        stages = self.num_stages
        given = self.stages_of(target)
        if not all(isinstance(s, int) and 0 <= s < stages for s in given):
            raise InvalidSizeError(f"stages are numbers from 0 to {stages - 1}; they were {given}.")

    def materialise(self, template: str, info: TensorInfo, target: Target) -> Sequence[Tensor]:
        return [self.part(template, str(stage)) for stage in self.stages_of(target)]


__all__ = ["SwsLearngene"]
