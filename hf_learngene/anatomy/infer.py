"""`anatomy_of`: shapes, flow and name rules put together."""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.admit import admit_config, admit_tensors, refuse_towers
from hf_learngene.anatomy.axes import NAMED_AXES, axes_of, layer_of
from hf_learngene.anatomy.config_fields import (
    as_pair,
    changed,
    check_bounds,
    known_sizes,
    native_name,
    section,
    section_name,
)
from hf_learngene.anatomy.layer_lists import layer_dims, per_layer_fields
from hf_learngene.anatomy.passes import check_target, plain_pass, reads_grid
from hf_learngene.anatomy.probe import Prober, build, layer_containers, numbers_of_depth, shapes
from hf_learngene.anatomy.registry import Declaration, declaration_of
from hf_learngene.anatomy.roles import Flow, settle
from hf_learngene.anatomy.small import few_tokens, narrow
from hf_learngene.anatomy.trace import Trace, is_norm, subtracts_mean
from hf_learngene.anatomy.types import HEAD_DIM, HIDDEN, Anatomy, Dim, NormInfo, TensorInfo
from hf_learngene.errors import LearngeneError, UnsupportedFamilyError
from hf_learngene.state import exclusive


_T = TypeVar("_T")
_CACHE: OrderedDict[tuple[Any, ...], Anatomy] = OrderedDict()
# with the known one each, for an id is only one while what has it is kept
_LIKE: OrderedDict[tuple[Any, ...], tuple[Anatomy, Anatomy]] = OrderedDict()
_CACHE_SIZE = 64
# Where a config comes from changes no tensor: a checkpoint that was copied is not probed anew.
_ORIGIN = ("_name_or_path", "transformers_version", "learngene")


