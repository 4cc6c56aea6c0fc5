"""The anatomy of a hierarchy: which field drives which dimension of which stage, and what its blocks are like."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.admit import ALLOWED
from hf_learngene.anatomy.axes import layer_of
from hf_learngene.anatomy.config_fields import changed, section
from hf_learngene.anatomy.observed import axis_fields, full_ties, norms_seen, traced
from hf_learngene.anatomy.probe import build, layer_containers, shapes
from hf_learngene.anatomy.registry import Declaration
from hf_learngene.anatomy.roles import Flow, settle
from hf_learngene.anatomy.stage_axes import StageProber, stage_dims
from hf_learngene.anatomy.stages import StageBlocks, StageField, in_stages, stage_values, width_fields
from hf_learngene.anatomy.trace import is_norm
from hf_learngene.anatomy.types import FIXED, Dim, TensorInfo
from hf_learngene.anatomy.whole import Anatomy
from hf_learngene.errors import InvalidSizeError, UnsupportedFamilyError


# What a hierarchy is asked for besides the sizes of its stages, if no tensor's meaning depends on it.
_PLAIN = ("image_size", "num_channels", "mlp_ratio")
_FEW = 2  # blocks of a stage that is probed: a first one may be of another kind than the rest
_DEEP = 5  # blocks of the smallest stage where blocks are compared: two that alternate are seen twice


def hierarchy_of(
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    section_of: str,
    fields: Mapping[str, StageField],
    declared: Declaration,
) -> Anatomy:
    """What is known of every parameter of a hierarchy.

    Args:
        config: of the model.
        model_class: its class.
        section_of: the nested config that holds its sizes, or the empty string.
        fields: how the config says the sizes of its stages.
        declared: what a person declared of the family.

    Raises:
        UnsupportedFamilyError: its stages are not lists of blocks, or no field says their widths.
    """
    part = section(config, section_of)
    full = build(model_class, config)
    depths = fields["num_hidden_layers"].read(getattr(part, fields["num_hidden_layers"].native), 0)
    stages, blocks = _stages(full, config, model_class, section_of, fields, depths)
    containers = [name for names in stages for name in names]
    stage_of = {name: stage for stage, names in enumerate(stages) for name in names}
    flow = Flow(traced(full, config, section_of, containers), containers)
    fields = _fields_of(fields, part, full, stages)
    shallow, short, twins = _shallow(full, config, model_class, section_of, fields, containers)
    prober = StageProber(model_class, shallow, section_of, short, fields)
    prober.run()
    tensors: dict[str, TensorInfo] = {}
    for name, parameter in full.named_parameters(remove_duplicate=False):
        layer, template = layer_of(name, containers)
        stage = stage_of[template.partition(".{}.")[0]] if layer is not None else None
        dims = stage_dims(name, parameter, twins[name], prober, full, flow, stage, stage_of)
        last = max((d.stage for d in dims if d.stage is not None), default=0)
        module = name.rpartition(".")[0]
        tensors[name] = TensorInfo(name, dims, layer, template, module=module, stage=last if stage is None else stage)
    tensors = settle(tensors, full, flow, declared, False)
    ties = full_ties(full)
    whole = {n: t for n, t in tensors.items() if n not in ties}
    values = stage_values(part, fields)
    plain = {n: native for n, native in prober.fields.items() if n in _PLAIN and not prober.parts_tables(native)}
    anatomy = Anatomy(
        model_type=config.model_type,
        model_class=model_class.__name__,
        tensors=whole,
        ties=ties,
        norms=tuple(norms_seen(full, flow, containers, tensors, set())),
        fields={
            **plain,
            **axis_fields(whole),
            **in_stages({size: [field.native] * len(stages) for size, field in fields.items() if size in values}),
        },
        sizes={},
        section=section_of,
        normalised_heads=flow.trace.heads_are_normalised() or flow.trace.queries_are_learnt(),
        tied_readers=flow.tied_readers(dict(full.all_tied_weights_keys)),
        linked=prober.linked,
        stage_fields={n: f for n, f in fields.items() if n in values},
        blocks=blocks,
    )
    return dataclasses.replace(anatomy, sizes=sizes_at(anatomy, part, config))


def sizes_at(known: Anatomy, part: PreTrainedConfig, config: PreTrainedConfig) -> dict[str, int]:
    """The sizes of a hierarchy by canonical name, those of its stages one by one.

    Args:
        known: the anatomy of it, or of another size of it.
        part: the section that holds its sizes.
        config: the whole config.
    """
    values = stage_values(part, known.stage_fields)
    if "num_attention_heads" in values:
        both = zip(values["hidden_size"], values["num_attention_heads"], strict=True)
        values["head_dim"] = tuple(width // heads for width, heads in both)
    plain = {n: getattr(part, native, None) for n, native in known.fields.items() if "." not in n}
    whole = {n: int(v) for n, v in plain.items() if isinstance(v, (int, float)) and float(v).is_integer()}
    return {**in_stages(values), **whole, "num_labels": int(config.num_labels or 0)}


def check_fixed(name: str, known: TensorInfo, dims: Sequence[Dim]) -> None:
    """Refuses a size at which a dimension changes that no size field explained: what stands where in it is not known.

    Raises:
        InvalidSizeError: names the tensor.
    """
    for old, new in zip(known.dims, dims, strict=True):
        if old.axis == FIXED and old.size != new.size:
            raise InvalidSizeError(
                f"`{name}` would go from {old.size} to {new.size} along a dimension that no size field explains, so what its "
                "entries mean at that size is not known. Keep the sizes it follows."
            )


def _fields_of(
    fields: Mapping[str, StageField], part: PreTrainedConfig, full: PreTrainedModel, stages: Sequence[Sequence[str]]
) -> dict[str, StageField]:
    """The fields of the stages' sizes, with the one that says their widths.

    A config may have a list that nothing reads beside a number that counts (FocalNet), and that number may stand for all stages
    alike (Swin2SR). The right one says the widths that the norms in the last block of every stage have.

    Raises:
        UnsupportedFamilyError: none does.
    """
    normed = [
        {
            int(next(m.parameters()).numel())
            for name in names
            for m in list(cast(nn.ModuleList, full.get_submodule(name)))[-1].modules()
            if is_norm(m)
        }
        for names in stages
    ]
    if not any(normed):
        raise UnsupportedFamilyError(
            f"`{part.model_type}` is a convolutional or hierarchical family, and none of its stages has a normalisation over its "
            f"width (a batch norm is none). {ALLOWED}"
        )
    for field in width_fields(part):
        widths = field.read(getattr(part, field.native), len(stages))
        if len(widths) == len(stages) and all(w in found for w, found in zip(widths, normed, strict=True)):
            return {**fields, "hidden_size": field}
    raise UnsupportedFamilyError(
        f"`{part.model_type}` is a hierarchical family, and no field of its config says the widths that the norms of its "
        f"stages have ({', '.join(str(sorted(found)) for found in normed)})."
    )


def _shallow(
    full: PreTrainedModel,
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    section_of: str,
    fields: Mapping[str, StageField],
    containers: Sequence[str],
) -> tuple[PreTrainedConfig, PreTrainedModel, dict[str, str]]:
    """A model of few blocks to be probed many times, its config, and the parameter in it that stands for each of the whole one.

    It is the whole one where the family refuses fewer blocks, or where some of them are of another kind.
    """
    native = fields["num_hidden_layers"].native
    depths = getattr(section(config, section_of), native)
    itself = {name: name for name in shapes(full)}
    try:
        shallow = changed(config, section_of, {native: type(depths)(min(_FEW, d) for d in depths)})
        short = build(model_class, shallow)
    except Exception:  # any refusal by the family's own checks
        return config, full, itself
    found = shapes(short)
    twins = {}
    for name, shape in shapes(full).items():
        layer, template = layer_of(name, containers)
        twins[name] = name if layer is None else template.format(min(layer, _FEW - 1))
        if found.get(twins[name]) != shape:
            return config, full, itself
    return shallow, short, twins


def _stages(
    full: PreTrainedModel,
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    section_of: str,
    fields: Mapping[str, StageField],
    depths: Sequence[int],
) -> tuple[list[list[str]], tuple[StageBlocks, ...]]:
    """The module lists of each stage's blocks, and what those are like; from one build in which every depth is another."""
    native = fields["num_hidden_layers"].native
    given = getattr(section(config, section_of), native)
    other: list[int] = []
    for depth in depths:
        other.append(next(n for n in range(max([_DEEP, *(o + 1 for o in other)]), 10**6) if n != depth))
    deep = build(model_class, changed(config, section_of, {native: type(given)(other)}))
    found = [layer_containers(full, depth, deep, now) for depth, now in zip(depths, other, strict=True)]
    if not all(found):
        raise UnsupportedFamilyError(
            f"`{config.model_type}` as {model_class.__name__} is a hierarchical family, and of the stages with "
            f"{native}={list(depths)} blocks not every one is a list of modules, so that nothing says which block is which."
        )
    blocks = tuple(blocks_of([cast(nn.ModuleList, deep.get_submodule(name)) for name in names]) for names in found)
    return found, blocks


