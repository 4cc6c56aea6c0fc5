"""An explicit list of source layers: the way DistilBERT was started from BERT (arXiv 1910.01108, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hf_learngene.anatomy import Anatomy
from hf_learngene.errors import DirectionError, InvalidSizeError, UnknownOptionError
from hf_learngene.maps import LayerMap
from hf_learngene.maps.task import changes, shown
from hf_learngene.methods.base import Method, Paper
from hf_learngene.methods.registry import register_method


@register_method
@dataclass(frozen=True)
class Layers(Method):
    """Copies the source layers you name, in the order you name them; everything else is kept.

    Args:
        layer_map (`Sequence[int]`): source layer of each target layer; negative ones count from the end. A layer may
            occur more than once: `[0, 1, 0, 1]` stacks a two-layer model (StackBERT).

    Source: paper, section 3 (every other layer; the released script takes 0, 2, 4, 7, 9, 11 of 12).
    """

    name: ClassVar[str] = "layers"
    paper: ClassVar[Paper | None] = Paper("DistilBERT, a distilled version of BERT", "1910.01108")
    grows: ClassVar[bool] = True
    shrinks: ClassVar[bool] = True
    summary: ClassVar[str] = "the layers you name"

    layer_map: Sequence[int] = ()

    def __post_init__(self) -> None:
        picked = self.layer_map
        if isinstance(picked, str) or not isinstance(picked, Sequence) or not picked:
            raise UnknownOptionError(
                f"method='layers' needs layer_map, a list of source layers such as [0, 2, 4]; it was {picked!r}."
            )
        if any(isinstance(i, bool) or not isinstance(i, int) for i in picked):
            raise InvalidSizeError(f"layer_map holds the indices of source layers; it was {list(picked)!r}.")

    def options(self) -> dict[str, Any]:
        return {"layer_map": list(self.layer_map)}

    def implied_sizes(self, sizes: Mapping[str, int]) -> dict[str, int]:
        return {"num_hidden_layers": len(self.layer_map)}

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        if source.shared_layers:
            raise DirectionError(
                f"The layers of `{source.model_type}` share one set of weights: there is nothing to pick."
            )
        depth = source.num_layers
        outside = [i for i in self.layer_map if not -depth <= i < depth]
        if outside:
            raise InvalidSizeError(f"layer_map names layers {outside}; the source has layers 0 to {depth - 1}.")
        if sizes["num_hidden_layers"] != len(self.layer_map):
            raise InvalidSizeError(
                f"layer_map names {len(self.layer_map)} layers, but num_hidden_layers={sizes['num_hidden_layers']} was "
                "asked for. Leave num_hidden_layers out."
            )
        changed = changes(source, sizes)
        if changed:
            raise DirectionError(
                f"method='layers' copies whole layers, so widths stay ({shown(changed)}). "
                "method='weight_selection' shrinks widths, method='lemon' grows them."
            )

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        return LayerMap.pick([i % source.num_layers for i in self.layer_map])
