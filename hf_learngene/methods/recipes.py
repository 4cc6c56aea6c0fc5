"""From a task and a method to one recipe for each target tensor: what all methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from hf_learngene.anatomy import TensorInfo
from hf_learngene.anatomy.types import HEAD_COUNT, KERNEL, LABELS, PATCHES, POSITIONS, RELATIVE, VOCAB
from hf_learngene.maps import Op, Take, TensorRecipe
from hf_learngene.maps.ops import Blocks
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
from hf_learngene.methods.base import Method


# the fate of a tensor that the family's own initialisation computes (sinusoids over the head size)
COMPUTED = "fresh (computed)"


def recipes_for(task: ResizeTask, method: Method, missing: frozenset[str] = frozenset()) -> Iterator[TensorRecipe]:
    """One recipe for each tensor of the target, in its order.

    Args:
        task (`ResizeTask`): source and target.
        method (`Method`): fills the widths and the depth.
        missing (`frozenset[str]`): source tensors that the checkpoint did not hold: nothing is taken from them.
    """
    for name, tensor in task.target.tensors.items():
        sources, reason = _sources(tensor, task, method, missing)
        steps: list[Op] = []
        if sources:
            old = task.source.tensors[sources[0][0]]
            geometry, reason = _geometry(old, tensor, task, method)
            if geometry is None:
                sources = ()
            else:
                steps = [*geometry, *method.ops(tensor, task)]
        yield TensorRecipe(name, tensor.shape, sources, tuple(steps), reason)


def _sources(
    tensor: TensorInfo, task: ResizeTask, method: Method, missing: frozenset[str]
) -> tuple[tuple[tuple[str, float], ...], str]:
    if not method.keeps(tensor, task):
        return (), "initialised"
    before = task.source.tensors.get(tensor.name)
    if tensor.computed and (before is None or before.shape != tensor.shape):
        return (
            (),
            "computed",
        )  # of unchanged shape it is carried over: the source's own may differ from what is computed
    if tensor.layer is None:
        names = [(tensor.name, 1.0)]
    else:
        layer = task.layer_map[tensor.layer]
        names = [(tensor.template.format(i), weight) for i, weight in layer.sources]
    present = tuple((n, w) for n, w in names if n in task.source.tensors and n not in missing)
    if not present:
        return (), "not in the checkpoint" if any(n in missing for n, _ in names) else "not in the source"
    return present, ""


def _geometry(old: TensorInfo, new: TensorInfo, task: ResizeTask, method: Method) -> tuple[list[Op] | None, str]:
    """Steps for everything that is no width; None where the tensor has to start anew."""
    steps: list[Op] = []
    patch_dims = []
    for i, (a, b) in enumerate(zip(old.dims, new.dims, strict=True)):
        if a.axis == VOCAB and task.tokens is not None:
            steps.append(_token_step(i, a.size, len(old.dims), task.tokens, task.std))
            continue
        if a.axis == POSITIONS and old.name in task.position_rows:
            rows = torch.arange(a.size)[task.position_rows[old.name]]
            steps.append(Take(Blocks(i), rows, f"positions {int(rows[0])} to {int(rows[-1])}"))
            a = dataclasses.replace(a, size=len(rows), prefix=max(0, a.prefix - int(rows[0])))
        if a.size == b.size:
            if a.axis in (PATCHES, RELATIVE) and task.source.grid != task.target.grid:
                steps.append(_grid_step(a.axis, i, a.prefix, task))  # 8x2 and 4x4 patches are as many
            continue
        if a.axis == LABELS:
            return None, f"{b.size} labels instead of {a.size}"
        if "+" in a.axis:
            return None, f"other {a.axis.replace('+', ' and ')}"
        if a.axis in (PATCHES, RELATIVE):
            steps.append(_grid_step(a.axis, i, a.prefix, task))
        elif a.axis == POSITIONS:
            step = RepeatLine if method.repeats_positions() and b.size > a.size else ResampleLine
            word = "repeated" if step is RepeatLine else "interpolated"
            steps.append(step(i, b.size, a.prefix, f"{word} {a.size} → {b.size} positions"))
        elif a.axis == KERNEL:
            patch_dims.append(i)
        elif a.axis == "num_channels":
            steps.append(MixChannels(i, b.size, f"channels {a.size} → {b.size}"))
        elif a.side == "-" and a.axis != HEAD_COUNT:
            word = "first" if b.size < a.size else "extended"
            steps.append(FirstRows(i, b.size, task.std, f"{word} {min(a.size, b.size)} of {max(a.size, b.size)}"))
    if patch_dims and task.patches:
        source, target = task.patches
        label = f"kernel {source[0]}×{source[1]} → {target[0]}×{target[1]}"
        steps.append(ResampleKernel(source, target, label))
    return steps, ""


def _token_step(dim: int, size: int, rank: int, rows: Tensor, std: float) -> Op:
    kept = int((rows >= 0).sum())
    label = f"{kept} of {size} tokens" + (f" and {len(rows) - kept} new" if len(rows) > kept else "")
    return Take(Blocks(dim), rows, label, new="random" if rank > 1 else "zero", std=std)  # as FirstRows has them


def _grid_step(axis: str, dim: int, prefix: int, task: ResizeTask) -> Op:
    source, target = task.source.grid, task.target.grid
    if source is None or target is None:
        raise TypeError("a table over patches needs an image grid")
    label = f"interpolated {source[0]}×{source[1]} → {target[0]}×{target[1]}"
    kind = ResampleGrid if axis == PATCHES else ResampleRelative
    return kind(dim, source, target, prefix, label)
