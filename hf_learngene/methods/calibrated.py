"""Calibrated shrink: what stays is chosen, and refitted, on a few hundred unlabelled examples. Ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_learngene.anatomy import TensorInfo
from hf_learngene.anatomy.types import HIDDEN
from hf_learngene.errors import UnknownOptionError
from hf_learngene.maps import Fill, Matrix, Op, Take, Weigh
from hf_learngene.maps.task import ResizeTask, in_stream
from hf_learngene.methods.pruning_method import PruningMethod


@dataclass(frozen=True)
class Calibrated(PruningMethod):
    """Keeps the heads, units and directions that matter on calibration examples, and refits the rest around them.

    It needs `calibration=`: a few hundred unlabelled examples. Widths of pre-norm models turn to the stream's principal
    directions (SliceGPT, arXiv 2401.15024); elsewhere entries are picked. Heads and ffn units are picked by what the others
    cannot make up for (optimal brain surgeon); then every matrix is solved by least squares against the source.

    Args:
        ridge (`float`, *optional*, defaults to 0.001): how strongly weights stay as they are where the examples say little.
    """

    name: ClassVar[str] = "calibrated"
    summary: ClassVar[str] = "chosen and refitted on unlabelled examples (calibration=)"
    takes_calibration: ClassVar[bool] = True
    refits: ClassVar[bool] = True

    ridge: float = 1e-3

    def __post_init__(self) -> None:
        if not (isinstance(self.ridge, (int, float)) and self.ridge > 0):
            raise UnknownOptionError(f"ridge is a number above 0, such as 0.001; it was {self.ridge!r}.")

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        steps: list[Op] = []
        rotation = self.choices.rotation if self.choices is not None else None
        for dim, axis, side, old, new in task.width_dims(tensor):
            blocks = task.blocks(tensor, dim)
            taken = Take(blocks, self.index(axis, tensor, task, old, new), f"selected {new} of {old}")
            if axis != HIDDEN or rotation is None or not in_stream(tensor, side):
                steps.append(taken)
            elif tensor.kind in ("norm", "norm_bias", "scale"):
                # what a norm or LayerScale multiplies by is moved into the matrices around it
                steps += [taken, Fill(0.0 if tensor.kind == "norm_bias" else 1.0)]
            else:
                if tensor.scaled_by and side != "in":
                    layer = task.layer_map[tensor.layer].index if tensor.layer is not None else None
                    steps.append(Weigh(dim, tensor.scaled_by.format(layer)))
                factor = old / new if side == "in" else 1.0
                steps.append(Matrix(blocks, rotation.T * factor, f"turned to {new} of {old}"))
        return steps


__all__ = ["Calibrated"]
