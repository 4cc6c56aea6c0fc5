"""What a method is: its options, its paper, and what it answers about a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import FFN, HEAD_COUNT, HEAD_DIM, HEADS, HIDDEN, KV_HEADS
from hf_learngene.errors import InvalidSizeError
from hf_learngene.maps import LayerMap, Step
from hf_learngene.maps.steps import Blocks


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    arxiv: str

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"


WIDTHS = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
# what a request changes besides widths and depth has no direction: it is interpolated, cut or drawn anew
GEOMETRY = (
    "image_size", "patch_size", "num_channels", "num_labels", "max_position_embeddings", "vocab_size", "type_vocab_size",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One resize: from one anatomy to another.

    Attributes:
        source, target: the two anatomies.
        layer_map: where each target layer comes from.
        seed: for every random number.
        std: the family's initialiser range, the scale of every new entry.
        patches: patch size (height, width) of source and target, for images.
        tokens: source row of each target row of the tables over the vocabulary, -1 for a new one; None keeps the first rows.
        position_rows: table over positions -> its rows that stay, where the first position moves.
    """

    source: Anatomy
    target: Anatomy
    layer_map: LayerMap
    seed: int = 0
    std: float = 0.02
    patches: tuple[tuple[int, int], tuple[int, int]] | None = None
    tokens: Tensor | None = None
    position_rows: Mapping[str, slice] = field(default_factory=dict)

    @cached_property
    def axis_sizes(self) -> dict[str, tuple[int, int]]:
        """Axis -> (source, target) size of one part of it, for every width axis."""
        sizes: dict[str, tuple[int, int]] = {}
        for old in self.source.templates.values():
            new = self.target.templates.get(old.template)
            if new is None or len(new.dims) != len(old.dims):
                continue
            for a, b in zip(old.dims, new.dims, strict=True):
                if a.side != "-" or a.axis == HEAD_COUNT:
                    sizes.setdefault(a.axis, (a.size // a.parts, b.size // b.parts))
        return sizes

    @property
    def heads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """((source heads, head size), (target heads, head size))."""
        pair = []
        for index, anatomy in enumerate((self.source, self.target)):
            count = anatomy.sizes["num_attention_heads"]
            flat = self.axis_sizes.get(HEADS, (count, count))[index]
            pair.append((count, flat // count))
        return pair[0], pair[1]

    @property
    def groups(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """((source key and value heads, query heads of each), (the target's)); as many of both where none are shared.

        Raises:
            InvalidSizeError: a group of the target has more query heads than one of the source.
        """
        heads, shared = [], []
        for anatomy in (self.source, self.target):
            heads.append(anatomy.sizes["num_attention_heads"])
            shared.append(anatomy.sizes.get("num_key_value_heads") or heads[-1])
        old, new = heads[0] // shared[0], heads[1] // shared[1]
        if new > old:
            raise InvalidSizeError(
                f"Query heads leave from the groups they share keys and values in: {heads[0]} heads over {shared[0]} cannot "
                f"become {heads[1]} over {shared[1]}. The fewest num_key_value_heads for {heads[1]} heads are "
                f"{-(-heads[1] // old)}."
            )
        return (shared[0], old), (shared[1], new)

    def blocks(self, tensor: TensorInfo, dim: int) -> Blocks:
        """How dimension `dim` of a tensor is fused."""
        d = tensor.dims[dim]
        return Blocks(dim, d.parts, d.by_head, (self.heads[0][0], self.heads[1][0]))

    def width_dims(self, tensor: TensorInfo) -> list[tuple[int, str, str, int, int]]:
        """(dimension, axis, side, source size, target size) of every width of `tensor` that changes."""
        found = []
        for i, d in enumerate(tensor.dims):
            if (d.side == "-" and d.axis != HEAD_COUNT) or d.axis in GEOMETRY:
                continue
            old, new = self.axis_sizes.get(d.axis, (d.size // d.parts, d.size // d.parts))
            if old != new:
                found.append((i, d.axis, d.side, old, new))
        return found


@dataclass(frozen=True)
class Method:
    """Base of every method: a frozen dataclass whose fields are its options.

    A method says which sizes it can make (`check`), where each target layer comes from (`depth_map`), what is done to
    the widths of one tensor (`steps`), and what it edits in the config (`edits`).
    """

    name: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    grows: ClassVar[bool] = False
    shrinks: ClassVar[bool] = False
    lossless: ClassVar[bool] = False
    takes_calibration: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False  # of the calibration examples
    refits: ClassVar[bool] = False  # what is left to what the source computes
    summary: ClassVar[str] = ""

    @classmethod
    def option_names(cls) -> list[str]:
        return [f.name for f in fields(cls)]

    def options(self) -> dict[str, Any]:
        """The options as plain data, for provenance."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def implied_sizes(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes that the options themselves ask for, given the source's."""
        return {}

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        """Refuses sizes that this method cannot make. `sizes` are the target's, by canonical name."""

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        """Where each of `depth` target layers comes from."""
        return LayerMap.pick(range(depth))

    def edits(self, source: Anatomy, sizes: Mapping[str, int], config: Mapping[str, Any]) -> dict[str, Any]:
        """Config fields that the target needs beyond its sizes. `config` is the size section as plain data."""
        return {}

    def keeps(self, tensor: TensorInfo, request: Request) -> bool:
        """Whether `tensor` comes from the source at all."""
        return True

    def steps(self, tensor: TensorInfo, request: Request) -> list[Step]:
        """What is done to one target tensor after its source layer was taken and its geometry fitted."""
        return []

    def repeats_positions(self) -> bool:
        """Whether a longer text table keeps its rows and starts over, instead of being interpolated."""
        return False


def changes(source: Anatomy, sizes: Mapping[str, int], names: Iterable[str] = WIDTHS) -> dict[str, tuple[int, int]]:
    """Which of the named sizes are not the source's: (source's, target's) by name."""
    both = {n: (source.sizes[n], sizes[n]) for n in names if n in source.sizes and n in sizes}
    return {n: (old, new) for n, (old, new) in both.items() if new != old}


def shown(pairs: Mapping[str, tuple[int, int]]) -> str:
    """What `changes` found, for a message."""
    return ", ".join(f"{name} {old} → {new}" for name, (old, new) in pairs.items())


__all__ = [
    "FFN",
    "GEOMETRY",
    "HEADS",
    "HEAD_COUNT",
    "HEAD_DIM",
    "HIDDEN",
    "KV_HEADS",
    "WIDTHS",
    "Method",
    "Paper",
    "Request",
    "changes",
    "shown",
]
