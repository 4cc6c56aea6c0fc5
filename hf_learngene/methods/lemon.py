"""LEMON: a larger model with the same function (arXiv 2310.07999, ICLR 2024).

Why it is exact. The residual stream is widened by copies, and what is left over by its own mean ("average expansion"):
a normalisation then returns the copies of what it returned before, and zeros ("zero expansion"), if its weight is
multiplied by eta and its epsilon by eta^2, eta^2 = k d / D. Whatever reads it splits each column over the copies.
Notes on every formula, and what no construction can do, stand in docs/lemon.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import FFN, HEAD_DIM, HEADS, HIDDEN, KV_HEADS
from hf_learngene.errors import UnknownOptionError
from hf_learngene.maps import Fill, LayerMap, Op, Scale, Split, Take
from hf_learngene.maps.convolutions import takes
from hf_learngene.maps.gradients import GradientOps, first_copies, gradient
from hf_learngene.maps.linear import LinearOp, linear
from hf_learngene.maps.ops import Blocks, Context
from hf_learngene.maps.task import ResizeTask, WidthChange
from hf_learngene.methods.base import Method, Paper
from hf_learngene.methods.from_above import FromAbove, name_above
from hf_learngene.methods.lemon_limits import check_growth, eta_of
from hf_learngene.methods.registry import register_method


# What R is drawn with, as a share of the initialiser range: the released scripts take 1 (ViT) and 0.1 (BERT). Copies cancel
# up to float32's rounding of what they read, which 1 makes as large as the outputs of a ViT with large activations.
NOISE = {"proj": 0.3, "equal": 0.0, "comp": 0.1}
DEPTHS = ("allzero", "cancelzero")
NEW_UNITS = ("copies", "aki")


@dataclass(frozen=True)
class ExactGrowth(Method):
    """Growth by copies that keeps the function: what `lemon` is, and where the learned growths start."""

    grows: ClassVar[bool] = True

    symmetry: str = "proj"
    depth: str = "allzero"
    allow_lossy: bool = False

    def __post_init__(self) -> None:
        for option, allowed in self.allowed().items():
            if getattr(self, option) not in allowed:
                raise UnknownOptionError(
                    f"{option} is one of {', '.join(map(str, allowed))}; it was {getattr(self, option)!r}."
                )

    @classmethod
    def allowed(cls) -> dict[str, tuple[Any, ...]]:
        """What each option may be."""
        return {"symmetry": tuple(NOISE), "depth": DEPTHS, "allow_lossy": (True, False)}

    def repeats_positions(self) -> bool:
        return True

    def reads_first_copy(self, tensor: TensorInfo, task: ResizeTask) -> bool:
        norm = task.source.norm_of.get(tensor.template)
        return self.symmetry == "comp" and (norm is None or norm.name not in task.source.tied_readers)

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        check_growth(source, sizes, self.allow_lossy, self.name)

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        return (
            LayerMap.pick(range(depth))
            if source.shared_layers
            else LayerMap.insert(
                source.num_layers, depth, source.layers_read_from_outside | set(range(source.lead)), source.period
            )
        )

    def edits(self, source: Anatomy, sizes: Mapping[str, int], config: Mapping[str, Any]) -> dict[str, Any]:
        eta = eta_of(source.sizes["hidden_size"], sizes["hidden_size"])
        if eta == 1.0 or source.eps_field is None or not scales_epsilon(source):
            return {}
        return {source.eps_field: config[source.eps_field] * eta**2}

    def growth(self, task: ResizeTask) -> Growth:
        """What makes the ops of a task."""
        return Growth(task, NOISE[self.symmetry], self.symmetry, self.depth)

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        return self.growth(task).ops(tensor)


@register_method
@dataclass(frozen=True)
class Lemon(ExactGrowth):
    """Grows width, heads, head size, ffn and depth without changing the function (evaluation mode, same inputs).

    Pre-norm families grow to any width, post-norm families and those that normalise something else than a sum of writers
    to whole multiples. New layers of a post-norm family are exact up to the epsilon of its norms.

    Args:
        symmetry (`str`, *optional*, defaults to `"proj"`): how columns are split over copies: `proj` adds random parts
            that cancel, so that copies diverge in training; `equal` splits equally, and the copies stay copies for ever;
            `comp`, the released BERT script's, leaves the column with the first copy and adds small random parts to the
            others, which the first makes up for.
        depth (`str`, *optional*, defaults to `"allzero"`): new layers of pre-norm families: `allzero` zeroes what writes
            the residual stream; `cancelzero` keeps it random, with copies whose columns cancel.
        allow_lossy (`bool`, *optional*, defaults to `False`): permit widths that cannot be exact. The mean of the
            norm's bias then stands in for a mean that depends on the input.
        new_units (`str`, *optional*, defaults to `"copies"`): heads and ffn units that a new layer has beyond the source's:
            `copies` of its own; `aki`, as the released BERT scripts have it, those of the layer above (bert2BERT's advanced
            knowledge initialisation), so that they are no copies from the start. Exact either way, since nothing reads them yet.

    Source: paper, sections 3 and 4; the released post-norm depth script wipes the affine part of layers that are not
    doubled (a bug), here every layer keeps it. Head size, any number of new layers and `comp` over more than two copies
    are our extension.
    """

    name: ClassVar[str] = "lemon"
    paper: ClassVar[Paper | None] = Paper("LEMON: Lossless Model Expansion", "2310.07999")
    lossless: ClassVar[bool] = True
    summary: ClassVar[str] = "a larger model with the same function"

    new_units: str = "copies"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.new_units == "aki" and self.depth == "cancelzero":
            raise UnknownOptionError(
                "depth='cancelzero' cancels a new layer's units against their copies, and new_units='aki' makes no copies. Take "
                "depth='allzero' with it."
            )

    @classmethod
    def allowed(cls) -> dict[str, tuple[Any, ...]]:
        return super().allowed() | {"new_units": NEW_UNITS}

    @property
    def exact(self) -> bool:
        return not self.allow_lossy

    def growth(self, task: ResizeTask) -> Growth:
        return Growth(task, NOISE[self.symmetry], self.symmetry, self.depth, self.new_units)


def scales_epsilon(source: Anatomy) -> bool:
    """Whether the config's epsilon can be scaled.

    Where it cannot, everything that writes the residual stream is multiplied by 1/eta instead: the variance then stays.
    """
    return source.scales_epsilon


class Growth:
    """The ops of one growth by copies. Made for each tensor: what takes a walk over all of them is cached on the anatomy."""

    def __init__(self, task: ResizeTask, noise: float, symmetry: str, depth: str, new_units: str = "copies") -> None:
        self.symmetry, self.depth, self.task, self.source = symmetry, depth, task, task.source
        self.new_units = new_units
        self.noise = task.std * noise
        old, new = task.axis_sizes[HIDDEN]
        self.eta = eta_of(old, new)
        self.lossy = self.eta != 1.0 and self.source.needs_multiples

    def ops(self, tensor: TensorInfo) -> list[Op]:
        layer = self.task.layer_map[tensor.layer] if tensor.layer is not None else None
        inserted = layer is not None and layer.inserted
        steps = takes(
            tensor,
            self.task,
            lambda c: (self.index(c.axis, c.old, c.new), _label(c.old, c.new)),
            lambda c: self.widen(tensor, c, inserted),
        )
        if inserted and self.new_units == "aki" and tensor.groups == 1:
            steps = self.from_above(tensor, self.task.width_changes(tensor), steps)
        steps += self.rescale(tensor)
        if tensor.layer is not None:
            steps += self.deepen(tensor, inserted)
        return steps

    # ---- width

    def widen(self, tensor: TensorInfo, change: WidthChange, inserted: bool) -> Op:
        dim, axis, side, old, new = change
        blocks = self.task.blocks(tensor, dim)
        index = self.index(axis, old, new)
        label = _label(old, new)
        if side == "in":
            inside = axis == HIDDEN and tensor.layer is not None and tensor.reads_norm and not self.lossy
            cancel = inserted and not self.source.post_norm and self.depth == "cancelzero" and tensor.writes_stream
            # new columns read exact zeros, or the mean that must not count twice
            split = self.split(blocks, index, label)
            fresh = dataclasses.replace(split, new="random" if inside else "zero", new_std=self.task.std)
            return dataclasses.replace(fresh, std=self.task.std, cancel=True, first=False) if cancel else fresh
        if axis == HIDDEN:
            return self.widen_stream(tensor, blocks, index, label, side)
        if axis in (HEADS, KV_HEADS, HEAD_DIM):
            # one of q and k must be zero in the new places of a head; both would leave them without a gradient
            entries = "random" if tensor.role in ("q", "v") and len(tensor.dims) > 1 else "zero"
            if tensor.role == "qkv":
                matrix = len(tensor.dims) > 1
                return _FusedHeads(
                    blocks, index, label, self.task.std, matrix, (self.scale_of("q"), self.scale_of("k"), 1.0)
                )
            return Take(blocks, index, label, entries, self.task.std)
        return Take(blocks, index, label)

    def from_above(self, tensor: TensorInfo, changes: list[WidthChange], steps: list[Op]) -> list[Op]:
        """The same with new heads and ffn units taken from the layer above, where there is one."""
        rows = [c for c in changes if c.side == "out" and c.axis in (HEADS, KV_HEADS, FFN)]
        above = name_above(tensor, self.source_layer(tensor), self.task)
        if not rows or not above:
            return steps
        dim, axis, _, old, _ = rows[0]
        (_, size), (_, new_size) = self.task.heads
        own = old if axis == FFN else old // size * new_size
        return [
            FromAbove(tuple(steps), above, self.task.blocks(tensor, dim), own, f"{steps[0].label}, new from above")
        ]

    def split(self, blocks: Blocks, index: Tensor, label: str) -> Split:
        """How columns are split over copies."""
        return Split(blocks, index, label, std=self.noise, first=self.symmetry == "comp")

    def widen_stream(self, tensor: TensorInfo, blocks: Blocks, index: Tensor, label: str, side: str) -> Op:
        if side == "each":
            if tensor.kind == "norm":  # what it multiplies is zero there: the release draws it from U(-1, 1)
                return Take(blocks, index, label, "mean", scale=self.eta)
            if tensor.kind == "norm_bias":
                return Take(blocks, index, label, "mean" if self.lossy else "zero")
            return Take(blocks, index, label, "one")
        if tensor.kind == "scale":  # the writer's new rows already hold the mean of what was scaled
            return Take(blocks, index, label, "one")
        if tensor.writes_stream or self.lossy:
            scaled = tensor.scaled_by.format(self.source_layer(tensor)) if tensor.scaled_by else ""
            # a norm that subtracts no mean wants zeros there: its length must not grow
            return Take(blocks, index, label, "mean" if self.source.centred else "zero", weights=scaled)
        return Take(blocks, index, label, "random" if len(tensor.dims) > 1 else "zero", self.task.std)

    def source_layer(self, tensor: TensorInfo) -> int:
        return self.task.layer_map[tensor.layer].index if tensor.layer is not None else 0

    def index(self, axis: str, old: int, new: int) -> Tensor:
        """Source entry of each target entry; -1 where there is none."""
        if axis == HIDDEN:
            place = torch.arange(new)
            return torch.where(place < new // old * old, place % old, -1)
        if axis in (HEADS, KV_HEADS):
            (heads, size), (new_heads, new_size) = self.task.heads
            if axis == KV_HEADS:
                heads, new_heads = old // size, new // new_size
            head = torch.arange(new_heads) % heads
            inside = torch.arange(new_size)
            return torch.where(inside[None] < size, head[:, None] * size + inside[None], -1).flatten()
        if axis == HEAD_DIM:
            place = torch.arange(new)
            return torch.where(place < old, place, -1)
        return torch.arange(new) % old  # ffn, head counts and a family's own widths: copies in turn

    def scale_of(self, role: str) -> float:
        """What queries or keys are multiplied by: scores are divided by the root of the larger head size."""
        (_, size), (_, new_size) = self.task.heads
        return math.sqrt(new_size / size) if role == "q" else 1.0

    def rescale(self, tensor: TensorInfo) -> list[Op]:
        steps: list[Op] = []
        scale = self.scale_of(tensor.role) if tensor.role in ("q", "k") else 1.0
        if scale != 1.0 and any(d.axis in (HEADS, KV_HEADS) for d in tensor.dims):
            steps.append(Scale(scale))
        if (
            self.eta != 1.0
            and not scales_epsilon(self.source)
            and tensor.writes_stream
            and any(d.axis == HIDDEN and d.side == "out" for d in tensor.dims)
        ):
            steps.append(Scale(1.0 / self.eta))
        norm = self.source.norm_of.get(tensor.template)
        if norm is not None and norm.name in self.source.tied_readers:
            old, new = self.task.axis_sizes[tensor.dims[0].name]
            if new != old:
                steps.append(Scale(old / (new // old * old)))  # the tied decoder sums over the copies
        return steps

    # ---- depth

    def deepen(self, tensor: TensorInfo, inserted: bool) -> list[Op]:
        norm = self.source.norm_of.get(tensor.template)
        is_norm = tensor.kind.startswith("norm")
        if self.source.post_norm:
            layers = self.task.layer_map
            followed = (
                tensor.layer is not None and tensor.layer + 1 < len(layers) and layers[tensor.layer + 1].inserted
            )
            plain = followed if norm is not None and norm.closes_layer else inserted
            if is_norm and norm is not None and norm.writes_stream and plain:
                # a norm without affine part returns what it is given, up to epsilon; the last one carries the affine
                return [Fill(1.0 if tensor.kind == "norm" else 0.0, "identity")]
            return [Fill(0.0, "new layer")] if inserted and self.writes_residual(tensor) else []
        if not inserted:
            return []
        if is_norm and norm is not None and norm.writes_stream:
            return [Fill(0.0, "new layer")]
        if self.writes_residual(tensor):
            cancels = self.depth == "cancelzero" and len(tensor.dims) > 1
            grown = any(change.side == "in" for change in self.task.width_changes(tensor))
            return [] if cancels and grown else [Fill(0.0, "new layer")]
        return []

    @staticmethod
    def writes_residual(tensor: TensorInfo) -> bool:
        return tensor.writes_stream and not tensor.inner and tensor.kind in ("linear", "bias", "conv", "token")


@dataclass(frozen=True, eq=False)
class _FusedHeads(Op):
    """Heads of a fused q, k, v: each part is widened as its own role asks."""

    blocks: Blocks
    index: Tensor
    label: str = ""
    std: float = 0.02
    matrix: bool = True
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __call__(self, tensor: Tensor, context: Context) -> Tensor:
        def act(parts: Tensor, dim: int) -> Tensor:
            place = dim - 1
            done = []
            for role, scale, part in zip("qkv", self.scales, parts.unbind(place), strict=True):
                fresh = "random" if role in "qv" and self.matrix else "zero"
                done.append(Take(Blocks(place), self.index, "", fresh, self.std, scale=scale)(part, context))
            return torch.stack(done, place)

        return self.blocks.apply(tensor, act)


@linear.register
def _(op: _FusedHeads) -> LinearOp:
    return LinearOp(dataclasses.replace(op, matrix=False), op.blocks.dim)


@gradient.register
def _(op: _FusedHeads) -> GradientOps:
    grown = dataclasses.replace(op.blocks, heads=(op.blocks.heads[1],) * 2)
    q, k, v = op.scales
    scaled = _FusedHeads(grown, torch.arange(len(op.index)), matrix=False, scales=(1 / q, 1 / k, 1 / v))
    first = Take(op.blocks, first_copies(op.index))
    return GradientOps((Split(op.blocks, op.index), scaled), (first, scaled), (first,))


def _label(old: int, new: int) -> str:
    times, rest = divmod(new, old)
    if times == 1:
        return f"extended {old} → {new}"
    return f"duplicated ×{times}" + (f" and {rest} more" if rest else "")
