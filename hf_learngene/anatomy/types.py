"""What is known of one tensor and of one normalisation of a model. Knows nothing of methods."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from hf_learngene.anatomy.stages import staged


# Axes with a meaning of their own. Any other axis carries the name of the config field that drives it.
HIDDEN, HEADS, FFN = "hidden", "heads", "ffn"
RELATIVE_LINE = "relative_positions"
DISTANCES = "distances"  # along one side of the image or of a window (SAM): layers of another kind have another number
SIDE = "patches_of_a_side"  # of a table that keeps rows and columns of patches apart (SAM)
HEAD_COUNT, HEAD_DIM, KV_HEADS = "head_count", "head_dim", "kv_heads"
GROUP = "group"
VOCAB, POSITIONS, PATCHES, RELATIVE, KERNEL, LABELS, FIXED = (
    "vocab",
    "positions",
    "patches",
    "relative_patches",
    "kernel",
    "labels",
    "fixed",
)
AXES = (
    HIDDEN, HEADS, FFN, RELATIVE_LINE, DISTANCES, SIDE, HEAD_COUNT, HEAD_DIM, KV_HEADS, GROUP,
    VOCAB, POSITIONS, PATCHES, RELATIVE, KERNEL, LABELS, FIXED,
)  # fmt: skip


@dataclass(frozen=True)
class Dim:
    """One dimension of a tensor.

    Attributes:
        axis: what it counts: `hidden`, `heads` (heads x head size, flat), `ffn`, `vocab`, `positions`, ..., `fixed`; `group` are
            the channels that one group of a grouped convolution over the width reads.
        size: its length.
        side: `out` where the tensor writes a vector along it, `in` where it reads one, `each` where it scales or
            shifts the vector's entries one by one, `-` for a dimension that is not a feature (tokens, labels, taps).
        parts: how many equal blocks are fused in it (3 for a fused q, k, v; 2 for a GLU; 2 for a cls + mean classifier).
        by_head: whether the blocks lie inside each head (DeBERTa's `in_proj`), instead of one after another.
        prefix: leading entries that are no positions (class token, distillation token, padding offset).
        layers: how many layers it has an equal block for, one after another (ESM's contact head); 0 where it counts none.
        stage: whose width, heads or ffn it counts, in a hierarchy; None where there is one of each.
    """

    axis: str
    size: int
    side: str = "-"
    parts: int = 1
    by_head: bool = False
    prefix: int = 0
    layers: int = 0
    stage: int | None = None

    @property
    def name(self) -> str:
        """The axis with its stage: `hidden`, or `hidden.2` in a hierarchy."""
        return self.axis if self.stage is None else staged(self.axis, self.stage)

    @property
    def counted_together(self) -> tuple[str, ...]:
        """Fields that count it together, where one of them is a width: a share of it, a part of the heads, a sum (`roc_bert`)."""
        return tuple(n for n in self.axis.split("+") if not n.startswith("×")) if "+×" in self.axis else ()

    def at(self, size: int, deeper: int) -> Dim:
        """The same dimension in a model of another size that has so many layers more."""
        if not self.layers:
            return dataclasses.replace(self, size=size)
        return dataclasses.replace(
            self, size=size, layers=self.layers + deeper, parts=self.parts // self.layers * (self.layers + deeper)
        )


@dataclass(frozen=True)
class TensorInfo:
    """One parameter of a model.

    Attributes:
        name: its in-memory name.
        dims: its dimensions, in order.
        layer: index of the encoder layer it belongs to, or None.
        template: its name with the layer index replaced by `{}`.
        kind: `linear`, `bias`, `norm`, `norm_bias`, `embedding`, `scale` (LayerScale), `token` (a bare vector or
            table), `conv` or `table` (relative position biases).
        role: `q`, `k`, `v`, `qkv`, `kv`, `o`, `ffn_in`, `ffn_out` or the empty string.
        writes_stream: whether what it writes reaches a normalisation by sums alone (a writer of the residual stream).
        reads_norm: whether it reads the output of a normalisation.
        norm: template of the normalisation that it reads, where that is one, of its own layer or of none; else ''.
        computed: whether the family's own initialisation gives its value (sinusoidal tables over the head size).
        scaled_by: template of the LayerScale between it and the residual stream, or ''.
        reads_made: whether it reads a vector over the width that comes from no parameter (sinusoids).
        traced: whether the recorded pass reached it; of one that it did not, only the shape is known.
        inner: whether what it writes is read by a norm alone and by nothing else (ConvNeXt's depthwise convolution), so that it
            is not what writes a residual branch.
        module: name of the module that holds it.
        stage: of a hierarchy, that of its layer, or the last one whose width it has; None where there are no stages.
    """

    name: str
    dims: tuple[Dim, ...]
    layer: int | None = None
    template: str = ""
    kind: str = "linear"
    role: str = ""
    writes_stream: bool = False
    reads_norm: bool = False
    norm: str = ""
    computed: bool = False
    scaled_by: str = ""
    reads_made: bool = False
    traced: bool = True
    inner: bool = False
    module: str = ""
    stage: int | None = None

    @property
    def groups(self) -> int:
        """Groups of a convolution whose channels are the width; 1 where it has none."""
        return next((self.dims[0].size // d.size for d in self.dims if d.axis == GROUP), 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(d.size for d in self.dims)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class NormInfo:
    """One normalisation module, in order of execution.

    Attributes:
        name: the module.
        layer: its encoder layer, or None.
        axis: the axis it normalises.
        reads: what its input is a sum of: a subset of `writer`, `norm`, `activation`, `attention`, `constant` (made on
            the way, from no parameter), `other`.
        closes_layer: whether its output is what its layer hands on (post-norm).
        writes_stream: whether its output is summed into the residual stream (post-norm, Swin-v2's residual norms).
        eps_follows_config: whether its epsilon is the config's.
        centred: whether it subtracts the mean (LayerNorm), or not (RMSNorm).
        stage: of a hierarchy, as that of its weight.
    """

    name: str
    layer: int | None
    axis: str
    reads: frozenset[str]
    closes_layer: bool = False
    writes_stream: bool = False
    eps_follows_config: bool = False
    centred: bool = True
    stage: int | None = None
