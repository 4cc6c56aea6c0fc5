"""Ops of convolutions over the width: those of several groups, and those under weight normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_learngene.anatomy import TensorInfo
from hf_learngene.maps.ops import Context, Op, Take
from hf_learngene.maps.task import ResizeTask, WidthChange


@dataclass(frozen=True, eq=False)
class TakeGrouped(Op):
    """Picks channels of a grouped convolution's weight, (channels, channels of a group, taps).

    Both dimensions change at once: what a channel reads are the channels that stand in its group of the target, where they
    stood in its group of the source too. Of copies in one group each takes its share.

    Attributes:
        index: (target size,) source channel of each target channel; -1 is a new one, which neither reads nor is read.
        groups: number of groups, the same in both.
        shared: whether copies in one group take shares; as whole copies they are what the gradient is made of.
    """

    index: Tensor
    groups: int
    label: str = ""
    shared: bool = True

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        old, new = len(tensor) // self.groups, len(self.index) // self.groups
        read = self.index.reshape(self.groups, new)
        copies = torch.stack([torch.bincount(row[row >= 0], minlength=len(tensor)) for row in read])
        share = copies.gather(1, read.clamp_min(0)).reciprocal().repeat_interleave(new, 0)
        read, group = read.repeat_interleave(new, 0), self.index.div(old, rounding_mode="floor")[:, None]
        inside = (read >= 0) & (self.index >= 0)[:, None] & (read.div(old, rounding_mode="floor") == group)
        columns = torch.where(inside, read - group * old, 0)
        share = torch.where(inside, share if self.shared else 1.0, 0.0).to(tensor)
        rest = [1] * (tensor.dim() - 2)
        places = columns.reshape(*columns.shape, *rest).expand(-1, -1, *tensor.shape[2:])
        return tensor[self.index.clamp_min(0)].gather(1, places) * share.reshape(*share.shape, *rest)


def takes(
    tensor: TensorInfo,
    task: ResizeTask,
    index: Callable[[WidthChange], tuple[Tensor, str]],
    op: Callable[[WidthChange], Op] | None = None,
) -> list[Op]:
    """Ops that pick entries of every width of a tensor that changes: of a grouped convolution one, for both its widths at once.

    Args:
        tensor (`TensorInfo`): the target tensor.
        task (`ResizeTask`): the resize.
        index (`Callable`): (target size,) source entry of each target entry of a width, -1 for a new one, and a label.
        op (`Callable`, *optional*): what picks them in any other tensor, where it is more than `Take`.
    """
    changes = task.width_changes(tensor)
    if changes and tensor.groups > 1:
        entries, label = index(changes[0])
        return [TakeGrouped(entries, tensor.groups, label)]
    return [op(c) if op is not None else Take(task.blocks(tensor, c.dim), *index(c)) for c in changes]


@dataclass(frozen=True)
class Lengthen(Op):
    """Brings the length that goes with a weight's direction (weight normalisation) along with what is done to the direction.

    Attributes:
        name: the source's direction.
        target: the target's, whose random numbers are drawn.
        ops: what is done to it.
    """

    name: str
    target: str
    ops: tuple[Op, ...]
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        before = context.read(self.name).to(tensor)
        after, own = before, Context(context.read, context.seed, self.target)
        for op in self.ops:
            after = op(after, own)
        dims = [i for i, n in enumerate(tensor.shape) if n == 1]
        grown = torch.linalg.vector_norm(after, dim=dims, keepdim=True)
        made: Tensor = tensor * grown / torch.linalg.vector_norm(before, dim=dims, keepdim=True)
        return made


__all__ = ["Lengthen", "TakeGrouped", "takes"]
