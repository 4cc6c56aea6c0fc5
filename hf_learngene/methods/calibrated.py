"""Calibrated shrink: what is kept is chosen, and refitted, on a few hundred unlabelled examples. Ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import FFN, HEADS, HIDDEN, KV_HEADS
from hf_learngene.calibration.examples import Batches
from hf_learngene.calibration.shares import decided, shared
from hf_learngene.errors import InvalidSizeError, UnknownOptionError
from hf_learngene.maps import Fill, Matrix, Op, Take, Weigh
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.selection import Beside, Selection
from hf_learngene.maps.task import ResizeTask, WidthChange, in_stream
from hf_learngene.methods.pruning_method import PruningMethod, prunes_layers, with_layers
from hf_learngene.methods.registry import register_method
from hf_learngene.pruning.layers import joined_layers, kept_layers
from hf_learngene.pruning.merging import merges_layers
from hf_learngene.pruning.select import CalibratedSelection
from hf_learngene.pruning.stage_select import select_stages
from hf_learngene.pruning.stream import rotates_between_norms, rotates_residual_stream


@register_method
@dataclass(frozen=True)
class Calibrated(PruningMethod):
    """Keeps the heads, units and directions that matter on calibration examples, and refits the rest around them.

    It needs `calibration=`: a few hundred unlabelled examples. The residual stream is rotated to its principal directions
    (SliceGPT, arXiv 2401.15024), in post-norm models with their norms refitted; where that loses more, entries of it are picked.
    Heads and ffn units are pruned by what the others cannot make up for (optimal brain surgeon); then every matrix is solved by
    least squares against the source. In a hierarchy (Swin, ConvNeXt) each stage is chosen in by itself: entries of its residual
    stream are picked, and blocks that alternate leave in pairs.

    Args:
        ridge (`float`, *optional*, defaults to 0.001): how strongly weights stay as they are where the examples say little.
    """

    name: ClassVar[str] = "calibrated"
    summary: ClassVar[str] = "chosen and refitted on unlabelled examples, given or made up"
    needs_examples: ClassVar[bool] = True
    within_stages: ClassVar[bool] = True

    ridge: float = 1e-3

    def __post_init__(self) -> None:
        if not (isinstance(self.ridge, (int, float)) and self.ridge > 0):
            raise UnknownOptionError(f"ridge is a number above 0, such as 0.001; it was {self.ridge!r}.")

    @classmethod
    def refits_with(cls, options: Mapping[str, Any]) -> bool:
        return True

    @property
    def refit_ridge(self) -> float:
        return self.ridge

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        super().check(source, sizes)
        parted = next((n for n in source.linked if sizes.get(n, sizes["hidden_size"]) != sizes["hidden_size"]), None)
        if parted is not None:
            raise InvalidSizeError(
                f"{parted}={sizes[parted]} and hidden_size={sizes['hidden_size']}: they are one width in this "
                f"`{source.model_type}`, and {self.name} has nothing to fit what would part them to. Give them one size, or use "
                "method='weight_selection'."
            )

    def select(
        self, task: ResizeTask, model: PreTrainedModel, examples: Batches | None, disable_progress: bool = False
    ) -> Selection:
        """What is kept: layers by what the model's output loses without them, the rest by what cannot be made up for."""
        merged: dict[int, tuple[int, ...]] = {}
        if task.stage_maps:
            with shared(self.required(examples)) as mine:
                return decided(select_stages(model, task, mine, self.ridge, disable_progress))
        with shared(self.required(examples)) as mine:
            if prunes_layers(task):
                depth = task.target.num_layers
                if merges_layers(task.source):
                    merged = decided(joined_layers(model, task.source, depth, mine, disable_progress))
                    task = with_layers(task, tuple(merged))
                else:
                    task = with_layers(task, kept_layers(model, task.source, depth, mine, disable_progress))
            return decided(CalibratedSelection(model, task, mine, self.ridge, merged).run(disable_progress))

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        ops, merged = self._merge(tensor, task)
        if tensor.groups > 1:
            return super().ops(tensor, task)
        for change in task.width_changes(tensor):
            if change.dim in merged:
                continue
            if change.axis == HIDDEN and in_stream(tensor, change.side) and self._rotates(task):
                ops += self._rotate(tensor, change, task)
            else:
                ops.append(self.keep(tensor, change, task))
        return ops

    def _merge(self, tensor: TensorInfo, task: ResizeTask) -> tuple[list[Op], set[int]]:
        """What chooses the heads and units of a layer from several of the source's; and the dimensions that it does this for."""
        if task.selection is None or tensor.layer is None:
            return [], set()
        others = task.selection.together(task.layer_map[tensor.layer].index)[1:]
        if not others:
            return [], set()
        dims = [(i, d) for i, d in enumerate(tensor.dims) if d.axis in (FFN, HEADS, KV_HEADS) and d.side != "-"]
        names = tuple(tensor.template.format(layer) for layer in others)
        ops: list[Op] = [Beside(names, i, d) for i, d in dims]
        for i, d in dims:
            old, new = task.axis_sizes[d.axis]
            ops.append(self.keep(tensor, WidthChange(i, d.axis, d.side, old * (1 + len(others)), new), task))
        return ops, {i for i, _ in dims}

    @staticmethod
    def _rotates(task: ResizeTask) -> bool:
        """Whether the residual stream is rotated; before examples are looked at, whether it may be. No stage's is."""
        if task.source.stage is not None:
            return False
        if task.selection is not None:
            return task.selection.rotation is not None
        return rotates_residual_stream(task.source) or rotates_between_norms(task.source)

    def _rotate(self, tensor: TensorInfo, change: WidthChange, task: ResizeTask) -> list[Op]:
        """The residual stream's width of one tensor, in the directions that are kept."""
        blocks = task.blocks(tensor, change.dim)
        rotation = task.selection.rotation if task.selection is not None else None
        keeps = rotates_between_norms(task.source) if task.selection is None else task.selection.gains
        label = f"rotated to {change.new} of {change.old}"
        if keeps and rotation is not None and tensor.kind == "norm":
            return [
                Matrix(blocks, rotation.pow(2).T * (change.old / change.new), label)
            ]  # means of the gains it mixes
        if not keeps and tensor.kind in ("norm", "norm_bias", "scale"):
            # what a norm or LayerScale multiplies by is moved into the matrices around it
            fill = Fill(0.0 if tensor.kind == "norm_bias" else 1.0, "folded into the matrices beside it")
            return [Take(blocks, uniform_indices(change.old, change.new)), fill]
        if rotation is None:  # a plan shows what will be done
            return [Take(blocks, uniform_indices(change.old, change.new), label)]
        ops: list[Op] = []
        if tensor.scaled_by and change.side != "in":
            layer = task.layer_map[tensor.layer].index if tensor.layer is not None else None
            ops.append(Weigh(change.dim, tensor.scaled_by.format(layer)))
        factor = change.old / change.new if change.side == "in" else 1.0
        return [*ops, Matrix(blocks, rotation.T * factor, label)]


__all__ = ["Calibrated"]
