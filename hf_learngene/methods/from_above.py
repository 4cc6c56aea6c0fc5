"""Advanced knowledge initialisation: new units of a layer take the weights of the layer above (bert2BERT, section 3.3)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_learngene.anatomy import TensorInfo
from hf_learngene.maps import Op
from hf_learngene.maps.ops import Blocks, Context
from hf_learngene.maps.task import ResizeTask


def name_above(tensor: TensorInfo, layer: int | None, task: ResizeTask) -> str:
    """The same tensor one layer further up in the source, or '' where there is none of its shape."""
    name = tensor.template.format(layer + 1) if layer is not None else ""
    above, own = task.source.tensors.get(name), task.source.tensors.get(tensor.template.format(layer))
    fits = above is not None and own is not None and above.shape == own.shape and name not in task.missing
    return name if fits else ""


@dataclass(frozen=True, eq=False)
class FromAbove(Op):
    """Advanced knowledge: new rows are those of the layer above, widened alike.

    Attributes:
        inner: how either layer's tensor is widened.
        above: the source tensor of the layer above.
        blocks: how the dimension that is written is fused.
        old: size of one of its parts before new rows were added.
    """

    inner: tuple[Op, ...]
    above: str
    blocks: Blocks
    old: int
    label: str = ""

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        own, other = tensor, context.read(self.above).to(tensor)
        for op in self.inner:
            own, other = op(own, context), op(other, context)
        target = dataclasses.replace(self.blocks, heads=(self.blocks.heads[1], self.blocks.heads[1]))

        def fresh(part: Tensor, dim: int) -> Tensor:
            places = torch.arange(part.shape[dim], device=part.device) >= self.old
            return places.reshape([-1 if i == dim else 1 for i in range(part.dim())]).expand(part.shape)

        return torch.where(target.apply(own, fresh), other, own)


__all__ = ["FromAbove", "name_above"]
