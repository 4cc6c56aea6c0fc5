"""FRONT: the low frequencies of the weights, cut or padded to any size (arXiv 2603.07523, ICML 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.admit import refuse_kinds
from hf_learngene.errors import UnknownOptionError
from hf_learngene.maps import LayerMap, Matrix, Op
from hf_learngene.maps.ops import Context
from hf_learngene.maps.resample import dct_matrix
from hf_learngene.maps.task import ResizeTask
from hf_learngene.methods.base import Method, Paper
from hf_learngene.methods.registry import register_method


SCALINGS = ("released", "constant")


@register_method
@dataclass(frozen=True)
class Front(Method):
    """Cosine transform of each component over (layers, out, in), low frequencies kept or zero-padded, and back.

    The transform is separable, so it is one dense map along each axis and one through depth; an axis that keeps its
    size is left as it is.

    It rests on neighbouring units being alike, which training does not cause: permute the units of the source and the
    result changes. Compare before you rely on it.

    Args:
        scaling (`str`, *optional*, defaults to `"released"`): amplitude of a resized axis: `released` is that of the authors'
            code, which scales what varies by source size / target size for each resized axis and keeps mean and deviation of
            the tensor's z-score; `constant` keeps what is constant along it, and gives the source back after a growth.

    Source: paper, section 3 (training-free FRONT; the spectral refinement, FRONT+, needs training and is not this), and
    `front_init_deit.py` for `released`. Its growth in depth gives all layers past the source's the last one's weights (they
    share one list); here each has its own. A fused q, k, v is transformed part by part, a patch kernel along its outputs.
    """

    name: ClassVar[str] = "front"
    paper: ClassVar[Paper | None] = Paper(
        "Breaking the Scale Barrier: One-Shot Knowledge Transfer via Frequency Transform", "2603.07523"
    )
    grows: ClassVar[bool] = True
    shrinks: ClassVar[bool] = True
    summary: ClassVar[str] = "low frequencies of the weights"

    scaling: str = "released"

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise UnknownOptionError(f"scaling is one of {', '.join(SCALINGS)}; it was {self.scaling!r}.")

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        if sizes.get("num_hidden_layers", source.num_layers) != source.num_layers:
            refuse_kinds(source, f"method={self.name!r} mixes layers to make another number of them")
        super().check(source, sizes)

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        if depth == source.num_layers or source.shared_layers:
            return LayerMap.pick(range(depth))
        rows = torch.zeros(depth, source.num_layers, dtype=torch.float64)
        rows[: source.lead, : source.lead] = torch.eye(source.lead)
        for turn in range(source.period):  # layers that alternate are mixed with their like
            olds = torch.arange(source.lead + turn, source.num_layers, source.period)
            news = torch.arange(source.lead + turn, depth, source.period)
            if len(news):
                olds = olds if len(olds) else torch.tensor([source.num_layers - 1])
                rows[news[:, None], olds] = self._matrix(len(olds), len(news))
        return LayerMap.mix(rows.tolist())

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        resized: list[Op] = [
            Matrix(task.blocks(tensor, dim), self._matrix(old, new), f"frequencies {min(old, new)} of {max(old, new)}")
            for dim, _, _, old, new in task.width_changes(tensor)
        ]
        layers = task.layer_map[tensor.layer].sources if tensor.layer is not None else ()
        mixed = len(task.layer_map) != task.source.num_layers and bool(layers) and not task.source.shared_layers
        if self.scaling == "constant" or not (resized or mixed):
            return resized
        place = min(tensor.layer, task.source.num_layers - 1) if tensor.layer is not None else None
        named = tensor.template.format(place) if place is not None else tensor.name
        each = tuple((tensor.template.format(i), weight) for i, weight in layers) if mixed else ()
        each = tuple(
            pair for pair in each if pair[0] in task.source.tensors
        )  # WavLM's first layer has a table of its own
        return [_Standardise(named, each), *resized, _Restore(named)]

    def _matrix(self, old: int, new: int) -> Tensor:
        """(new, old). The release's transform divides by the size only on the way back: its constants grow by old / new."""
        return dct_matrix(old, new) * (old / new if self.scaling == "released" else 1.0)


@dataclass(frozen=True)
class _Standardise(Op):
    """Takes the mean away and divides by the standard deviation, of each source tensor alone.

    Attributes:
        name: the source tensor that it is, where no others make it. What was picked from it, rows of a table, has its numbers.
        sources: (source tensor, weight) pairs that make the tensor.
    """

    name: str
    sources: tuple[tuple[str, float], ...] = ()

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        parts = [(context.read(name).detach().to(tensor), weight) for name, weight in self.sources]
        # tables over positions that were interpolated before are no longer of the sources' shape: standardised as mixed
        if not parts or any(part.shape != tensor.shape for part, _ in parts):
            return _z_score(tensor, tensor if parts else context.read(self.name).detach().to(tensor))
        return sum((_z_score(part, part) * weight for part, weight in parts), start=tensor.new_zeros(()))


@dataclass(frozen=True)
class _Restore(Op):
    """Multiplies by the standard deviation of a source tensor and adds its mean."""

    name: str

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        like = context.read(self.name).detach().to(tensor)
        return tensor * _deviation(like) + like.mean()


def _z_score(tensor: Tensor, like: Tensor) -> Tensor:
    return (tensor - like.mean()) / (_deviation(like) + 1e-8)


def _deviation(tensor: Tensor) -> Tensor:
    return tensor.std() if tensor.numel() > 1 else tensor.new_zeros(())
