"""Fields of a config that speak of layers by their index: they follow the layer map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedConfig

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.config_fields import LAYER_KINDS, LAYER_OUTPUTS
from hf_learngene.maps import LayerMap


def follow_layers(part: PreTrainedConfig, old_part: PreTrainedConfig, anatomy: Anatomy, layer_map: LayerMap) -> None:
    """Brings lists of and over layers along, in a config whose depth has changed.

    - A list with one entry for each layer (`layer_types`) has the entry of the layer that each target layer comes from.
    - A list of layers of a kind (`window_block_indices`) names every target layer that comes from one of them.
    - A list of layers whose output is read (`out_indices`) names the last target layer that comes from each, so that what is
      read there stays the same where layers are inserted that change nothing. Where that layer was left out, the nearest one
      that was kept stands in for it, and two that fall together count once. The last layer stays the last.

    Args:
        part (`PreTrainedConfig`): the target's size section. It is changed.
        old_part (`PreTrainedConfig`): the source's.
        anatomy (`Anatomy`): the source's.
        layer_map (`LayerMap`): where each target layer comes from.
    """
    depth = anatomy.num_layers
    # a method that takes nothing from the source may make more layers than it has: they take after it in turn
    origins = [layer.index % depth for layer in layer_map]
    for name in anatomy.per_layer:
        old = getattr(old_part, name)
        setattr(part, name, type(old)(old[origin] for origin in origins))
    if origins == list(range(depth)):
        return
    for name in LAYER_KINDS:
        members = _indices(old_part, name)
        if members:
            kind = {i % depth for i in members if -depth <= i < depth}  # an index of no layer says nothing
            setattr(part, name, _like(getattr(old_part, name), (t for t, o in enumerate(origins) if o in kind)))
    for name in LAYER_OUTPUTS:
        members = _indices(old_part, name)
        if members:
            followed = {successor(i % depth, origins, depth) for i in members}
            setattr(part, name, _like(getattr(old_part, name), sorted(followed)))
    _follow_stages(part, old_part, origins, depth)


def successor(layer: int, origins: Sequence[int], depth: int) -> int:
    """The target layer whose output stands for that of a source layer.

    Args:
        layer (`int`): the source layer.
        origins (`Sequence[int]`): source layer of each target layer.
        depth (`int`): number of source layers.

    Example:
        >>> successor(1, [0, 1, 1, 2], 3), successor(1, [0, 2], 3), successor(2, [0, 1], 3)
        (2, 0, 1)
    """
    if layer == depth - 1:
        return len(origins) - 1
    nearest = min(set(origins), key=lambda origin: (abs(origin - layer), origin))
    return max(target for target, origin in enumerate(origins) if origin == nearest)


def _follow_stages(part: PreTrainedConfig, old_part: PreTrainedConfig, origins: Sequence[int], depth: int) -> None:
    """Stage names and the stages that a backbone hands out; stage 0 is what comes before the first layer."""
    outputs = _indices(old_part, "out_indices")
    stages = {i % (depth + 1) for i in outputs or ()}
    followed = sorted({0 if i == 0 else 1 + successor(i - 1, origins, depth) for i in stages})
    names = getattr(old_part, "stage_names", None)
    if isinstance(names, list) and len(names) == depth + 1:
        # BackboneConfigMixin
        part.stage_names = [names[0], *(f"stage{i}" for i in range(1, len(origins) + 1))]
        if followed:
            part.set_output_features_output_indices(out_features=None, out_indices=followed)
    elif followed and not isinstance(names, list):
        part.out_indices = _like(old_part.out_indices, followed)


def _indices(part: PreTrainedConfig, name: str) -> list[int] | None:
    value: Any = getattr(part, name, None)
    whole = isinstance(value, (list, tuple)) and all(isinstance(i, int) for i in value)
    return list(value) if whole else None


def _like(old: Any, entries: Iterable[int]) -> Any:
    return type(old)(entries)
