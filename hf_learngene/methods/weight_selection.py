"""Weight Selection: a smaller model from evenly spaced entries of a larger one (arXiv 2311.18823, ICLR 2024)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import HEAD_COUNT, HEAD_DIM, HEADS, KV_HEADS
from hf_learngene.errors import DirectionError, InvalidSizeError, UnknownOptionError
from hf_learngene.maps import LayerMap, Op
from hf_learngene.maps.convolutions import takes
from hf_learngene.maps.ops import uniform_indices
from hf_learngene.maps.task import WIDTHS, ResizeTask, WidthChange, changes, flat_heads, shown, source_axes
from hf_learngene.methods.base import Method, Paper
from hf_learngene.methods.registry import register_method


ELEMENT_SELECTIONS = ("uniform", "consecutive", "random", "random_inconsistent")
LAYER_SELECTIONS = ("first", "uniform")
HEAD_SELECTIONS = ("flat", "headwise")


@register_method
@dataclass(frozen=True)
class WeightSelection(Method):
    """Picks entries of every tensor, along every axis that shrinks. No rescaling; not function-preserving.

    Args:
        element_selection (`str`, *optional*, defaults to `"uniform"`): which entries of an axis: `uniform` (the released
            rule), `consecutive` (the first ones), `random` (one random set for each axis, used wherever the axis occurs)
            or `random_inconsistent` (a set of its own for each tensor and dimension; the paper's ablation).
        layer_selection (`str`, *optional*, defaults to `"first"`): `first` N layers, or `uniform` over the depth.
        head_selection (`str`, *optional*, defaults to `"flat"`): `flat` treats heads x head size as one axis, as the paper
            did, so that a new head mixes old ones; `headwise` (not the paper's) picks whole heads, then entries in each.

    q, k and v are selected separately, fused or not: the released code indexes the fused axis as one, which pairs other
    features of q and k wherever the sizes do not divide.

    Source: paper, section 3; code `weight_selection.py` after its fix of September 2024.
    """

    name: ClassVar[str] = "weight_selection"
    paper: ClassVar[Paper | None] = Paper("Initializing Models with Larger Ones", "2311.18823")
    shrinks: ClassVar[bool] = True
    summary: ClassVar[str] = "evenly spaced entries of a larger model"

    element_selection: str = "uniform"
    layer_selection: str = "first"
    head_selection: str = "flat"

    def __post_init__(self) -> None:
        for option, allowed in (
            ("element_selection", ELEMENT_SELECTIONS),
            ("layer_selection", LAYER_SELECTIONS),
            ("head_selection", HEAD_SELECTIONS),
        ):
            if getattr(self, option) not in allowed:
                raise UnknownOptionError(f"{option} is one of {', '.join(allowed)}; it was {getattr(self, option)!r}.")

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        flat = flat_heads(source.sizes), flat_heads(sizes)
        pairs = changes(source, sizes, (*WIDTHS, "mlp_ratio", "num_hidden_layers", *source_axes(source)))
        if self.head_selection == "flat":  # fewer but larger heads are fine as long as the flat axis does not grow
            pairs.pop("num_attention_heads", None), pairs.pop("head_dim", None)
            pairs["heads × head size"] = flat
        grown = {name: (old, new) for name, (old, new) in pairs.items() if new > old}
        if grown:
            raise DirectionError(
                f"weight_selection picks entries that are there, so it cannot grow ({shown(grown)}). "
                "method='lemon' grows without loss; method='auto' shrinks one axis and grows the other."
            )

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        return (
            LayerMap.pick(range(depth))
            if self.layer_selection == "first"
            else LayerMap.spread(source.num_layers, depth, source.period)
        )

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        def index(change: WidthChange) -> tuple[Tensor, str]:
            dim, axis, _, old, new = change
            if axis in (HEADS, KV_HEADS, HEAD_COUNT, HEAD_DIM) and self.head_selection == "headwise":
                picked = self._headwise(axis, tensor, task)
            else:
                picked = self._index(old, new, axis, tensor, dim, task.seed)
            return picked, f"selected {new} of {old}"

        steps = takes(tensor, task, index)
        if self.head_selection == "headwise" and not any(
            change.axis == HEADS for change in task.width_changes(tensor)
        ):
            steps += self._reshaped_heads(tensor, task)
        return steps

    def _reshaped_heads(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        """Heads x head size may stay while heads and head size change; then heads cannot be kept whole."""
        (heads, size), (new_heads, new_size) = task.heads
        if (heads, size) != (new_heads, new_size) and any(d.axis == HEADS for d in tensor.dims):
            raise InvalidSizeError(
                f"head_selection='headwise' keeps heads whole: {heads} heads of {size} cannot become {new_heads} of "
                f"{new_size}. Keep head_dim at {size}, or use head_selection='flat'."
            )
        return []

    def _headwise(self, axis: str, tensor: TensorInfo, task: ResizeTask) -> Tensor:
        (heads, size), (new_heads, new_size) = task.heads
        if new_heads > heads or new_size > size:
            raise DirectionError(
                f"head_selection='headwise' keeps heads whole: {heads} heads of {size} cannot become {new_heads} of "
                f"{new_size}. Ask for at most {heads} heads of at most {size}, or use head_selection='flat'."
            )
        (groups, group), (new_groups, new_group) = task.groups
        picked = self._index(groups, new_groups, HEAD_COUNT, tensor, 0, task.seed)
        if axis != KV_HEADS:  # queries stay with the key and the value they share
            within = self._index(group, new_group, "group", tensor, 0, task.seed)
            picked = (picked[:, None] * group + within).flatten()
        inside = self._index(size, new_size, HEAD_DIM, tensor, 0, task.seed)
        if axis == HEAD_COUNT:
            return picked
        return inside if axis == HEAD_DIM else (picked[:, None] * size + inside[None]).flatten()

    def _index(self, old: int, new: int, axis: str, tensor: TensorInfo, dim: int, seed: int) -> Tensor:
        if self.element_selection == "uniform":
            return uniform_indices(old, new)
        if self.element_selection == "consecutive":
            return torch.arange(new)
        of = axis if self.element_selection == "random" else f"{tensor.name}|{dim}"
        digest = hashlib.sha256(f"{seed}|{of}|{old}|{new}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randperm(old, generator=generator)[:new].sort().values
