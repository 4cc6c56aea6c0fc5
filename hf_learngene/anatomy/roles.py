"""Roles from the flow: who writes the residual stream, who reads a norm, which width is really heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import nn

from hf_learngene.anatomy.axes import UNKNOWN, layer_of, owner_of
from hf_learngene.anatomy.registry import Declaration
from hf_learngene.anatomy.rules import fused_inside_heads, role_of
from hf_learngene.anatomy.trace import Node, Trace, is_norm
from hf_learngene.anatomy.types import AXES, FFN, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LABELS, Dim, TensorInfo
from hf_learngene.errors import UnknownOptionError, nearest


_WRITERS = ("linear", "conv", "embedding")


class Flow:
    """What one trace tells of weights and norms: who writes, who reads, which part of attention a projection is."""

    def __init__(self, trace: Trace, containers: list[str]) -> None:
        self.trace, self.containers = trace, containers
        self.head_norms = trace.norms_of_heads()
        self.scales: set[str] = set()
        self.scale_of: dict[str, str] = {}  # writer -> the LayerScale on its way into the residual stream
        self.writers: set[str] = set()
        self.stream_norms: set[str] = set()  # norms whose output is summed into the residual stream
        self.inner: set[str] = set()  # what one norm reads alone, and nothing else
        self._collect()
        self.attention_roles = self._attention_roles()

    def _collect(self) -> None:
        for node in [
            *(n.parents[0] for name, n in self.trace.norms.items() if n.parents and name not in self.head_norms),
            *self.trace.layer_outputs.values(),
        ]:
            for source in Trace.sources(node):
                name = source.node.name
                if source.is_scale:
                    self.scales.add(name)
                elif source.node.kind in (*_WRITERS, "parameter"):
                    self.writers.add(name)
                    if source.scale:
                        self.scale_of[name] = source.scale
                elif source.node.kind == "norm":
                    self.stream_norms.add(name)

        summed, alone = set[str](), set[str]()
        for node in self.trace.norms.values():
            sources = [s.node for s in Trace.sources(node.parents[0] if node.parents else None) if not s.is_scale]
            if len(sources) == 1 and sources[0].kind in ("linear", "conv"):
                alone.add(sources[0].name)
            else:
                summed.update(s.name for s in sources)
        for node in self.trace.layer_outputs.values():
            summed.update(s.node.name for s in Trace.sources(node))
        self.inner = alone - summed

    def kinds_into(self, norm: Node) -> frozenset[str]:
        """What a norm's input is a sum of."""
        kinds = set()
        for source in Trace.sources(norm.parents[0] if norm.parents else None):
            kind = source.node.kind
            if source.is_scale:
                continue
            if kind in (*_WRITERS, "parameter"):
                kinds.add("writer")
            else:
                kinds.add(kind if kind in ("norm", "activation", "attention", "constant") else "other")
        return frozenset(kinds)

    def reads(self, weight: str) -> set[tuple[str, str]]:
        """(kind, name) of everything a product's input is a sum of."""
        found: set[tuple[str, str]] = set()
        for node in self.trace.products.get(weight, ()):
            for parent in node.parents:
                found.update((s.node.kind, s.node.name) for s in Trace.sources(parent) if not s.is_scale)
        return found

    def reads_heads_of_the_width(self, tensors: Mapping[str, TensorInfo]) -> bool:
        """Whether a matrix reads a vector over the width head by head (WavLM's gates), so that the head size parts the width."""
        over_heads = [n for n, t in tensors.items() if len(t.dims) > 1 and t.dims[1].axis == HEAD_DIM]
        return any(
            kind == "norm" or name in self.writers for weight in over_heads for kind, name in self.reads(weight)
        )

    def made_on_the_way(self, weight: str) -> bool:
        """Whether a matrix reads what comes from no parameter: an input of the model, or what the pass makes (sinusoids)."""
        found = self.trace.products.get(weight, ())
        return bool(found) and not any(next(Trace.sources(p), None) for node in found for p in node.parents)

    def product_kind(self, weight: str) -> str:
        """`linear`, `conv` or `embedding`, by the function that a parameter enters, or ''."""
        return next((node.kind for node in self.trace.products.get(weight, ())), "")

    def reads_attention(self, weight: str) -> bool:
        return any(kind == "attention" for kind, _ in self.reads(weight))

    def closing_norms(self) -> set[str]:
        """Norms whose output is, by itself, what a layer hands on."""
        closing: set[str] = set()
        for node in self.trace.layer_outputs.values():
            sources = list(Trace.sources(node))
            if len(sources) == 1 and sources[0].node.kind == "norm":  # a sum of norms is a residual stream (Swin v2)
                closing.add(sources[0].node.name)
        if not self.containers:  # shared layers: post-norm shows as a norm that reads a norm and a writer
            closing.update(n for n, node in self.trace.norms.items() if self.kinds_into(node) == {"norm", "writer"})
        return closing

    def tied_readers(self, ties: Mapping[str, str]) -> dict[str, str]:
        """Norm -> the embedding weight that reads it as a tied decoder, by a tie or by a product with the table itself."""
        found = {}
        both = {n for n, uses in self.trace.products.items() if {"embedding", "linear"} <= {use.kind for use in uses}}
        for weight in {*ties, *ties.values(), *both}:
            for kind, name in self.reads(weight):
                if kind == "norm":
                    found[name] = ties.get(weight, weight)
        return found

    def _attention_roles(self) -> dict[str, str]:
        roles: dict[str, str] = {}

        def mark(node: Node, role: str) -> None:
            for source in Trace.sources(node):
                if source.node.kind == "linear" and source.node.name:
                    roles.setdefault(source.node.name, role)
                elif source.node.name in self.head_norms:
                    mark(source.node.parents[0], role)

        for node in self.trace.attention:
            parents = [p for p in node.parents if isinstance(p, Node)][:3]
            if node.function == "scaled_dot_product_attention":
                for parent, role in zip(parents, "qkv", strict=False):
                    mark(parent, role)
            elif len(parents) >= 2:
                left = {(s.node.kind, s.node.name) for s in Trace.sources(parents[0])}
                if ("activation", "softmax") in left:
                    mark(parents[1], "v")
                else:
                    mark(parents[0], "q")
                    mark(parents[1], "k")
        return roles


