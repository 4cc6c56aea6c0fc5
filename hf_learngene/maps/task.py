"""One resize as the methods see it: from one anatomy to another, and which sizes change."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import AXES, FFN, HEAD_COUNT, HEADS
from hf_learngene.errors import InvalidSizeError
from hf_learngene.maps.layer_map import LayerMap
from hf_learngene.maps.ops import Blocks
from hf_learngene.maps.selection import Selection


WIDTHS = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
# what a task changes besides widths and depth has no direction: it is interpolated, cut or drawn anew
GEOMETRY = (
    "image_size", "patch_size", "num_channels", "num_labels", "max_position_embeddings", "vocab_size", "type_vocab_size",
)  # fmt: skip


class WidthChange(NamedTuple):
    """One dimension of a tensor whose width changes.

    Attributes:
        dim: the dimension.
        axis: what it counts.
        side: as in `Dim`.
        old, new: size of one fused part of it, in source and target.
    """

    dim: int
    axis: str
    side: str
    old: int
    new: int


class Heads(NamedTuple):
    """Attention heads of one model: how many there are, and of how many dimensions."""

    number: int
    size: int


class Groups(NamedTuple):
    """Key and value heads of one model: how many there are, and how many query heads share each."""

    number: int
    queries: int


@dataclass(frozen=True)
class ResizeTask:
    """One resize: from one anatomy to another.

    Attributes:
        source, target: the two anatomies.
        layer_map: where each target layer comes from; empty in a hierarchy.
        stage_maps: the same for each stage of a hierarchy.
        seed: for every random number.
        std: the family's initialiser range, the scale of every new entry.
        patches: patch size (height, width) of source and target, for images.
        tokens: source row of each target row of the tables over the vocabulary, -1 for a new one; None keeps the first rows.
        position_rows: table over positions -> its rows that are kept, where the first position moves.
        missing: source tensors that the checkpoint did not hold: nothing is taken from them.
        selection: what is kept, where a method chose it by weights or examples; None before it did.
    """

    source: Anatomy
    target: Anatomy
    layer_map: LayerMap
    seed: int = 0
    std: float = 0.02
    patches: tuple[tuple[int, int], tuple[int, int]] | None = None
    tokens: Tensor | None = None
    position_rows: Mapping[str, slice] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    selection: Selection | None = None
    stage_maps: tuple[LayerMap, ...] = ()

    # ---- a hierarchy

    @cached_property
    def parts(self) -> tuple[ResizeTask, ...]:
        """The task stage by stage: each is one from a model of one width and depth to another. Elsewhere it is itself."""
        if not self.stage_maps:
            return (self,)
        return tuple(
            dataclasses.replace(
                self,
                source=self.source.of_stage(stage),
                target=self.target.of_stage(stage),
                layer_map=layer_map,
                stage_maps=(),
                selection=self.selection.of_stage(stage) if self.selection is not None else None,
            )
            for stage, layer_map in enumerate(self.stage_maps)
        )

    def of(self, tensor: TensorInfo) -> ResizeTask:
        """The task of the stage that a tensor belongs to."""
        return self if tensor.stage is None or not self.stage_maps else self.parts[tensor.stage]

    def with_layers(self, layer_map: LayerMap) -> ResizeTask:
        """The same task, where these layers of the source are kept."""
        return dataclasses.replace(self, layer_map=layer_map)

    # ---- what changes

    @cached_property
    def axis_sizes(self) -> dict[str, tuple[int, int]]:
        """Axis, with its stage if that is another's -> (source, target) size of one part of it, for every width axis."""
        sizes: dict[str, tuple[int, int]] = {}
        for old in self.source.templates.values():
            new = self.target.templates.get(old.template)
            if new is None or len(new.dims) != len(old.dims):
                continue
            for a, b in zip(old.dims, new.dims, strict=True):
                if a.side != "-" or a.axis == HEAD_COUNT:
                    pair = a.size // a.parts, b.size // b.parts
                    # the target's axis: an embedding as wide as the source may have a width of its own there (ELECTRA)
                    if sizes.setdefault(b.name, pair) != pair:
                        raise InvalidSizeError(
                            f"{b.name} would go from {pair[0]} to {pair[1]} in `{old.template}` of `{self.source.model_type}`, "
                            f"and from {sizes[b.name][0]} to {sizes[b.name][1]} elsewhere: config fields contradict each other."
                        )
        return sizes

    @cached_property
    def heads(self) -> tuple[Heads, Heads]:
        """Attention heads of the source and of the target."""
        pair = []
        for index, anatomy in enumerate((self.source, self.target)):
            count = anatomy.sizes.get("num_attention_heads", 1)
            flat = self.axis_sizes.get(HEADS, (count, count))[index]
            pair.append(Heads(count, flat // count))
        return pair[0], pair[1]

    @cached_property
    def groups(self) -> tuple[Groups, Groups]:
        """Key and value heads of the source and of the target; where none are shared, each has one query head.

        Raises:
            InvalidSizeError: a group of the target has more query heads than one of the source.
        """
        heads, shared = [], []
        for anatomy in (self.source, self.target):
            heads.append(anatomy.sizes.get("num_attention_heads", 1))
            shared.append(anatomy.sizes.get("num_key_value_heads") or heads[-1])
        old, new = heads[0] // shared[0], heads[1] // shared[1]
        if new > old:
            raise InvalidSizeError(
                f"Query heads leave from the groups they share keys and values in: {heads[0]} heads over {shared[0]} cannot "
                f"become {heads[1]} over {shared[1]}. The fewest num_key_value_heads for {heads[1]} heads are "
                f"{-(-heads[1] // old)}."
            )
        return Groups(shared[0], old), Groups(shared[1], new)

    def blocks(self, tensor: TensorInfo, dim: int) -> Blocks:
        """How dimension `dim` of a tensor is fused."""
        d = tensor.dims[dim]
        return Blocks(dim, d.parts, d.by_head, (self.heads[0][0], self.heads[1][0]))

    def width_changes(self, tensor: TensorInfo) -> list[WidthChange]:
        """Every width of `tensor` that changes."""
        found = []
        for i, d in enumerate(tensor.dims):
            if (d.side == "-" and d.axis != HEAD_COUNT) or d.axis in GEOMETRY:
                continue
            old, new = self.axis_sizes.get(d.name, (d.size // d.parts, d.size // d.parts))
            if old != new:
                found.append(WidthChange(i, d.axis, d.side, old, new))
        return found


def changes(source: Anatomy, sizes: Mapping[str, int], names: Iterable[str] = WIDTHS) -> dict[str, tuple[int, int]]:
    """Which of the named sizes are not the source's: (source's, target's) by name."""
    both = {n: (source.sizes[n], sizes[n]) for n in names if n in source.sizes and n in sizes}
    return {n: (old, new) for n, (old, new) in both.items() if new != old}


def shown(pairs: Mapping[str, tuple[int, int]]) -> str:
    """What `changes` found, for a message."""
    return ", ".join(f"{name} {old} → {new}" for name, (old, new) in pairs.items())


def flat_heads(sizes: Mapping[str, int]) -> int:
    """Heads x head size."""
    return sizes.get("num_attention_heads", 1) * sizes.get("head_dim", 1)


def source_axes(source: Anatomy) -> list[str]:
    """Width axes that only this family has (`embedding_size`, `output_embedding_size`)."""
    axes = {d.axis for t in source.templates.values() for d in t.dims if d.side != "-"} | set(source.linked)
    return sorted(a for a in axes if a in source.sizes and a not in (*WIDTHS, HEADS, FFN, "num_channels"))


def own_axes(source: Anatomy) -> set[str]:
    """Widths that only this family has, by the config field that counts each (LayoutLMv3's `coordinate_size`)."""
    axes = {d.axis for t in source.templates.values() for d in t.dims if d.side != "-"}
    return axes - {*AXES, *GEOMETRY, *WIDTHS}


def in_stream(tensor: TensorInfo, side: str) -> bool:
    """Whether a width of a tensor is the residual stream's, and not that of a pooler's output."""
    if tensor.kind in ("norm", "norm_bias", "scale"):
        return True
    return tensor.reads_norm if side == "in" else tensor.writes_stream
