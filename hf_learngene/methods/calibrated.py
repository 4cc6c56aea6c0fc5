"""Calibrated shrink: what stays is chosen, and refitted, on a few hundred unlabelled examples. Ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.errors import DirectionError, UnknownOptionError
from hf_learngene.maps import Fill, LayerMap, Matrix, Step, Take, Weigh
from hf_learngene.maps.steps import uniform_indices
from hf_learngene.methods.base import FFN, HEAD_COUNT, HEADS, HIDDEN, WIDTHS, Method, Request
from hf_learngene.methods.choices import Choices
from hf_learngene.methods.weight_selection import source_axes


@dataclass(frozen=True)
class Calibrated(Method):
    """Keeps the heads, units and directions that matter on calibration examples, and refits the rest around them.

    It needs `calibration=`: a few hundred unlabelled examples. Widths of pre-norm models turn to the stream's principal
    directions (SliceGPT, arXiv 2401.15024); elsewhere entries are picked. Heads and ffn units are picked by what the others
    cannot make up for (optimal brain surgeon); then every matrix is solved by least squares against the source.

    Args:
        ridge (`float`, *optional*, defaults to 0.001): how strongly weights stay as they are where the examples say little.
    """

    name: ClassVar[str] = "calibrated"
    shrinks: ClassVar[bool] = True
    summary: ClassVar[str] = "chosen and refitted on unlabelled examples (calibration=)"
    takes_calibration: ClassVar[bool] = True

    ridge: float = 1e-3
    choices: Choices | None = field(default=None, repr=False, compare=False)

    @classmethod
    def option_names(cls) -> list[str]:
        return ["ridge"]

    def __post_init__(self) -> None:
        if not (isinstance(self.ridge, (int, float)) and self.ridge > 0):
            raise UnknownOptionError(f"ridge is a number above 0, such as 0.001; it was {self.ridge!r}.")

    def options(self) -> dict[str, Any]:
        layers = {"layers": list(self.choices.layers)} if self.choices is not None else {}
        return {"ridge": self.ridge, **layers}

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        names = (*WIDTHS, "mlp_ratio", "num_hidden_layers", *source_axes(source))
        grown = [
            f"{n} {source.sizes[n]} → {sizes[n]}"
            for n in names
            if sizes.get(n, 0) > source.sizes.get(n, sizes.get(n, 0))
        ]
        if grown:
            raise DirectionError(
                f"calibrated shrinks; it cannot grow ({', '.join(grown)}). method='lemon' grows without loss."
            )

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        if self.choices is not None:
            return LayerMap.pick(self.choices.layers)
        return LayerMap.spread(source.num_layers, depth)

    def steps(self, tensor: TensorInfo, request: Request) -> list[Step]:
        steps: list[Step] = []
        layer = request.layer_map[tensor.layer].index if tensor.layer is not None else None
        rotation = self.choices.rotation if self.choices is not None else None
        for dim, axis, side, old, new in request.width_dims(tensor):
            blocks = request.blocks(tensor, dim)
            taken = Take(blocks, self._index(axis, layer, request, old, new), f"selected {new} of {old}")
            if axis != HIDDEN or rotation is None or not self._in_stream(tensor, side):
                steps.append(taken)
            elif tensor.kind in ("norm", "norm_bias", "scale"):
                # what a norm or LayerScale multiplies by is moved into the matrices around it
                steps += [taken, Fill(0.0 if tensor.kind == "norm_bias" else 1.0)]
            else:
                if tensor.scaled_by and side != "in":
                    steps.append(Weigh(dim, tensor.scaled_by.format(layer)))
                factor = old / new if side == "in" else 1.0
                steps.append(Matrix(blocks, rotation.T * factor, f"turned to {new} of {old}"))
        return steps

    @staticmethod
    def _in_stream(tensor: TensorInfo, side: str) -> bool:
        """Whether a width of a tensor is the stream's, and not that of a pooler's output."""
        if tensor.kind in ("norm", "norm_bias", "scale"):
            return True
        return tensor.reads_norm if side == "in" else tensor.writes_stream

    def _index(self, axis: str, layer: int | None, request: Request, old: int, new: int) -> Tensor:
        chosen = self.choices
        if chosen is None:
            return uniform_indices(old, new)
        if axis == HIDDEN and chosen.coordinates is not None:
            return chosen.coordinates
        if axis == FFN and layer is not None and layer in chosen.units:
            return chosen.units[layer]
        if axis in (HEADS, HEAD_COUNT) and layer is not None:
            (heads, size), (_, new_size) = request.heads
            kept = chosen.heads.get(layer, torch.arange(heads))
            if axis == HEAD_COUNT:
                return kept
            return (kept[:, None] * size + torch.arange(new_size)).flatten()  # inside a head, the refit decides
        return uniform_indices(old, new)


__all__ = ["Calibrated"]
