"""Stacking: a deeper model from copies of a shallower one's layers (Gong et al., ICML 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from hf_learngene.anatomy import Anatomy
from hf_learngene.errors import DirectionError, UnknownOptionError
from hf_learngene.maps import LayerMap
from hf_learngene.maps.task import changes, shown
from hf_learngene.methods.base import Method, Paper
from hf_learngene.methods.registry import register_method


ORDERS = ("stack", "repeat")


def stacked(old: int, new: int) -> list[int]:
    """Source layer of each of `new` layers: all of them over and over, and what is left over from the top.

    Example:
        >>> stacked(3, 6), stacked(3, 7)
        ([0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2, 2])
    """
    times, rest = divmod(new, old)
    return [*range(old)] * times + [*range(old - rest, old)]


def repeated(old: int, new: int) -> list[int]:
    """Source layer of each of `new` layers: each one several times in place.

    Example:
        >>> repeated(3, 6), repeated(3, 4)
        ([0, 0, 1, 1, 2, 2], [0, 0, 1, 2])
    """
    return [i * old // new for i in range(new)]


@register_method
@dataclass(frozen=True)
class Stack(Method):
    """Makes a model deeper by copies of its layers; widths and everything outside the layers are kept. Not function-preserving.

    Args:
        order (`str`, *optional*, defaults to `"stack"`): `stack` puts the whole model on top of itself (StackBERT), and takes
            what is left over from its top (bert2BERT); `repeat` puts each layer's copies right behind it (Gopher).

    Source: paper, section 3.2, which doubles the depth; Gopher (2112.11446), appendix G.3.3, for `repeat`.
    """

    name: ClassVar[str] = "stack"
    paper: ClassVar[Paper | None] = Paper(
        "Efficient Training of BERT by Progressively Stacking",
        venue="ICML 2019",
        link="https://proceedings.mlr.press/v97/gong19a.html",
    )
    grows: ClassVar[bool] = True
    summary: ClassVar[str] = "a deeper model from copies of the layers"

    order: str = "stack"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise UnknownOptionError(f"order is one of {', '.join(ORDERS)}; it was {self.order!r}.")

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        changed = changes(source, sizes)
        if changed:
            raise DirectionError(
                f"method='stack' copies whole layers, so widths stay ({shown(changed)}). method='bert2bert' grows widths too and "
                "stacks; method='lemon' grows both without loss; method='weight_selection' shrinks."
            )
        depth = sizes["num_hidden_layers"]
        if depth < source.num_layers:
            raise DirectionError(
                f"method='stack' only grows (num_hidden_layers {source.num_layers} → {depth}). method='layers' and "
                "'weight_selection' take fewer layers."
            )
        if source.shared_layers and depth > source.num_layers:
            raise DirectionError(
                f"The layers of `{source.model_type}` share one set of weights: there is nothing to stack. method='front' makes "
                "a deeper one."
            )

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        return LayerMap.pick((stacked if self.order == "stack" else repeated)(source.num_layers, depth))
