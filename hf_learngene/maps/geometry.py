"""Ops for what is no width: tables over tokens, positions, patches and labels, patch kernels, image channels."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hf_learngene.anatomy import TensorInfo
from hf_learngene.anatomy.types import HEAD_COUNT, KERNEL, LABELS, PATCHES, POSITIONS, RELATIVE, VOCAB, Dim
from hf_learngene.maps.ops import Blocks, Matrix, Op, Take
from hf_learngene.maps.resample import (
    FirstRows,
    MixChannels,
    RepeatLine,
    ResampleGrid,
    ResampleKernel,
    ResampleLine,
    ResampleRelative,
)
from hf_learngene.maps.task import ResizeTask


def geometry_ops(
    old: TensorInfo, new: TensorInfo, task: ResizeTask, repeats_positions: bool
) -> tuple[list[Op] | None, str]:
    """Ops for everything that is no width, and why there are none (None) where the tensor has to start anew.

    Args:
        old: the source's tensor.
        new: the target's.
        task: source and target.
        repeats_positions: whether a longer table over text positions keeps its rows and starts over, instead of being
            interpolated.
    """
    ops: list[Op] = []
    patch_dims = []
    for i, (a, b) in enumerate(zip(old.dims, new.dims, strict=True)):
        if a.layers:
            if len(task.layer_map) != task.source.num_layers or any(
                x.index != i for i, x in enumerate(task.layer_map)
            ):
                ops.append(Matrix(Blocks(i), _by_layer(a, b, task), f"entries of {b.layers} layers"))
            continue
        if a.axis == VOCAB and task.tokens is not None:
            ops.append(_token_op(i, a.size, len(old.dims), task.tokens, task.std))
            continue
        if a.axis == POSITIONS and old.name in task.position_rows:
            rows = torch.arange(a.size)[task.position_rows[old.name]]
            ops.append(Take(Blocks(i), rows, f"positions {int(rows[0])} to {int(rows[-1])}"))
            a = dataclasses.replace(a, size=len(rows), prefix=max(0, a.prefix - int(rows[0])))
        if a.size == b.size:
            if a.axis in (PATCHES, RELATIVE) and task.source.grid != task.target.grid:
                ops.append(_grid_op(a.axis, i, a.prefix, task))  # 8x2 and 4x4 patches are as many
            continue
        if a.axis == LABELS:
            return None, f"{b.size} labels instead of {a.size}"
        if "+" in a.axis and not a.counted_together:
            return None, f"other {a.axis.replace('+', ' and ')}"
        if a.axis in (PATCHES, RELATIVE):
            ops.append(_grid_op(a.axis, i, a.prefix, task))
        elif a.axis == POSITIONS:
            kind = RepeatLine if repeats_positions and b.size > a.size else ResampleLine
            word = "repeated" if kind is RepeatLine else "interpolated"
            ops.append(kind(i, b.size, a.prefix, f"{word} {a.size} → {b.size} positions"))
        elif a.axis == KERNEL:
            patch_dims.append(i)
        elif a.axis == "num_channels":
            ops.append(MixChannels(i, b.size, f"channels {a.size} → {b.size}"))
        elif a.side == "-" and a.axis != HEAD_COUNT:
            word = "first" if b.size < a.size else "extended"
            ops.append(FirstRows(i, b.size, task.std, f"{word} {min(a.size, b.size)} of {max(a.size, b.size)}"))
    if patch_dims and task.patches:
        source, target = task.patches
        label = f"kernel {source[0]}×{source[1]} → {target[0]}×{target[1]}"
        ops.append(ResampleKernel(source, target, label))
    return ops, ""


def _by_layer(old: Dim, new: Dim, task: ResizeTask) -> Tensor:
    """The matrix that puts each layer's entries where the layer went; the others have zeros.

    What reads a layer's inside (ESM's contact head its scores) follows the copy that computes. What is added behind a layer
    (YOLOS's positions) comes behind the layers inserted after it, so that each hands on what the source's layer does.
    """
    maps = torch.zeros(new.layers, old.layers, dtype=torch.float64)
    layers = list(task.layer_map)
    for place, layer in enumerate(layers):
        last = place
        while old.side != "in" and last + 1 < len(layers) and layers[last + 1].inserted:
            last += 1
        for index, weight in () if layer.inserted or last >= new.layers else layer.sources:
            if index < old.layers:
                maps[last, index] = weight
    return torch.kron(maps, torch.eye(old.size // old.layers, dtype=torch.float64))


def _token_op(dim: int, size: int, rank: int, rows: Tensor, std: float) -> Op:
    kept = int((rows >= 0).sum())
    label = f"{kept} of {size} tokens" + (f" and {len(rows) - kept} new" if len(rows) > kept else "")
    return Take(Blocks(dim), rows, label, new="random" if rank > 1 else "zero", std=std)  # as FirstRows has them


def _grid_op(axis: str, dim: int, prefix: int, task: ResizeTask) -> Op:
    source, target = task.source.grid, task.target.grid
    if source is None or target is None:
        raise TypeError("a table over patches needs an image grid")
    label = f"interpolated {source[0]}×{source[1]} → {target[0]}×{target[1]}"
    kind = ResampleGrid if axis == PATCHES else ResampleRelative
    return kind(dim, source, target, prefix, label)
