"""Nested order: a core is sorted by what would leave it first, so that every smaller size is a slice and a fixed map of it.

After SKD (arXiv 2511.11683), which sorts the attention heads' dimensions; here layers, heads, units and the residual stream too.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo, anatomy_of
from hf_learngene.anatomy.types import FFN, HEAD_COUNT, HEADS, HIDDEN, KV_HEADS
from hf_learngene.calibration.examples import Batches
from hf_learngene.calibration.few import few
from hf_learngene.errors import UnsupportedFamilyError
from hf_learngene.learngenes.condensed.config import DIRECTIONS, ENTRIES
from hf_learngene.maps import Fill, LayerMap, Matrix, Op, Take, Weigh
from hf_learngene.maps.ops import Blocks, Context, uniform_indices
from hf_learngene.maps.selection import HeadMaps, Selection
from hf_learngene.maps.task import ResizeTask, WidthChange, in_stream
from hf_learngene.methods.pruning_method import PruningMethod
from hf_learngene.pruning.order import leaving
from hf_learngene.pruning.rotations import narrowed, nested_map
from hf_learngene.pruning.targets import AxisTargets
from hf_learngene.resizing.build_model import build_model, cast_to
from hf_learngene.resizing.passes import Pass, make_pass
from hf_learngene.resizing.verify import verify
from hf_learngene.resizing.weights import Transfer


CHECKED = 8  # examples on which a sorted model is held against itself


@dataclass(frozen=True)
class Absorb(Op):
    """Adds to a bias what its matrix makes of a vector: the shift of the norm that it reads, which the target does without.

    Attributes:
        weight: the matrix.
        shift: the vector.
    """

    weight: str
    shift: str
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        weight, shift = (context.read(n).to(tensor) for n in (self.weight, self.shift))
        return tensor + weight @ shift.repeat(
            weight.shape[1] // len(shift)
        )  # a head may read several states side by side


@dataclass(frozen=True)
class Narrow(Op):
    """Keeps the first directions of a sorted residual stream along one dimension.

    Attributes:
        blocks: the dimension.
        new: how many.
        centred: whether norms subtract the mean.
        factor: that all is multiplied by.
    """

    blocks: Blocks
    new: int
    centred: bool
    factor: float
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        def act(part: Tensor, dim: int) -> Tensor:
            return narrowed(part.movedim(dim, -1), self.new, self.centred, self.factor).movedim(-1, dim)

        return self.blocks.apply(tensor, act)


@dataclass(frozen=True)
class First(Op):
    """Keeps the first entries of each fused part of a dimension.

    Attributes:
        dim: the dimension.
        parts: how many are fused in it.
        size: how many of each are kept.
    """

    dim: int
    parts: int
    size: int
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        opened: Tensor = tensor.unflatten(self.dim, (self.parts, -1))
        return opened.narrow(self.dim + 1, 0, self.size).flatten(self.dim, self.dim + 1)


@dataclass(frozen=True)
class Nested(PruningMethod):
    """Keeps the first parts of a sorted core. No examples are looked at; differentiable.

    Attributes:
        layers: of the core, those that stay longest first.
        stream: what the residual stream is sorted by: `directions`, `entries`, or None.
    """

    name: ClassVar[str] = "nested"
    layers: tuple[int, ...] = ()
    stream: str | None = None

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        return LayerMap.pick(sorted(self.layers[:depth])) if depth < source.num_layers else LayerMap.pick(range(depth))

    def selection(self, task: ResizeTask) -> Selection:
        """The first parts that a task keeps."""
        wanted, anatomy = AxisTargets.of(task), task.source
        layers = tuple(layer.index for layer in task.layer_map)
        (_, size), (heads, new_size) = task.heads
        (_, group), (groups, queries) = task.groups
        every = sorted(set(layers))
        first, rotation = None, None
        if wanted.width is not None and self.stream == ENTRIES:
            first = torch.arange(wanted.width)
        elif wanted.width is not None and self.stream == DIRECTIONS:
            centred = all(n.centred for n in anatomy.norms if n.axis == HIDDEN)
            rotation = nested_map(anatomy.sizes["hidden_size"], wanted.width, centred)
        kept = (torch.arange(groups)[:, None] * group + torch.arange(queries)).flatten()
        maps = _first_entries(heads, size, new_size)
        return Selection(
            layers,
            first,
            rotation,
            first,
            units={i: torch.arange(wanted.units) for i in every} if wanted.units is not None else {},
            heads=dict.fromkeys(every, kept) if wanted.heads is not None else {},
            head_size=size,
            group=group,
            inside=dict.fromkeys(every, maps) if wanted.head_size is not None else {},
        )

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        ops = self._absorbed(tensor, task)
        for change in sorted(
            self.changes(tensor, task), key=lambda one: one.axis == HIDDEN
        ):  # most work on what is left
            ops += self._changed(tensor, change, task)
        return ops

    def changes(self, tensor: TensorInfo, task: ResizeTask) -> list[WidthChange]:
        """The dimensions of a tensor of which the first parts are kept."""
        return task.width_changes(tensor)

    @staticmethod
    def _absorbed(tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        """Where the stream is rotated, norms neither scale nor shift."""
        if task.selection is None or task.selection.rotation is None or tensor.kind != "bias" or not tensor.norm:
            return []
        layer = task.layer_map[tensor.layer].index if tensor.layer is not None else None
        weight, shift = (
            f"{tensor.template.format(layer).rpartition('.')[0]}.weight",
            f"{tensor.norm.format(layer)}.bias",
        )
        return [Absorb(weight, shift)] if shift in task.source.tensors else []

    def _changed(self, tensor: TensorInfo, change: WidthChange, task: ResizeTask) -> list[Op]:
        """What is done to one dimension of a tensor."""
        rotation = task.selection.rotation if task.selection is not None else None
        if rotation is None or change.axis != HIDDEN or not in_stream(tensor, change.side):
            return [self._first(tensor, change, task)]
        blocks = task.blocks(tensor, change.dim)
        layer = task.layer_map[tensor.layer].index if tensor.layer is not None else None
        if tensor.kind in ("norm", "norm_bias", "scale"):
            fill = Fill(0.0 if tensor.kind == "norm_bias" else 1.0, "folded into the matrices beside it")
            return [Take(blocks, uniform_indices(change.old, change.new)), fill]
        ops: list[Op] = []
        if change.side == "in":
            ops.append(Weigh(change.dim, f"{tensor.norm.format(layer)}.weight"))
        elif tensor.scaled_by:
            ops.append(Weigh(change.dim, tensor.scaled_by.format(layer)))
        return [*ops, self._turned(blocks, change, task)]

    def _first(self, tensor: TensorInfo, change: WidthChange, task: ResizeTask) -> Op:
        """The first entries of an axis that is sorted, without an index: what is taken one by one is slow to go back through."""
        dim, ((_, group), (_, queries)) = tensor.dims[change.dim], task.groups
        axes = {FFN} | ({HIDDEN} if self.stream == ENTRIES else set())
        if group == queries and not (task.selection and task.selection.inside):  # whole heads
            axes |= {HEADS, KV_HEADS, HEAD_COUNT}
        if change.axis not in axes:
            return self.keep(tensor, change, task)
        label = f"first {change.new} of {change.old}"
        if dim.by_head:
            return First(change.dim, 1, change.new * dim.parts, label)
        return First(change.dim, dim.parts, change.new, label)

    def _turned(self, blocks: Blocks, change: WidthChange, task: ResizeTask) -> Op:
        centred = all(n.centred for n in task.source.norms if n.axis == HIDDEN)
        factor = change.old / change.new if change.side == "in" else 1.0
        return Narrow(blocks, change.new, centred, factor, f"first {change.new} of {change.old} directions")


@dataclass(frozen=True)
class _Sorting(Nested):
    """Brings a whole model into the order of a selection of all of it."""

    def changes(self, tensor: TensorInfo, task: ResizeTask) -> list[WidthChange]:
        sorted_axes = (HIDDEN, FFN, HEADS, KV_HEADS, HEAD_COUNT)
        return [
            WidthChange(i, d.axis, d.side, d.size // d.parts, d.size // d.parts)
            for i, d in enumerate(tensor.dims)
            if d.axis in sorted_axes and (d.side != "-" or d.axis == HEAD_COUNT)
        ]

    def _first(self, tensor: TensorInfo, change: WidthChange, task: ResizeTask) -> Op:
        return self.keep(tensor, change, task)

    def _turned(self, blocks: Blocks, change: WidthChange, task: ResizeTask) -> Op:
        return Matrix(blocks, cast(Tensor, cast(Selection, task.selection).rotation).T)


def in_nested_order(model: PreTrainedModel, examples: Batches) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model sorted by what would leave it first, which computes the same, and its order as plain data.

    What does not compute the same once it is sorted, in float64 on some of the examples, stays as it is: the residual stream,
    then heads too.

    Args:
        model: the model; it is left as it is.
        examples: what it is seen on.

    Returns:
        The sorted model, and `layers`, those that stay longest first, and `stream`: what its first parts are.

    Raises:
        UnsupportedFamilyError: nor do sorted units.
    """
    order = leaving(model, examples)
    looked = {n: t.double() if t.is_floating_point() else t for n, t in few(examples, model, CHECKED)[0].items()}
    whole = cast_to(copy.deepcopy(model), torch.float64)
    unturned = dataclasses.replace(order.selection, coordinates=None, rotation=None, pooled=None)
    for selection in (order.selection, unturned, dataclasses.replace(unturned, heads={}, inside={})):
        made = _sorted(whole, selection)
        if verify(whole, made, looked).function_preserving:
            directions, entries = selection.rotation is not None, selection.coordinates is not None
            stream = DIRECTIONS if directions else ENTRIES if entries else None
            half = model.dtype in (torch.float16, torch.bfloat16)  # rounded once more, it would not be without loss
            sorted_model = cast_to(made, torch.float32 if half else model.dtype)
            return sorted_model, {"layers": list(order.layers), "stream": stream}
    raise UnsupportedFamilyError(
        f"A `{model.config.model_type}` computes something else once its ffn units are sorted: give nested=False."
    )


