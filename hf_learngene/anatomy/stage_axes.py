"""From probes of one stage at a time to a named axis, with its stage, for every dimension of a hierarchy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.axes import CONVOLUTIONS, UNKNOWN, is_feature, layer_of, owner_of, sides_of
from hf_learngene.anatomy.config_fields import known_sizes, other_integers, section
from hf_learngene.anatomy.probe import Effect, Prober
from hf_learngene.anatomy.roles import Flow
from hf_learngene.anatomy.rules import role_of
from hf_learngene.anatomy.stages import OF_STAGES, StageField, staged
from hf_learngene.anatomy.trace import Node
from hf_learngene.anatomy.types import FFN, FIXED, HEAD_COUNT, HEAD_DIM, HIDDEN, KERNEL, LABELS, Dim


_WIDTH, _HEADS, _RATIO = "hidden_size", "num_attention_heads", "mlp_ratio"
_FUSED = ("qkv", "kv")


class StageProber(Prober):
    """Changes one entry of a list over stages at a time, then one field at a time, and notes which dimensions follow."""

    def __init__(
        self,
        model_class: type[PreTrainedModel],
        config: PreTrainedConfig,
        section_of: str,
        model: PreTrainedModel,
        stage_fields: Mapping[str, StageField],
    ) -> None:
        self.stage_fields = stage_fields
        self.own = {field.native for field in stage_fields.values()}
        part = section(config, section_of)
        self.stages = len(getattr(part, stage_fields["num_hidden_layers"].native))
        self.widths, self.heads = (self._sizes(part, size) for size in (_WIDTH, _HEADS))
        super().__init__(model_class, config, section_of, model)

    def _sizes(self, part: PreTrainedConfig, size: str) -> tuple[int, ...]:
        field = self.stage_fields.get(size)
        return field.read(getattr(part, field.native), self.stages) if field is not None else ()

    def fields_to_probe(self) -> dict[str, str]:
        """The fields that say one size for all stages."""
        return {n: f for n, f in known_sizes(self.part).items() if f not in self.own and n not in OF_STAGES}

    def fields_of_the_width(self) -> tuple[str, ...]:
        """Fields that repeat the last stage's (Swin's, for encoder-decoder models around it; CLAP's projection reads it)."""
        repeats = getattr(self.part, _WIDTH, None) == self.widths[-1] and _WIDTH not in self.own
        return (_WIDTH,) if repeats else ()

    def run(self) -> None:
        for size, field in self.stage_fields.items():
            if size == "num_hidden_layers":
                continue
            value = getattr(self.part, field.native)
            if field.factor is not None:
                last = dict.fromkeys(self.linked, 2 * self.widths[-1])
                self.try_field(size, value, {field.native: 2 * value} | (last if size == _WIDTH else {}))
                continue
            for stage in range(self.stages):
                self.probe_stage(size, field.native, stage)
        ratio = getattr(self.part, _RATIO, None)
        if isinstance(ratio, (int, float)):
            self.try_field(_RATIO, 1, {_RATIO: 2 * ratio})
        self.probe_images({c: getattr(self.part, n) for c, n in self.fields.items()})
        for name in ("num_channels",):
            if name in self.fields:
                self.try_field(name, 8, {self.fields[name]: getattr(self.part, self.fields[name]) + 8})
        self.try_field("num_labels", 3, {"num_labels": (self.config.num_labels or 0) + 3})
        for name in other_integers(self.part):
            if name not in self.own:
                step = getattr(self.part, name)
                self.try_field(name, step, {name: 2 * step})

    def probe_stage(self, size: str, native: str, stage: int) -> bool:
        """Another entry of a list: twice as much, or where the family refuses that, less."""
        value = list(getattr(self.part, native))
        kind, old = type(getattr(self.part, native)), value[stage]
        for other in (2 * old, *(n for n in range(int(old) - 1, 0, -1) if self.widths[stage] % n == 0)):
            value[stage] = type(old)(other)
            last = size == _WIDTH and stage == self.stages - 1
            more = dict.fromkeys(self.linked, int(other)) if last else {}
            if self.try_field(staged(size, stage), int(other - old), {native: kind(value), **more}):
                return True
        return False

    def parts_tables(self, native: str) -> bool:
        """Whether some dimension counts what a field of images says: a table of positions, in a grid that nothing tells."""
        return native.endswith("image_size") and any("image_size" in e for each in self.effects.values() for e in each)


class _Counted(NamedTuple):
    axis: str
    stage: int | None = None
    parts: int = 1


