"""What the methods share that look before they pick: which layers, heads, units and entries stay comes as `Selection`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import FFN, HEAD_COUNT, HEADS, HIDDEN, KV_HEADS
from hf_learngene.errors import DirectionError
from hf_learngene.maps import LayerMap, Op, Take
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.task import WIDTHS, ResizeTask, changes, shown, source_axes
from hf_learngene.methods.base import Method
from hf_learngene.pruning.selection import Selection


@dataclass(frozen=True)
class PruningMethod(Method):
    """Base of the methods that pick by what they see of weights or examples. A plan without weights shows evenly spaced ones.

    Subclasses name what they pick by in `ranking`; `calibrating.ranking` scores by it.
    """

    shrinks: ClassVar[bool] = True
    ranking: ClassVar[str] = ""

    choices: Selection | None = field(default=None, repr=False, compare=False, kw_only=True)

    @classmethod
    def option_names(cls) -> list[str]:
        return [f.name for f in fields(cls) if f.name != "choices"]

    def options(self) -> dict[str, Any]:
        layers = {"layers": list(self.choices.layers)} if self.choices is not None else {}
        return {n: getattr(self, n) for n in self.option_names()} | layers

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        names = (*WIDTHS, "mlp_ratio", "num_hidden_layers", *source_axes(source))
        grown = {n: (old, new) for n, (old, new) in changes(source, sizes, names).items() if new > old}
        if "head_dim" in grown and sizes["num_attention_heads"] < source.sizes["num_attention_heads"]:
            heads, size = source.sizes["num_attention_heads"], source.sizes["head_dim"]
            fewer, larger = sizes["num_attention_heads"], sizes["head_dim"]
            whole = f"head_dim={size}" if source.head_dim_honoured else f"hidden_size={fewer * size}"
            raise DirectionError(
                f"{self.name} keeps heads whole: {heads} of {size} cannot become {fewer} of {larger}. Give {whole} too, or use "
                "method='weight_selection', which cuts the same entries into other heads."
            )
        if grown:
            raise DirectionError(
                f"{self.name} shrinks; it cannot grow ({shown(grown)}). method='lemon' grows without loss."
            )

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        if self.choices is not None:
            return LayerMap.pick(self.choices.layers)
        return LayerMap.spread(source.num_layers, depth)

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        steps: list[Op] = []
        for dim, axis, _, old, new in task.width_dims(tensor):
            index = self.index(axis, tensor, task, old, new)
            steps.append(Take(task.blocks(tensor, dim), index, f"selected {new} of {old}"))
        return steps

    def index(self, axis: str, tensor: TensorInfo, task: ResizeTask, old: int, new: int) -> Tensor:
        """Which entries of one axis of a tensor stay."""
        chosen = self.choices
        place = task.target.layer_of(tensor)
        layer = task.layer_map[place].index if place is not None else None
        if chosen is None:
            return uniform_indices(old, new)
        if axis == HIDDEN and chosen.pooled is not None:
            return chosen.pooled
        if axis == FFN and layer is not None and layer in chosen.units:
            return chosen.units[layer]
        if axis == KV_HEADS and layer is not None and layer in chosen.heads:
            (_, size), _ = task.heads
            return (chosen.kv_heads(layer)[:, None] * size + torch.arange(size)).flatten()
        if axis in (HEADS, HEAD_COUNT) and layer is not None:
            (heads, size), (_, new_size) = task.heads
            kept = chosen.heads.get(layer, torch.arange(heads))
            if axis == HEAD_COUNT:
                return kept
            if layer in chosen.entries:
                return (kept[:, None] * size + chosen.entries[layer]).flatten()
            return (kept[:, None] * size + torch.arange(new_size)).flatten()
        return uniform_indices(old, new)


__all__ = ["PruningMethod"]