def _sorted(model: PreTrainedModel, selection: Selection) -> PreTrainedModel:
    anatomy = anatomy_of(model.config, type(model))
    task = ResizeTask(anatomy, anatomy, LayerMap.pick(range(anatomy.num_layers)), selection=selection)
    config = copy.deepcopy(model.config)
    transfer = Transfer(model, Pass(_Sorting(), anatomy.sizes, model.config, config, type(model), task))
    made = build_model(type(model), config, transfer.weights(), model, anatomy=anatomy)
    transfer.carry_buffers(made)
    return made


def nested_pass(step: Pass, order: Mapping[str, Any]) -> Pass:
    """A pass to the same sizes that keeps the first parts of a sorted source."""
    method = Nested(tuple(order["layers"]), order["stream"])
    made = make_pass(method, step.source_config, step.model_class, step.sizes)
    return dataclasses.replace(made, task=dataclasses.replace(made.task, selection=method.selection(made.task)))


def _first_entries(heads: int, size: int, new_size: int) -> HeadMaps:
    first = torch.eye(size, dtype=torch.float64)[:, :new_size].expand(heads, -1, -1)
    return HeadMaps(first * (new_size / size) ** 0.5, first, first, first)


__all__ = ["Nested", "in_nested_order", "nested_pass"]