def settle(
    tensors: dict[str, TensorInfo],
    model: nn.Module,
    flow: Flow,
    declared: Declaration,
    honoured: bool,
) -> dict[str, TensorInfo]:
    """Tensors with kind, role and flow added; widths that are heads x head size get the axis `heads`."""
    row_biases = {t.module for t in tensors.values() if t.name.endswith((".q_bias", ".v_bias"))}
    head_norms = {layer_of(f"{n}.weight", flow.containers)[1].removesuffix(".weight") for n in flow.head_norms}
    ffn_widths: dict[str, int] = {}
    for dim in (d for t in tensors.values() for d in t.dims if d.axis == FFN):
        ffn_widths[dim.name] = min(dim.size, ffn_widths.get(dim.name, dim.size))
    fixed_parameters = {n for n, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    first = {t.template: n for n, t in reversed(tensors.items())}
    known_axes = {*AXES, *(d.axis for t in tensors.values() for d in t.dims)} - {UNKNOWN}
    settled: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        module = model.get_submodule(owner_of(name))
        weight = f"{info.module}.weight" if f"{info.module}.weight" in tensors else name
        twin = first[tensors[weight].template]
        seen = {weight, twin, *(t.name for t in tensors.values() if t.template == tensors[weight].template)}
        writes = bool(seen & flow.writers) or name in flow.writers
        kind = _kind(info, module, name, flow)
        role = declared.role(name)
        if role is None:
            role = _role(name, weight, info, tensors[weight], seen, writes, flow)
        dims = tuple(_fused_ffn(d, ffn_widths.get(d.name, 1)) for d in info.dims)
        if not honoured:
            dims = _heads(dims, role)
        if info.template.rpartition(".")[0] in head_norms:
            dims = tuple(dataclasses.replace(d, axis=HEADS) if d.axis == HIDDEN else d for d in dims)
        if role == "qkv" and fused_inside_heads(name, info.module.rpartition(".")[0] in row_biases):
            dims = tuple(dataclasses.replace(d, by_head=True) if d.axis == HEADS and d.parts > 1 else d for d in dims)
        axes = declared.axes_of(name)
        if axes is not None:
            dims = _declared_axes(name, dims, axes, known_axes)
        if not role:
            role = "ffn_in" if dims and dims[0].axis == FFN and dims[0].side == "out" else ""
            role = "ffn_out" if len(dims) > 1 and dims[1].axis == FFN else role
        reads = {k for w in seen for k, _ in flow.reads(w)}
        settled[name] = dataclasses.replace(
            info,
            dims=dims,
            kind=kind,
            role=role,
            # a mask token replaces entries of the residual stream, in passes that mask
            writes_stream=(writes and kind != "norm")
            or (kind == "token" and info.layer is None and bool(dims) and dims[-1].axis == HIDDEN),
            reads_norm=bool(reads) and reads <= {"norm"},
            norm=_norm_read(seen, flow),
            scaled_by=layer_of(
                next((flow.scale_of[w] for w in sorted(seen) if w in flow.scale_of), ""), flow.containers
            )[1],
            reads_made=len(dims) > 1
            and dims[1].axis in (HIDDEN, HEADS)
            and dims[1].side == "in"
            and flow.made_on_the_way(name),
            traced=bool((seen | {name}) & flow.trace.touched),
            inner=bool(seen & flow.inner),
            computed=name in fixed_parameters and any(d.axis == HEAD_DIM for d in dims),
        )
    return settled


def _norm_read(seen: set[str], flow: Flow) -> str:
    """Template of the one norm that a matrix reads in every layer, in the layer itself or outside of them."""
    found = set()
    for weight in seen:
        for kind, norm in flow.reads(weight):
            layer, template = layer_of(f"{norm}.weight", flow.containers)
            near = layer is None or layer == layer_of(weight, flow.containers)[0]
            found.add(template.removesuffix(".weight") if kind == "norm" and near else "")
    return found.pop() if len(found) == 1 else ""


def _declared_axes(name: str, dims: tuple[Dim, ...], axes: tuple[str | None, ...], known: set[str]) -> tuple[Dim, ...]:
    """The dimensions with the axes that were declared for them.

    Raises:
        UnknownOptionError: another number of axes, or one that the family does not have.
    """
    if len(axes) != len(dims):
        raise UnknownOptionError(
            f"register_anatomy names {len(axes)} axes {axes!r} for `{name}`, which has {len(dims)} dimensions "
            f"{tuple(d.size for d in dims)}. Give one for each; None keeps what was found."
        )
    for axis in axes:
        if axis is not None and axis not in known:
            raise UnknownOptionError(
                f"register_anatomy gives `{name}` the axis {axis!r}, which is none of {', '.join(sorted(known))}."
                f"{nearest(axis, sorted(known))}"
            )
    return tuple(d if a is None else dataclasses.replace(d, axis=a) for d, a in zip(dims, axes, strict=True))


def _kind(info: TensorInfo, module: nn.Module, name: str, flow: Flow) -> str:
    leaf = name.rpartition(".")[2]
    if is_norm(module):
        return "norm" if leaf == "weight" else "norm_bias"
    if name in flow.scales and len(info.dims) == 1:
        return "scale"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return "bias" if leaf == "bias" else "conv"
    if isinstance(module, (nn.Linear, nn.MultiheadAttention)):
        return "bias" if len(info.dims) == 1 else "linear"
    if any(d.axis in ("relative_patches", "head_count") for d in info.dims):
        return "table"
    return "bias" if "bias" in leaf else "token"


def _role(
    name: str, weight: str, info: TensorInfo, matrix: TensorInfo, seen: set[str], writes: bool, flow: Flow
) -> str:
    if not matrix.dims or any(d.axis in (FFN, LABELS) for d in matrix.dims):
        return ""
    named = role_of(name)
    flows = next((flow.attention_roles[w] for w in seen if w in flow.attention_roles), "")
    reads_attention = any(flow.reads_attention(w) for w in seen)
    own = matrix.dims[0].axis not in (*AXES, UNKNOWN) and (named == flows != "" or reads_attention)
    known = (
        matrix.dims[0].axis in (HIDDEN, HEADS, KV_HEADS) or own
    )  # attention may have a width of its own (MobileBERT)
    if len(matrix.dims) >= 2 and known and matrix.dims[0].side == "out":
        parts = matrix.dims[0].parts
        if (flows or named) and not writes:
            return "qkv" if parts == 3 else named if named not in ("", "qkv") else flows
        if reads_attention:
            return "o"
    if len(info.dims) == 1 and weight == name and named and info.dims[0].axis in (HIDDEN, HEADS):
        return named  # a bare row bias, or one of a module that fuses its weights
    return ""


def _fused_ffn(dim: Dim, width: int) -> Dim:
    if dim.axis == FFN and dim.parts == 1 and dim.size % width == 0:
        return dataclasses.replace(dim, parts=dim.size // width)
    return dim


def _heads(dims: tuple[Dim, ...], role: str) -> tuple[Dim, ...]:
    """Families without a head size of their own: a width written by q, k, v or read by o is heads x head size."""
    renamed = list(dims)
    if role in ("q", "k", "v", "qkv") and dims[0].axis == HIDDEN:
        renamed[0] = dataclasses.replace(dims[0], axis=HEADS)
    if role == "o" and len(dims) > 1 and dims[1].axis == HIDDEN:
        renamed[1] = dataclasses.replace(dims[1], axis=HEADS)
    return tuple(renamed)