def stage_dims(
    name: str,
    parameter: nn.Parameter,
    twin: str,
    prober: StageProber,
    model: nn.Module,
    flow: Flow,
    stage: int | None,
    stage_of: Mapping[str, int],
) -> tuple[Dim, ...]:
    """The dimensions of one parameter of a hierarchy.

    Args:
        name: of the parameter.
        parameter: it.
        twin: the parameter that was probed in its place, of another layer of its stage or itself.
        prober: after its run.
        model: that it is of.
        flow: of the model.
        stage: the stage of its layer, or None.
        stage_of: module list -> stage.
    """
    module = model.get_submodule(owner_of(name))
    sides = sides_of(module, parameter, flow.product_kind(name))
    dims = []
    for i, (size, effect) in enumerate(zip(parameter.shape, prober.effects[twin], strict=True)):
        spatial = isinstance(module, CONVOLUTIONS) and i >= 2
        near = stage
        if stage is None and sides[i] in ("in", "each"):
            near = _stage_read(name, flow, prober, stage_of)
        axis, place, parts = _counted(int(size), effect, prober, near, spatial)
        if axis == HIDDEN and parts > 1 and stage is not None and role_of(name) not in _FUSED:
            axis, parts = (
                FFN,
                1,
            )  # a width inside a block that is a multiple of its stage's (ConvNeXt's pointwise pair)
        feature = (is_feature(axis) and "+" not in axis) or (axis == HEAD_COUNT and sides[i] == "in")
        dims.append(Dim(axis, int(size), sides[i] if feature else "-", parts, stage=place))
    return tuple(dims)


def _counted(
    size: int, effect: Mapping[str, Effect], prober: StageProber, near: int | None, spatial: bool
) -> _Counted:
    """What one dimension counts, from the fields that drive it. `near` is the stage that it is inside of, or reads."""
    names = {n.partition(".")[0]: n for n in effect}
    if not effect or (spatial and not names.keys() & {_WIDTH, _HEADS, _RATIO, "patch_size"}):
        return _Counted(FIXED)
    if "num_labels" in names:
        return _Counted(LABELS if len(effect) == 1 else UNKNOWN)
    if spatial:
        return _Counted(KERNEL if set(effect) == {"patch_size"} else UNKNOWN)
    of = {n: [int(e.rpartition(".")[2]) for e in effect if e.startswith(f"{n}.")] for n in (_WIDTH, _HEADS, _RATIO)}
    if any(len(stages) > 1 for stages in of.values()):
        return _Counted(UNKNOWN)  # several stages at once
    if _RATIO in names and len(names) > 1 and near is None:
        return _Counted("+".join(sorted(effect)))  # the ffn of a decoder behind the stages
    if _RATIO in names:
        place = of[_RATIO][0] if of[_RATIO] else near
        return _Counted(FFN, place) if place is not None else _Counted(UNKNOWN)
    if _WIDTH in names:
        change = effect[names[_WIDTH]]
        if of[_WIDTH]:
            place = of[_WIDTH][0]
            parts = change.delta / change.step
        else:
            place = _nearest(size, prober.widths, near)
            if place is None or size * change.step != change.delta * prober.widths[0]:
                return _Counted(UNKNOWN)
            parts = size / prober.widths[place]
        if _HEADS in names:
            return (
                _Counted(HEAD_DIM, place) if size == prober.widths[place] // prober.heads[place] else _Counted(UNKNOWN)
            )
        whole = float(parts).is_integer() and size == int(parts) * prober.widths[place]
        return _Counted(HIDDEN, place, int(parts)) if whole else _Counted(UNKNOWN)
    if _HEADS in names:
        place = of[_HEADS][0]
        return _Counted(HEAD_COUNT, place) if size == prober.heads[place] else _Counted(UNKNOWN)
    if "image_size" in names or "patch_size" in names:
        return _Counted("+".join(sorted(effect)))
    if len(effect) == 1:
        ((field, change),) = effect.items()
        parts = change.delta / change.step
        if size != parts * getattr(prober.part, field, 0):
            return _Counted(FIXED)  # a table over windows, whose rows mean something else at another size
        if not float(parts).is_integer():
            return _Counted(f"{field}+share")  # half of a decoder's width
        return _Counted(field, None, int(parts))
    return _Counted("+".join(sorted(effect)))


def _nearest(size: int, widths: tuple[int, ...], near: int | None) -> int | None:
    """The stage whose width a dimension counts, where one number drives the widths of all stages."""
    if near is not None and size % widths[near] == 0:
        return near
    if size in widths:
        return widths.index(size)
    return max((stage for stage, width in enumerate(widths) if size % width == 0), default=None)


def _stage_read(name: str, flow: Flow, prober: StageProber, stage_of: Mapping[str, int]) -> int | None:
    """The stage whose residual stream the module of a parameter reads: the last that wrote what reaches it."""
    owner, found = owner_of(name), set[int]()
    nodes = [p for use in flow.trace.products.get(f"{owner}.weight", ()) for p in use.parents]
    if owner in flow.trace.norms:
        nodes += flow.trace.norms[owner].parents
    seen: set[int] = set()
    stack: list[Node] = list(nodes)
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.kind not in ("linear", "conv", "embedding", "parameter") or not node.name:
            stack.extend(p for p in node.parents if isinstance(p, Node))
            continue
        layer, template = layer_of(node.name, stage_of)
        width = prober.shapes.get(node.name, (0,))[-1 if node.kind in ("parameter", "embedding") else 0]
        if layer is not None:
            found.add(stage_of[template.partition(".{}.")[0]])
        elif width in prober.widths:
            found.add(prober.widths.index(width))
    return max(found, default=None)


__all__ = ["StageProber", "stage_dims"]
