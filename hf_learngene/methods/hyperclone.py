"""HyperCloning: a wider model from whole copies of a narrower one (arXiv 2409.12903)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import HEAD_DIM, HEADS, KV_HEADS
from hf_learngene.errors import DirectionError, LossyGrowthError, UnknownOptionError
from hf_learngene.maps import Op, Split
from hf_learngene.maps.ops import Blocks
from hf_learngene.maps.task import WIDTHS, ResizeTask, changes, shown, source_axes
from hf_learngene.methods.base import Method, Paper
from hf_learngene.methods.lemon import Growth
from hf_learngene.methods.lemon_limits import check_growth, nearest_multiples
from hf_learngene.methods.registry import register_method


@register_method
@dataclass(frozen=True)
class HyperClone(Method):
    """Multiplies widths by whole numbers without changing the function. Depth stays.

    Every entry is copied, and each copy is read with an equal share. Heads are copied, or each made larger by copies of its
    entries, with queries and keys scaled alike.

    Args:
        snr (`float`, *optional*): signal-to-noise ratio in decibels of noise on what reads the copies, the same with either sign
            on neighbours, so that it cancels and copies diverge in training (the paper: about 10). None adds none: the copies
            then stay copies for ever.

    Source: paper, section 3; code `hypercloning`.
    """

    name: ClassVar[str] = "hyperclone"
    paper: ClassVar[Paper | None] = Paper(
        "Scaling Smart: Accelerating Large Language Model Pre-training with Small Model Initialization", "2409.12903"
    )
    grows: ClassVar[bool] = True
    lossless: ClassVar[bool] = True
    summary: ClassVar[str] = "widths times a whole number, with the same function"

    snr: float | None = None

    def __post_init__(self) -> None:
        if self.snr is not None and (isinstance(self.snr, bool) or not isinstance(self.snr, (int, float))):
            raise UnknownOptionError(f"snr is a number of decibels, or None for no noise; it was {self.snr!r}.")

    def repeats_positions(self) -> bool:
        return True

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        depth = changes(source, sizes, ("num_hidden_layers",))
        if depth:
            raise DirectionError(
                f"method='hyperclone' keeps the depth ({shown(depth)}). method='lemon' grows both without loss; method='stack' "
                "makes a deeper model of copies."
            )
        check_growth(source, sizes, False, self.name)
        for name, (old, new) in changes(source, sizes, (*WIDTHS, "mlp_ratio", *source_axes(source))).items():
            if new % old:
                raise LossyGrowthError(
                    f"{name} {old} → {new}: method='hyperclone' makes whole copies, so only multiples of {old}; the nearest are "
                    f"{nearest_multiples(old, new)}. method='lemon' grows to other sizes too."
                )

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        return _Cloning(task, self.snr).ops(tensor)


class _Cloning(Growth):
    """Growth in which heads become larger by copies too, and noise has the size of what it is added to."""

    def __init__(self, task: ResizeTask, snr: float | None) -> None:
        super().__init__(task, noise=0.0, symmetry="equal", depth="allzero")
        self.ratio = 10 ** (-snr / 20) if snr is not None else 0.0

    def index(self, axis: str, old: int, new: int) -> Tensor:
        (heads, size), (new_heads, new_size) = self.task.heads
        if axis == HEAD_DIM:
            return torch.arange(new) % old
        if axis not in (HEADS, KV_HEADS):
            return super().index(axis, old, new)
        if axis == KV_HEADS:
            heads, new_heads = old // size, new // new_size
        head, inside = torch.arange(new_heads) % heads, torch.arange(new_size) % size
        return (head[:, None] * size + inside).flatten()

    def scale_of(self, role: str) -> float:
        (_, size), (_, new_size) = self.task.heads
        return float((size / new_size) ** 0.25) if role in ("q", "k") else 1.0

    def split(self, blocks: Blocks, index: Tensor, label: str) -> Split:
        return Split(blocks, index, label, ratio=self.ratio)
