"""An explicit list of source layers: the way DistilBERT was started from BERT (arXiv 1910.01108, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.stages import in_stages
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
            occur more than once: `[0, 1, 0, 1]` stacks a two-layer model (StackBERT). Of a hierarchy a list of them, one for each
            stage: `[[0, 1], [0, 1], [0, 1, 4, 5], [0, 1]]`.

    Source: paper, section 3 (every other layer; the released script takes 0, 2, 4, 7, 9, 11 of 12).
    """

    name: ClassVar[str] = "layers"
    paper: ClassVar[Paper | None] = Paper("DistilBERT, a distilled version of BERT", "1910.01108")
    grows: ClassVar[bool] = True
    shrinks: ClassVar[bool] = True
    summary: ClassVar[str] = "the layers you name"

    layer_map: Sequence[int] | Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        picked = self.layer_map
        if isinstance(picked, str) or not isinstance(picked, Sequence) or not picked:
            raise UnknownOptionError(
                f"method='layers' needs layer_map, a list of source layers such as [0, 2, 4]; it was {picked!r}."
            )
        for layers in self._by_stage or (picked,):
            if not layers or any(isinstance(i, bool) or not isinstance(i, int) for i in layers):
                raise InvalidSizeError(f"layer_map holds the indices of source layers; it was {list(picked)!r}.")

    @property
    def _by_stage(self) -> tuple[Sequence[int], ...]:
        """The lists of each stage; none where the layers are those of a model without stages."""
        lists = tuple(i for i in self.layer_map if isinstance(i, Sequence) and not isinstance(i, str))
        return lists if len(lists) == len(self.layer_map) else ()

    def _picked(self, source: Anatomy) -> Sequence[int]:
        if source.stage is None:
            return cast(Sequence[int], self.layer_map)
        return self._by_stage[source.stage]

    def options(self) -> dict[str, Any]:
        return {"layer_map": [list(layers) for layers in self._by_stage] or list(self.layer_map)}

    def implied_sizes(self, sizes: Mapping[str, int]) -> dict[str, int]:
        if self._by_stage:
            return in_stages({"num_hidden_layers": [len(layers) for layers in self._by_stage]})
        return {"num_hidden_layers": len(self.layer_map)}

    def check_stages(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        if len(self._by_stage) != source.num_stages:
            given = f"{len(self._by_stage)} lists" if self._by_stage else "one list"
            needed = (
                f"{source.num_stages} stages, a list of layers each"
                if source.num_stages
                else "no stages, so one list of layers"
            )
            raise InvalidSizeError(f"layer_map is {given}, and this `{source.model_type}` has {needed}.")
        super().check_stages(source, sizes)

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        if source.shared_layers:
            raise DirectionError(
                f"The layers of `{source.model_type}` share one set of weights: there is nothing to pick."
            )
        depth = source.num_layers
        picked = self._picked(source)
        outside = [i for i in picked if not -depth <= i < depth]
        if outside:
            raise InvalidSizeError(f"layer_map names layers {outside}; the source has layers 0 to {depth - 1}.")
        if sizes["num_hidden_layers"] != len(picked):
            raise InvalidSizeError(
                f"layer_map names {len(picked)} layers, but num_hidden_layers={sizes['num_hidden_layers']} was "
                "asked for. Leave num_hidden_layers out."
            )
        changed = changes(source, sizes)
        if changed:
            raise DirectionError(
                f"method='layers' copies whole layers, so widths stay ({shown(changed)}). "
                "method='weight_selection' shrinks widths, method='lemon' grows them."
            )

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        return LayerMap.pick([i % source.num_layers for i in self._picked(source)])