def anatomy_of(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> Anatomy:
    """Axes, roles, layers and ties of every parameter of `model_class(config)`, without weights.

    Builds the model on `meta` at its own config and again with one size changed at a time, and runs one recorded
    forward pass on `meta`. Cached per class, config and declaration.

    Args:
        config (`PreTrainedConfig`): the model's config. It is not changed.
        model_class (`type[PreTrainedModel]`): the native class, with its head.

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
        return _cached(_key(config, model_class, declared), config, model_class, declared)


def _key(config: PreTrainedConfig, *more: Any) -> tuple[Any, ...]:
    fields = json.loads(config.to_json_string(use_diff=False))
    for name in _ORIGIN:
        fields.pop(name, None)
    return (json.dumps(fields), config.num_labels, *more)


def _cached(
    key: tuple[Any, ...], config: PreTrainedConfig, model_class: type[PreTrainedModel], declared: Declaration
) -> Anatomy:
    if key not in _CACHE:
        try:
            # a model that is being loaded may ask for its anatomy under `meta`
            with torch.device("cpu"):
                _CACHE[key] = _anatomy(config, model_class, declared)
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


def _anatomy(config: PreTrainedConfig, model_class: type[PreTrainedModel], declared: Declaration) -> Anatomy:
    section_of = section_name(config, model_class.main_input_name)
    part = section(config, section_of)
    check_bounds(vars(part))
    admit_config(config, part, model_class)
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
    trace = _trace(short, short_config, section_of, containers)
    if short_depth < depth and short_config is not lean and _whole_layers_unseen(short, trace):
        # ALBERT's groups of shared layers: a short model uses only some of them
        short, short_config, counted = full, lean, layer_dims(full, depth, short, short_depth)
        trace = _trace(short, short_config, section_of, containers)
    prober = Prober(model_class, short_config, section_of, short)
    prober.run()
    eps_field, eps_followers = prober.eps_field()
    flow = Flow(trace, containers)
    tensors = {}
    for name, parameter in short.named_parameters(remove_duplicate=False):
        dims = axes_of(name, parameter, prober, short, flow.product_kind(name), counted.get(name, {}))
        info = TensorInfo(name, dims, *layer_of(name, containers), module=name.rpartition(".")[0])
        tensors[name] = info
    sizes = _sizes(part, prober.fields)
    tensors = settle(tensors, short, flow, declared, honoured := _honours_head_dim(prober, flow))
    ties = dict(short.all_tied_weights_keys)
    norms = _every_layer(_norms(short, flow, containers, tensors, eps_followers), full, containers)
    by_template: dict[str, TensorInfo] = {}
    for info in tensors.values():
        scale = layer_of(info.scaled_by, containers)[1] if info.scaled_by else ""
        by_template.setdefault(info.template, dataclasses.replace(info, scaled_by=scale))
    whole = _spread(full, containers, by_template, 0 if short is full else depth - short_depth)
    anatomy = Anatomy(
        model_type=config.model_type,
        model_class=model_class.__name__,
        tensors=whole,
        ties=_full_ties(full),
        norms=tuple(norms),
        fields={**prober.fields, **_axis_fields(whole)},
        sizes={**sizes, "num_hidden_layers": depth, "num_labels": int(config.num_labels or 0)},
        section=section_of,
        shared_layers=not containers,
        rotary=_rotary(short, tensors.values()) or trace.heads_are_turned(),
        normalised_heads=trace.heads_are_normalised()
        or trace.queries_are_learnt()
        or flow.reads_heads_of_the_width(tensors),
        head_dim_honoured=honoured,
        eps_field=eps_field,
        tied_readers=flow.tied_readers(ties),
        grid=_grid(part),
        counts_no_tokens=few,
        numbers_of_depth=numbers,
        linked=prober.linked,
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


def _templates(model: nn.Module, containers: Iterable[str]) -> set[str]:
    return {layer_of(n, containers)[1] for n, _ in model.named_parameters(remove_duplicate=False)}


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


def _axis_fields(tensors: dict[str, TensorInfo]) -> dict[str, str]:
    axes = {d.axis for t in tensors.values() for d in t.dims}
    return {axis: axis for axis in axes - NAMED_AXES}


def _rotary(model: nn.Module, tensors: Iterable[TensorInfo]) -> bool:
    by_buffer = any("inv_freq" in name for name, _ in model.named_buffers())
    return by_buffer or any(t.computed and t.dims[-1].axis == HEAD_DIM for t in tensors)


def _trace(model: PreTrainedModel, config: PreTrainedConfig, section_of: str, containers: list[str]) -> Trace:
    layers = {f"{c}.{i}" for c in containers for i in range(len(cast(nn.ModuleList, model.get_submodule(c))))}
    try:
        return plain_pass(model, config, layers, [narrow(config, section_of), config])
    except Exception as error:
        refuse_towers(config, type(model), error)
        raise UnsupportedFamilyError(
            f"A forward pass of {type(model).__name__} with plain inputs failed, so its flow stays unknown: {error}"
        ) from error


def _norms(
    model: nn.Module, flow: Flow, containers: list[str], tensors: dict[str, TensorInfo], followers: set[str]
) -> list[NormInfo]:
    norms = []
    closing = flow.closing_norms()
    centred: dict[type, bool] = {}
    for name, node in flow.trace.norms.items():
        weight = tensors.get(f"{name}.weight") or next((t for t in tensors.values() if t.module == name), None)
        # of two streams side by side (Reformer) each keeps its own mean, and the norm has one for both
        beside = frozenset({"other"}) if weight is not None and weight.dims[0].parts > 1 else frozenset()
        module = model.get_submodule(name)
        if type(module) not in centred:
            centred[type(module)] = subtracts_mean(module)
        norms.append(
            NormInfo(
                name=name,
                layer=layer_of(f"{name}.weight", containers)[0],
                axis=weight.dims[0].axis if weight is not None else HIDDEN,
                reads=flow.kinds_into(node).union(beside, *map(flow.kinds_into, flow.trace.norms_again.get(name, ()))),
                closes_layer=name in closing,
                writes_stream=name in flow.stream_norms,
                eps_follows_config=name in followers,
                centred=centred[type(module)],
            )
        )
    return norms


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
        InvalidSizeError: a size that the family can build, but not save, load or run.
        Exception: what the family's own constructor raises at a size that it refuses.
    """
    if model is not None:
        return _like(known, config, model_class, model)
    key = _key(config, model_class, declaration_of(config.model_type), id(known))
    with exclusive():
        if key not in _LIKE:
            with torch.device("cpu"):
                same = known.counts_no_tokens and known.grid == _grid(section(config, known.section))
                lean = few_tokens(config, known.section, 1) or config if same else config
                like = _like(known, config, model_class, build(model_class, lean))
                check_target(like, known, config, model_class, lean)
            _LIKE[key] = known, like
        return _used(_LIKE, key)[1]


def _like(
    known: Anatomy, config: PreTrainedConfig, model_class: type[PreTrainedModel], full: PreTrainedModel
) -> Anatomy:
    part = section(config, known.section)
    depth = getattr(part, _native_depth(part))
    fields = {
        **known_sizes(part),
        **known.fields,
    }  # a head size may be given where the known one followed from its width
    tensors = {}
    for name, parameter, layer, template in _placed(full, _known_containers(known, full)):
        like = known.templates.get(template)
        if like is None or len(like.dims) != parameter.dim():
            return anatomy_of(config, model_class)
        dims = _sized(like, parameter, depth - known.num_layers)
        tensors[name] = dataclasses.replace(like, name=name, dims=dims, layer=layer, module=name.rpartition(".")[0])
    return dataclasses.replace(
        known,
        tensors=tensors,
        ties=_full_ties(full),
        sizes={**_sizes(part, fields), "num_hidden_layers": depth, "num_labels": int(config.num_labels or 0)},
        grid=_grid(part),
    )


def _known_containers(known: Anatomy, model: nn.Module) -> list[str]:
    modules = dict(model.named_modules())
    return [name for name in known.containers if isinstance(modules.get(name), nn.ModuleList)]


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
    for name, parameter, layer, template in _placed(full, containers):
        info = known[template]
        if any(d.layers for d in info.dims):
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


def _placed(model: PreTrainedModel, containers: Sequence[str]) -> Iterator[tuple[str, nn.Parameter, int | None, str]]:
    """Name, parameter, layer and template of each parameter; tied ones under their first name alone."""
    tied = _full_ties(model)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name not in tied:
            yield name, parameter, *layer_of(name, containers)


def _full_ties(model: PreTrainedModel) -> dict[str, str]:
    names = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    return {k: v for k, v in model.all_tied_weights_keys.items() if k in names and v in names and k != v}
