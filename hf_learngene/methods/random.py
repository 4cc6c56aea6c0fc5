"""Plain initialisation of the target size: the control that every other method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_learngene.anatomy import TensorInfo
from hf_learngene.maps.task import ResizeTask
from hf_learngene.methods.base import Method
from hf_learngene.methods.registry import register_method


@register_method
@dataclass(frozen=True)
class Random(Method):
    """Takes nothing from the source but its config: the family's own initialisation, under the seed."""

    name: ClassVar[str] = "random"
    grows: ClassVar[bool] = True
    shrinks: ClassVar[bool] = True
    keeps_buffers: ClassVar[bool] = False
    summary: ClassVar[str] = "the family's own initialisation (control)"

    def keeps(self, tensor: TensorInfo, task: ResizeTask) -> bool:
        return False
