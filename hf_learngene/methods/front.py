"""FRONT: the low frequencies of the weights, cut or padded to any size (arXiv 2603.07523)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.maps import LayerMap, Matrix, Op
from hf_learngene.maps.ops import dct_matrix
from hf_learngene.maps.task import ResizeTask
from hf_learngene.methods.base import Method, Paper
from hf_learngene.methods.registry import register_method


@register_method
@dataclass(frozen=True)
class Front(Method):
    """Cosine transform of each component over (layers, out, in), low frequencies kept or zero-padded, and back.

    The transform is separable, so it is one dense map along each axis and one through depth; an axis that keeps its
    size is left as it is. Each resized axis is scaled by sqrt(new / old), so that what is constant along it stays that
    constant (an orthonormal transform alone would change it).

    It rests on neighbouring units being alike, which training does not cause: permute the units of the source and the
    result changes. Compare before you rely on it.

    Source: paper, section 3 (training-free FRONT; the spectral refinement, FRONT+, needs training and is not this).
    """

    name: ClassVar[str] = "front"
    paper: ClassVar[Paper | None] = Paper(
        "One-for-All Model Initialization with Frequency-Domain Knowledge", "2603.07523"
    )
    grows: ClassVar[bool] = True
    shrinks: ClassVar[bool] = True
    summary: ClassVar[str] = "low frequencies of the weights"

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        if depth == source.num_layers or source.shared_layers:
            return LayerMap.pick(range(depth))
        return LayerMap.mix(dct_matrix(source.num_layers, depth).tolist())

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        return [
            Matrix(task.blocks(tensor, dim), dct_matrix(old, new), f"frequencies {min(old, new)} of {max(old, new)}")
            for dim, _, _, old, new in task.width_changes(tensor)
        ]
