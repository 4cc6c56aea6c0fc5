"""TLEG: every tensor of a layer is a straight line through depth (arXiv 2312.05614, AAAI 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_learngene.anatomy import TensorInfo
from hf_learngene.learngenes.base import Learngene
from hf_learngene.learngenes.parts import Target, picked_layers, stage_of_each_layer
from hf_learngene.learngenes.tleg.config import TlegConfig


def places(depth: int) -> list[float]:
    """Places of the layers on the line: l / L, so that the last layer stands before 1, as in the released code.

    Example:
        >>> places(4)
        [0.0, 0.25, 0.5, 0.75]
    """
    return [layer / depth for layer in range(depth)]


class TlegLearngene(Learngene):
    """TLEG: theta[l] = base + (l / L) * slope for every tensor of a layer, biases and norms included.

    In a hierarchy, of which the paper has none, the blocks of every stage are on a line of their own; where they alternate, on
    one for each turn, with a pair at one place.
    """

    config_class = TlegConfig
    config: TlegConfig
    within_stages = True

    def make(self, template: str, info: TensorInfo) -> None:
        self.add_shared(template, "base", *info.shape)
        if self._slopes(template):
            self.add_shared(template, "slope", *info.shape)

    def _slopes(self, template: str) -> bool:
        """Whether there is a line: one layer, or one pair of blocks, stands at its beginning, where no slope is seen."""
        return max(self.places[template]) > 0

    def draw(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        self.part(template, "base").copy_(stack[0])
        if self._slopes(template):
            # matrices get two independent draws; norms and biases start level
            slope = stack[-1] if len(info.dims) > 1 else torch.zeros_like(stack[0])
            self.part(template, "slope").copy_(slope)

    def picked(self, stage: int | None = None) -> list[int] | None:
        depth = self.depth_of(stage)
        whole = self.config.fit_layers == "picked" and depth > 2
        return picked_layers(stage_of_each_layer(depth, 2)) if whole else None

    def fit(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        line = torch.tensor([[1.0, place] for place in places(len(stack))], dtype=torch.float64)
        fitted = torch.linalg.pinv(line) @ stack.double().reshape(len(stack), -1).cpu()
        self.part(template, "base").copy_(fitted[0].reshape(info.shape))
        if self._slopes(template):
            self.part(template, "slope").copy_(fitted[1].reshape(info.shape))

    def materialise(self, template: str, info: TensorInfo, target: Target) -> Sequence[Tensor]:
        base, line = self.part(template, "base"), places(target.depth_of(info.stage))
        if not self._slopes(template):
            return [base for _ in line]
        slope = self.part(template, "slope")
        return [torch.add(base, slope, alpha=place) if place else base for place in line]


__all__ = ["TlegLearngene"]