def blocks_of(lists: Iterable[Iterable[nn.Module]]) -> StageBlocks:
    """Whether blocks alternate, and how many first ones are of another kind, by their shapes and by what else they hold.

    Of numbers that blocks hold, those count that some blocks share; what differs in every block (an index) says nothing, nor do
    rates of dropout.
    """
    period, lead = 1, 0
    for blocks in lists:
        held = [_held(block) for block in blocks]
        for key in set().union(*held):
            values = [one.get(key) for one in held]
            if values[0] != values[1] and all(v == values[1] for v in values[2:]):
                lead = 1
            elif values[0] != values[1] and all(a == b for a, b in zip(values, values[2:], strict=False)):
                period = 2
    return StageBlocks(period, lead)


def _held(block: nn.Module) -> dict[str, Any]:
    """Shapes of parameters, classes of modules, and plain attributes, by name."""
    found: dict[str, Any] = {name: tuple(p.shape) for name, p in block.named_parameters()}
    for path, module in block.named_modules():
        if "drop" in path.lower():  # whose rates differ in every block
            continue
        found[f"{path}()"] = type(module).__name__
        for name, value in vars(module).items():
            plain = isinstance(value, (bool, int, str)) or (
                isinstance(value, tuple) and all(isinstance(v, int) for v in value)
            )
            if plain and not name.startswith("_") and "drop" not in f"{name}{type(module).__name__}".lower():
                found[f"{path}.{name}"] = value
    return found


__all__ = ["blocks_of", "hierarchy_of"]
