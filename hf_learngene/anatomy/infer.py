"""`anatomy_of`: shapes, flow and name rules put together."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.admit import admit_config, admit_no_learngene, admit_tensors
from hf_learngene.anatomy.axes import axes_of, layer_of
from hf_learngene.anatomy.config_fields import (
    as_pair,
    changed,
    check_bounds,
    known_sizes,
    native_name,
    section,
)
from hf_learngene.anatomy.hierarchy import check_fixed, hierarchy_of, sizes_at
from hf_learngene.anatomy.layer_lists import layer_dims, per_layer_fields
from hf_learngene.anatomy.observed import axis_fields, first_traced, full_ties, norms_seen, placed, traced
from hf_learngene.anatomy.passes import check_target, reads_grid
from hf_learngene.anatomy.probe import LISTS, Prober, build, layer_containers, numbers_of_depth, shapes
from hf_learngene.anatomy.registry import Declaration, declaration_of
from hf_learngene.anatomy.roles import Flow, settle
from hf_learngene.anatomy.sections import followers_of, only_section
from hf_learngene.anatomy.small import few_tokens
from hf_learngene.anatomy.stacks import sample_of
from hf_learngene.anatomy.stages import stage_fields
from hf_learngene.anatomy.trace import Trace, is_norm
from hf_learngene.anatomy.types import DISTANCES, FIXED, HEAD_DIM, Dim, NormInfo, TensorInfo
from hf_learngene.anatomy.whole import Anatomy
from hf_learngene.errors import InvalidSizeError, LearngeneError, UnsupportedFamilyError
from hf_learngene.state import exclusive, on_cpu


_T = TypeVar("_T")
_CACHE: OrderedDict[tuple[Any, ...], Anatomy] = OrderedDict()
# with the known one each, for an id is only one while what has it is kept
_LIKE: OrderedDict[tuple[Any, ...], tuple[Anatomy, Anatomy]] = OrderedDict()
_CACHE_SIZE = 64
# Where a config comes from changes no tensor: a checkpoint that was copied is not probed anew.
_ORIGIN = ("_name_or_path", "transformers_version", "learngene")


def anatomy_of(config: PreTrainedConfig, model_class: type[PreTrainedModel], section_of: str | None = None) -> Anatomy:
    """Axes, roles, layers and ties of every parameter of `model_class(config)`, without weights.

    Builds the model on `meta` at its own config and again with one size changed at a time, and runs one recorded
    forward pass on `meta`. Cached per class, config and declaration.

    Args:
        config (`PreTrainedConfig`): the model's config. It is not changed.
        model_class (`type[PreTrainedModel]`): the native class, with its head.
        section_of (`str`, *optional*): the nested config whose sizes count (`vision_config`), of a class that builds from
            several: whatever no field of it drives is fixed. Default: the one that the class builds from.

    Returns:
        `Anatomy`: what is known of every parameter.

    Raises:
        UnsupportedFamilyError: the family is no isotropic encoder, or a tensor of it stays unknown.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=16, vocab_size=30)
        >>> anatomy = anatomy_of(config, BertModel)
        >>> [d.axis for d in anatomy.tensors["encoder.layer.0.attention.self.query.weight"].dims]
        ['heads', 'hidden']
    """
    declared = declaration_of(config.model_type)
    check_bounds(vars(config))
    with exclusive():
        return _cached(config, model_class, declared, section_of)


def _key(config: PreTrainedConfig, *more: Any) -> tuple[Any, ...]:
    fields = json.loads(config.to_json_string(use_diff=False))
    for name in _ORIGIN:
        fields.pop(name, None)
    return (json.dumps(fields), config.num_labels, *more)


def _cached(
    config: PreTrainedConfig, model_class: type[PreTrainedModel], declared: Declaration, section_of: str | None
) -> Anatomy:
    try:
        # a model that is being loaded may ask for its anatomy under `meta`
        with on_cpu():
            admit_no_learngene(config)
            if section_of is None:
                section_of = only_section(config, model_class)
            key = _key(config, model_class, declared, section_of)
            if key not in _CACHE:
                _CACHE[key] = _anatomy(config, model_class, declared, section_of)
    except LearngeneError:
        raise
    except Exception as error:  # a class of another kind may fail anywhere, in its constructor for one
        raise UnsupportedFamilyError(
            f"{model_class.__name__} cannot be built and probed from its config alone: {error or type(error).__name__}"
        ) from error
    return _used(_CACHE, key)


def _used(cache: OrderedDict[tuple[Any, ...], _T], key: tuple[Any, ...]) -> _T:
    """What a cache holds, as what was used last; those used longest ago make room."""
    cache.move_to_end(key)
    while len(cache) > _CACHE_SIZE:
        cache.popitem(last=False)
    return cache[key]


def _anatomy(
    config: PreTrainedConfig, model_class: type[PreTrainedModel], declared: Declaration, section_of: str
) -> Anatomy:
    part = section(config, section_of)
    check_bounds(vars(part))
    admit_config(config, part, model_class)
    if stages := stage_fields(part):
        anatomy = hierarchy_of(config, model_class, section_of, stages, declared)
        admit_tensors(anatomy)
        return anatomy
    few = _counts_no_tokens(model_class, config, section_of)
    lean = few_tokens(config, section_of, 1) or config if few else config
    per_layer = per_layer_fields(model_class, lean, section_of)
    full = build(model_class, lean)
    depth = part.num_hidden_layers
    short_depth = 2 if depth != 2 else 3
    short_config = changed(lean, section_of, {_native_depth(part): short_depth}, per_layer)
    short = build(model_class, short_config)
    containers = layer_containers(full, depth, short, short_depth)
    numbers = numbers_of_depth(full, short)
    counted = layer_dims(short, short_depth, full, depth)
    if containers and _templates(full, containers) - _templates(short, containers):
        # layers differ in kind along the depth: only the whole depth shows all
        short, short_config, counted = full, lean, layer_dims(full, depth, short, short_depth)
    # what reads certain layers of the encoder (a head on a backbone) needs them all
    every = [(full, lean)] if section_of and short_config is not lean else []
    place, trace = first_traced([(short, short_config), *every], section_of, containers)
    if place:
        short, short_config, counted = full, lean, layer_dims(full, depth, short, short_depth)
    if short_depth < depth and short_config is not lean and _whole_layers_unseen(short, trace):
        # ALBERT's groups of shared layers: a short model uses only some of them
        short, short_config, counted = full, lean, layer_dims(full, depth, short, short_depth)
        trace = traced(short, short_config, section_of, containers)
    sample = sample_of(model_class, short_config, section_of, short, containers)
    followers = followers_of(model_class, sample.config, section_of)
    prober = Prober(model_class, sample.config, section_of, sample.model, followers, sample.fields)
    prober.run()
    eps_field, norms_that_follow = prober.eps_field()
    eps_followers = {name for name, _ in short.named_modules() if sample.stand_in(name) in norms_that_follow}
    prober.stand_for(short, sample.stand_in)
    if section_of:
        trace = trace.within(prober.writers())
    flow = Flow(trace, containers)
    tensors = {}
    for name, parameter in short.named_parameters(remove_duplicate=False):
        dims = axes_of(name, parameter, prober, short, flow.product_kind(name), counted.get(name, {}))
        info = TensorInfo(name, dims, *layer_of(name, containers), module=name.rpartition(".")[0])
        tensors[name] = info
    sizes = _sizes(part, prober.fields)
    tensors = settle(tensors, short, flow, declared, honoured := _honours_head_dim(prober, flow))
    ties = dict(short.all_tied_weights_keys)
    norms = _every_layer(norms_seen(short, flow, containers, tensors, eps_followers), full, containers)
    fixed = {n.name for n in norms if n.axis == FIXED}
    by_template: dict[str, TensorInfo] = {}
    for info in tensors.values():
        by_template.setdefault(info.template, info)
    whole = _spread(full, containers, by_template, 0 if short is full else depth - short_depth)
    anatomy = Anatomy(
        model_type=config.model_type,
        model_class=model_class.__name__,
        tensors=whole,
        ties=full_ties(full),
        norms=tuple(norms),
        fields={**prober.fields, **axis_fields(whole)},
        sizes={**sizes, "num_hidden_layers": depth, "num_labels": int(config.num_labels or 0)},
        section=section_of,
        shared_layers=not containers,
        rotary=_rotary(short, tensors.values()) or trace.heads_are_turned(),
        normalised_heads=trace.heads_are_normalised()
        or trace.queries_are_learnt()
        or flow.reads_heads_of_the_width(tensors),
        head_dim_honoured=honoured,
        eps_field=eps_field,
        tied_readers={n: w for n, w in flow.tied_readers(ties).items() if n not in fixed},
        grid=_grid(part),
        counts_no_tokens=few,
        numbers_of_depth=numbers,
        linked=prober.linked,
        followers=followers,
        per_layer=per_layer,
    )
    admit_tensors(anatomy)
    return dataclasses.replace(anatomy, reads_grid=reads_grid(anatomy.grid, trace, anatomy))


def _counts_no_tokens(model_class: type[PreTrainedModel], config: PreTrainedConfig, section_of: str) -> bool:
    """Whether a model of videos has no parameter that counts their patches (VideoMAE, whose sinusoids are made one by one)."""
    found = [few_tokens(config, section_of, factor) for factor in (1, 2)]
    depth = {_native_depth(section(config, section_of)): 2}
    try:
        one, other = (shapes(build(model_class, changed(few, section_of, depth))) for few in found if few is not None)
        return one == other
    except Exception:  # no videos, or so short ones that a family refuses them
        return False


def _whole_layers_unseen(model: nn.Module, trace: Trace) -> bool:
    """Whether a member of some module list took no part in the pass while another did."""
    for name, module in model.named_modules():
        members = [f"{name}.{i}." for i in range(len(module))] if isinstance(module, nn.ModuleList) else []
        used = [any(touched.startswith(member) for touched in trace.touched) for member in members]
        if any(used) and not all(used):
            return True
    return False


def _native_depth(part: PreTrainedConfig) -> str:
    name = native_name(part, "num_hidden_layers")
    if name is None:
        raise UnsupportedFamilyError(f"`{part.model_type}` has no field for its depth.")
    return name


def _sizes(part: PreTrainedConfig, fields: Mapping[str, str]) -> dict[str, int]:
    values = {c: getattr(part, n, None) for c, n in fields.items()}
    sizes = {c: int(v) for c, v in values.items() if isinstance(v, int) or (isinstance(v, float) and v.is_integer())}
    heads = sizes.get("num_attention_heads")
    if heads:
        sizes.setdefault("head_dim", sizes["hidden_size"] // heads)
    return sizes


def _honours_head_dim(prober: Prober, flow: Flow) -> bool:
    """Whether heads x head size may differ from the width: what reads the attention follows the head size too."""
    follow = {name for name, effects in prober.effects.items() if any("head_dim" in e for e in effects)}
    readers = {name for name in prober.effects if flow.reads_attention(name)}
    return bool(follow) and (not readers or bool(readers & follow))


def _grid(part: PreTrainedConfig) -> tuple[int, int] | None:
    if getattr(part, "image_size", None) is None or getattr(part, "patch_size", None) is None:
        return None
    image, patch = as_pair(part.image_size), as_pair(part.patch_size)
    return image[0] // patch[0], image[1] // patch[1]


def anatomy_like(
    known: Anatomy,
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    model: PreTrainedModel | None = None,
) -> Anatomy:
    """The anatomy of another size of a model whose anatomy is known: one build, no probes. Cached: what is planned is made next.

    Falls back to probing where the other size has tensors that the known one lacks (ELECTRA's `embeddings_project`).

    Args:
        known (`Anatomy`): what is known.
        config (`PreTrainedConfig`): of the other size.
        model_class (`type[PreTrainedModel]`): of both.
        model (`PreTrainedModel`, *optional*): one of the other size, if there is one. Nothing is built and tried then.

    Raises:
        InvalidSizeError: a size that the family can build, but not save, load or run, or that changes what no field explains.
        Exception: what the family's own constructor raises at a size that it refuses.
    """
    if model is not None:
        return _like(known, config, model_class, model)
    key = _key(config, model_class, declaration_of(config.model_type), id(known))
    with exclusive():
        if key not in _LIKE:
            with on_cpu():
                same = known.counts_no_tokens and known.grid == _grid(section(config, known.section))
                lean = few_tokens(config, known.section, 1) or config if same else config
                built = build(model_class, lean)
                _check_labels(known, config, built)
                like = _like(known, config, model_class, built)
                check_target(like, known, config, built, lean)
            _LIKE[key] = known, like
        return _used(_LIKE, key)[1]


def _check_labels(known: Anatomy, config: PreTrainedConfig, built: PreTrainedModel) -> None:
    """Refuses another number of labels of a head that has its own, whatever its config says (RoFormer's spans)."""
    if config.num_labels not in (known.sizes.get("num_labels", 0), built.config.num_labels):
        raise InvalidSizeError(
            f"num_labels={config.num_labels}: {type(built).__name__} has {built.config.num_labels}, whatever its config says. "
            "Leave it out."
        )


def _like(
    known: Anatomy, config: PreTrainedConfig, model_class: type[PreTrainedModel], full: PreTrainedModel
) -> Anatomy:
    part = section(config, known.section)
    sizes = sizes_at(known, part, config) if known.num_stages else _all_sizes(known, part, config)
    deeper = sizes.get("num_hidden_layers", 0) - known.num_layers
    tensors = {}
    for name, parameter, layer, template in placed(full, _known_containers(known, full)):
        like = known.like(name, template)
        if like is None or len(like.dims) != parameter.dim():
            return anatomy_of(config, model_class, known.section)
        dims = _sized(like, parameter, deeper)
        if known.num_stages:
            check_fixed(name, like, dims)
        tensors[name] = dataclasses.replace(like, name=name, dims=dims, layer=layer, module=name.rpartition(".")[0])
    return dataclasses.replace(
        known,
        tensors=tensors,
        ties=full_ties(full),
        sizes=sizes,
        grid=None if known.num_stages else _grid(part),
    )


def _all_sizes(known: Anatomy, part: PreTrainedConfig, config: PreTrainedConfig) -> dict[str, int]:
    # a head size may be given where the known one followed from its width
    names = {**known_sizes(part), **known.fields}
    if "intermediate_size" in known.fields and "mlp_ratio" not in known.fields:
        names.pop("mlp_ratio", None)
    sizes = _sizes(part, names)
    return {
        **sizes,
        "num_hidden_layers": getattr(part, _native_depth(part)),
        "num_labels": int(config.num_labels or 0),
    }


def _known_containers(known: Anatomy, model: nn.Module) -> list[str]:
    modules = dict(model.named_modules())
    return [name for name in known.containers if isinstance(modules.get(name), LISTS)]


def _every_layer(norms: list[NormInfo], full: nn.Module, containers: list[str]) -> list[NormInfo]:
    """The norms seen at the short depth, repeated for the whole depth, still in order of execution."""
    own = {n for n, m in full.named_modules() if is_norm(m)}
    if {n.name for n in norms} >= own or not containers:
        return [n for n in norms if n.name in own]  # a model of one layer was seen with two
    seen = [n for n in norms if n.layer is not None]
    last = max(n.layer for n in seen if n.layer is not None)
    pattern = [n for n in seen if n.layer == last]
    first, end = norms.index(seen[0]), norms.index(seen[-1]) + 1
    before, after = norms[:first], norms[end:]
    middle = [n for n in norms[first:end] if n.layer != last]
    depth = max(len(cast(nn.ModuleList, full.get_submodule(c))) for c in containers)
    for index in range(last, depth):
        for norm in pattern:
            container = next(c for c in containers if f"{norm.name}.".startswith(f"{c}.{last}."))
            name = f"{container}.{index}{norm.name[len(f'{container}.{last}') :]}"
            middle.append(dataclasses.replace(norm, name=name, layer=index))
    return [*before, *middle, *after]


def _spread(
    full: PreTrainedModel, containers: list[str], known: dict[str, TensorInfo], deeper: int
) -> dict[str, TensorInfo]:
    """What was found at the short depth, for every layer of the whole depth, which has so many more."""
    tensors = {}
    for name, parameter, layer, template in placed(full, containers):
        info = known[template]
        if any(d.layers for d in info.dims):
            info = dataclasses.replace(info, dims=_sized(info, parameter, deeper))
        lines = any(d.axis == DISTANCES for d in info.dims)
        if lines:
            info = dataclasses.replace(info, dims=_sized(info, parameter, deeper))
        if tuple(parameter.shape) != info.shape:
            raise UnsupportedFamilyError(
                f"`{name}` has shape {tuple(parameter.shape)} where other layers have {info.shape}: the layers are not "
                "all of one size, and only models of one width throughout can be resized."
            )
        tensors[name] = dataclasses.replace(info, name=name, layer=layer, module=name.rpartition(".")[0])
    return tensors


def _sized(info: TensorInfo, parameter: nn.Parameter, deeper: int) -> tuple[Dim, ...]:
    return tuple(d.at(int(n), deeper) for d, n in zip(info.dims, parameter.shape, strict=True))


def _templates(model: nn.Module, containers: Iterable[str]) -> set[str]:
    return {layer_of(n, containers)[1] for n, _ in model.named_parameters(remove_duplicate=False)}


def _rotary(model: nn.Module, tensors: Iterable[TensorInfo]) -> bool:
    by_buffer = any("inv_freq" in name for name, _ in model.named_buffers())
    return by_buffer or any(t.computed and t.dims[-1].axis == HEAD_DIM for t in tensors)
