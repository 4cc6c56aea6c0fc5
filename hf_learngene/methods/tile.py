"""Tiling: a larger model from a smaller one's weights, laid side by side from the middle (ModernBERT, arXiv 2412.13663)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.errors import DirectionError, UnknownOptionError
from hf_learngene.maps import LayerMap, Op
from hf_learngene.maps.convolutions import takes
from hf_learngene.maps.task import WIDTHS, ResizeTask, changes, flat_heads, shown, source_axes
from hf_learngene.methods.base import Method, Paper
from hf_learngene.methods.registry import register_method


TILINGS = ("middle", "edge")


def tiled(old: int, new: int, tiling: str) -> Tensor:
    """Source entry of each of `new` entries of an axis.

    Example:
        >>> tiled(4, 8, "middle").tolist(), tiled(4, 6, "edge").tolist()
        ([2, 3, 0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 0, 1])
    """
    return (torch.arange(new) - ((new - old) // 2 if tiling == "middle" else 0)) % old


@register_method
@dataclass(frozen=True)
class Tile(Method):
    """Fills every larger tensor with copies of the smaller one, and takes layers evenly spread. Not function-preserving.

    Nothing is rescaled: what reads a doubled width sums twice as much, and training has to mend it.

    Args:
        tiling (`str`, *optional*, defaults to `"middle"`): where the first copy lies: `middle` centres it, and the others go on
            at both ends, as ModernBERT-large was started from ModernBERT-base; `edge` starts with the first entry (Phi).

    Source: paper, section 2.2.2 and appendix A; code `init_model_from_pretrained` and `tile_weight`. Its rule for layers runs
    past the last one where an even depth is doubled; here that layer is the last.
    """

    name: ClassVar[str] = "tile"
    paper: ClassVar[Paper | None] = Paper(
        "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder", "2412.13663"
    )
    grows: ClassVar[bool] = True
    summary: ClassVar[str] = "copies of the weights side by side, from the middle"

    tiling: str = "middle"

    def __post_init__(self) -> None:
        if self.tiling not in TILINGS:
            raise UnknownOptionError(f"tiling is one of {', '.join(TILINGS)}; it was {self.tiling!r}.")

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        pairs = changes(source, sizes, (*WIDTHS, "mlp_ratio", "num_hidden_layers", *source_axes(source)))
        (
            pairs.pop("num_attention_heads", None),
            pairs.pop("head_dim", None),
        )  # heads are tiled flat, as the release does
        pairs["heads × head size"] = flat_heads(source.sizes), flat_heads(sizes)
        smaller = {name: (old, new) for name, (old, new) in pairs.items() if new < old}
        if smaller:
            raise DirectionError(
                f"method='tile' lays copies side by side, so it only grows ({shown(smaller)}). "
                "method='weight_selection' shrinks; method='auto' shrinks one axis and grows the other."
            )

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        last = source.num_layers - 1
        return LayerMap.pick([min(last, round(i * source.num_layers / depth)) for i in range(depth)])

    def repeats_positions(self) -> bool:
        return True

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        return takes(tensor, task, lambda c: (tiled(c.old, c.new, self.tiling), f"tiled {c.old} → {c.new}"))
