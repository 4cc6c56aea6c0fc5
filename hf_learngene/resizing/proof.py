"""Proof before admission: a growth is carried out in small, and every output compared, before a weight is read.

What a family is called, and whether anybody listed it, does not count. A miniature of the very class and config, with random
weights, is grown by the plan's own method and anatomy; in float64 nothing may move, and nothing may start anew.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo, anatomy_like
from hf_learngene.anatomy.probe import epsilons
from hf_learngene.errors import InvalidSizeError, LossyGrowthError, UnsupportedFamilyError, first_line
from hf_learngene.maps.task import changes, source_axes
from hf_learngene.methods.lemon_limits import eta_of
from hf_learngene.resizing.build_model import build_model
from hf_learngene.resizing.counterparts import EXACT, differing
from hf_learngene.resizing.miniature import Miniature, grows, miniatures
from hf_learngene.resizing.origins import COMPUTED, origins
from hf_learngene.resizing.outputs import difference, in_float64, outputs_of, random_inputs
from hf_learngene.resizing.passes import Pass, make_pass
from hf_learngene.resizing.sizes import complete, describe
from hf_learngene.resizing.weights import Transfer
from hf_learngene.state import exclusive, on_cpu, quiet, seeded


_EPSILON = 1e-12  # of the norms where a post-norm model grows deeper: new layers are exact up to it
_SCALE = 0.3  # of random weights
_TOKENS = (10, 16, 64)  # some attentions take only certain lengths
_ORIGIN = ("_name_or_path", "transformers_version", "learngene")  # where a config comes from says nothing of the model


class _Verdict(NamedTuple):
    """What a miniature says.

    Attributes:
        against: why the growth is refused, or nothing.
        failed: why the miniature could not be made and run, or nothing.
    """

    against: str = ""
    failed: str = ""


@dataclass(frozen=True, eq=False)
class _Source:
    """A small source and what it gives.

    Attributes:
        model: it, with random weights in float64.
        anatomy: its anatomy: what the pass knows of the large one, at small sizes.
        inputs: what it was run on.
        outputs: what it gave.
        mixed: a parameter that transformers does not load as it was saved, or nothing.
    """

    model: PreTrainedModel
    anatomy: Anatomy
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    mixed: str


# By miniature, so that plans of other sizes share them: a line of text each. Of models, none outlives its proof.
_VERDICTS: OrderedDict[tuple[Any, ...], _Verdict] = OrderedDict()
_MIXED: OrderedDict[tuple[Any, ...], str] = OrderedDict()
_MOST_VERDICTS = 4096
_Sources = dict[tuple[Any, ...], _Source]


def prove(step: Pass) -> None:
    """Refuses a growth that its own miniature refutes. A pass that grows nothing, or promises nothing, is left alone.

    The miniature has the class and the config's options, few small layers, and random weights, biases and norm weights in
    float64. It grows in the same ways: the same sizes, by whole multiples or not. Its anatomy is the one that the pass goes
    by, so a wrong axis, role, scale or list shows. Verdicts are kept for the process, by miniature and method.

    Args:
        step: the pass, before a weight is read.

    Raises:
        InvalidSizeError: the target's config does not read back as it was saved.
        LossyGrowthError: a tensor starts anew, or an output is another; it names the output, and the first tensor that differs.
        UnsupportedFamilyError: no miniature could be made or run, so nothing is proved.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from hf_learngene import plan
        >>> plan(BertConfig(), model_class=BertModel, hidden_size=1536).target_config.hidden_size  # proved on the way
        1536
    """
    if not step.method.proved or not grows(step):
        return
    _check_read_back(step)
    _check_tensors(step)
    failed, sources = "its config takes no small sizes", _Sources()
    with exclusive(), torch.inference_mode(False), on_cpu():
        for small in miniatures(step):
            verdict = _verdict(step, small, sources)
            if verdict.against:
                raise LossyGrowthError(
                    f"{_asked(step)} cannot be grown without loss: {verdict.against}{_exact_alone(step, sources)}"
                )
            if not verdict.failed:
                return
            failed = verdict.failed
    raise UnsupportedFamilyError(
        f"{_asked(step)} cannot be proved: no miniature of it could be made and run ({failed}), and what is not proved is not "
        "grown."
    )


def _asked(step: Pass) -> str:
    source, target = step.task.source, step.task.target
    return f"{describe(target.sizes, source.sizes)} of `{source.model_type}` as {step.model_class.__name__}"


def _exact_alone(step: Pass, sources: _Sources) -> str:
    """Which of several sizes would be exact alone, in a sentence; nothing where one was asked for."""
    source, grown = step.task.source, step.task.target.sizes
    widths = (
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        *(["head_dim"] if source.head_dim_honoured else []),
    )
    groups = (
        widths,
        ("intermediate_size",),
        ("num_hidden_layers",),
        *((n,) for n in source_axes(source) if n not in source.linked),
    )
    changed = [{n: new for n, (_, new) in changes(source, grown, names).items()} for names in groups]
    found: dict[bool, list[str]] = {True: [], False: []}
    for wanted in filter(None, changed):
        try:
            sizes = complete(source, step.source_config, wanted)
            alone = make_pass(step.method, step.source_config, step.model_class, sizes, seed=step.task.seed)
            verdicts = (_verdict(alone, small, sources) for small in miniatures(alone))
            exact = next((not v.against for v in verdicts if v.against or not v.failed), False)
        except Exception:  # a size that the family or the method refuses
            exact = False
        found[exact].append(", ".join(f"{n}={v}" for n, v in wanted.items()))
    if sum(map(len, found.values())) < 2:
        return ""
    if not found[True]:
        return " None of these sizes is exact alone."
    return f" Exact alone: {'; '.join(found[True])}." + (
        f" Not exact: {'; '.join(found[False])}." if found[False] else ""
    )


def _check_read_back(step: Pass) -> None:
    """Refuses a config that is another once it was saved and read."""
    config = step.config
    try:
        with quiet():
            again = type(config).from_dict(json.loads(config.to_json_string()))
        before, after = (json.loads(json.dumps(c.to_dict(), default=str)) for c in (config, again))
    except Exception as error:  # the family's own checks
        raise InvalidSizeError(f"{_asked(step)} cannot be saved and read back: {first_line(error)}") from error
    for name, value in before.items():
        if name not in _ORIGIN and after.get(name) != value:
            raise InvalidSizeError(
                f"{_asked(step)} cannot be saved: `{name}` is {value!r} in the config, and reads back as {after.get(name)!r}."
            )


def _check_tensors(step: Pass) -> None:
    """Refuses a target with a tensor that the source has none of: what joins two widths as long as they differ."""
    known = step.task.source.templates
    new = (
        next((t for name, t in step.task.target.templates.items() if name not in known), None)
        if step.section
        else None
    )
    if new is not None:
        raise LossyGrowthError(
            f"{_asked(step)} cannot be grown without loss: `{new.name}` {new.shape} would start anew, and the source has none. "
            "Keep hidden_size; depth and intermediate_size can grow."
        )


# ---- the growth in small


def _verdict(step: Pass, small: Miniature, sources: _Sources) -> _Verdict:
    key = (*_source_key(step, small), tuple(sorted(small.sizes.items())), step.method)
    if key not in _VERDICTS:
        try:
            _VERDICTS[key] = _Verdict(against=_refuted(step, small, sources))
        except Exception as error:  # a family's own code may fail anywhere at sizes that it does not expect
            _VERDICTS[key] = _Verdict(failed=first_line(error))
        while len(_VERDICTS) > _MOST_VERDICTS:
            _VERDICTS.popitem(last=False)
    return _VERDICTS[key]


def _refuted(step: Pass, small: Miniature, sources: _Sources) -> str:
    """Why the small growth is not exact, or nothing where it is."""
    source = _source(step, small, sources)
    if source.mixed:
        return f"transformers loads `{source.mixed}` with other values than were saved, so no checkpoint of this class is safe."
    built = list[PreTrainedModel]()

    def build(config: PreTrainedConfig) -> PreTrainedModel:
        built.append(_small_model(step.model_class, config))
        return built[0]

    made = make_pass(step.method, small.config, step.model_class, small.sizes, source=source.anatomy, build=build)
    fresh = next((t for t in origins([made]) if t.fresh and t.origin != COMPUTED), None)
    if fresh is not None:
        return f"`{fresh.name}` {fresh.shape} would start anew, {fresh.origin}."
    if not step.method.exact:
        return ""
    grown, transfer = built[0], Transfer(source.model, made)
    _fill(grown, transfer.weights())
    transfer.carry_buffers(grown)
    if any(t.source.post_norm and len(t.layer_map) > t.source.num_layers for t in made.task.parts):
        found = differing(_with_epsilon(source.model, source.inputs), _with_epsilon(grown, source.inputs), made)
    else:
        found = differing(source.outputs, _run(grown, source.inputs), made)
    if not found:
        return ""
    return (
        f"{found}{_first_tensor(source, grown, made)} Other sizes may be exact: each is proved when it is asked for. "
        "allow_lossy=True grows all the same; register_anatomy declares a tensor that was taken for another."
    )


def _source_key(step: Pass, small: Miniature) -> tuple[Any, ...]:
    fields = json.loads(small.config.to_json_string(use_diff=False))
    options = {name: value for name, value in fields.items() if name not in _ORIGIN}
    return step.model_class, json.dumps(options, sort_keys=True), _told(step.task.source)


def _told(anatomy: Anatomy) -> str:
    """What is said of tensors and norms, in short: thousands of verdicts are kept by it."""
    return hashlib.sha256("\n".join(sorted(map(repr, anatomy.structure))).encode()).hexdigest()


def _source(step: Pass, small: Miniature, sources: _Sources) -> _Source:
    key = _source_key(step, small)
    if key not in sources:
        sources[key] = _made(step, small)
    return sources[key]


def _made(step: Pass, small: Miniature) -> _Source:
    known = step.task.source
    model = _small_model(step.model_class, small.config)
    like = anatomy_like(known, small.config, step.model_class, model)
    norms = tuple(n for n in known.norms if n.layer is None or n.layer < like.of_stage(n.stage).num_layers)
    like = replace(like, norms=norms)
    generator = torch.Generator().manual_seed(0)
    _fill(model, {name: _random(info, generator) for name, info in like.tensors.items() if not info.computed})
    failure: Exception | None = None
    tried = list[dict[str, torch.Size]]()
    for tokens in _TOKENS:
        try:
            inputs = random_inputs(model, tokens=tokens)
            shapes = {name: tensor.shape for name, tensor in inputs.items()}
            if shapes in tried:  # images have no tokens, and a large one takes seconds
                continue
            tried.append(shapes)
            outputs = _run(model, inputs)
        except Exception as error:  # a length that the family does not take
            failure = failure or error.with_traceback(None)  # its frames hold whatever the callers have
            continue
        return _Source(model, like, inputs, outputs, _mixed(model, like))
    raise failure or RuntimeError("no pass was tried")


def _small_model(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """A model in float64, as its class initialises it."""
    with seeded(0), quiet():
        model = model_class(copy.deepcopy(config))  # some constructors write into it
        nn.Module.to(model, torch.float64)
    model.train(False)
    return model


def _random(info: TensorInfo, generator: torch.Generator) -> Tensor:
    """Random values, of biases and norm weights too: a growth that is exact only on fresh ones must show."""
    noise = _SCALE * torch.randn(info.shape, generator=generator, dtype=torch.float64)
    return 1.0 + noise if info.kind == "norm" else noise


@torch.no_grad()
def _fill(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in weights.items():
        parameters[name].copy_(tensor)


def _mixed(model: PreTrainedModel, anatomy: Anatomy) -> str:
    """A parameter that transformers loads with other values than it was given, or nothing (two names that it takes for one)."""
    key = type(model), _told(anatomy)
    if key not in _MIXED:
        given = {n: p.detach() for n, p in model.named_parameters(remove_duplicate=False) if n in anatomy.tensors}
        loaded = build_model(type(model), model.config, given, model, anatomy=anatomy)
        found = dict(loaded.named_parameters(remove_duplicate=False))
        _MIXED[key] = next((name for name, tensor in given.items() if not torch.equal(found[name], tensor)), "")
        while len(_MIXED) > _MOST_VERDICTS:
            _MIXED.popitem(last=False)
    return _MIXED[key]


# ---- the comparison


def _run(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every output, hidden states too where the model gives them."""
    with in_float64():
        try:
            return outputs_of(model, inputs, output_hidden_states=True)
        except TypeError:  # a class of one's own need not know the keyword
            return outputs_of(model, inputs)


def _with_epsilon(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every output with a small epsilon in all norms."""
    before = epsilons(model)
    try:
        _set_epsilons(model, dict.fromkeys(before, _EPSILON))
        return _run(model, inputs)
    finally:
        _set_epsilons(model, before)


def _set_epsilons(model: nn.Module, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        module = model.get_submodule(name)
        for field in ("eps", "variance_epsilon"):
            if hasattr(module, field):
                setattr(module, field, value)


def _first_tensor(source: _Source, grown: PreTrainedModel, made: Pass) -> str:
    """Where the two models part: the first norm or writer of the residual stream, in order of execution, that gives another."""
    before = _written(source.model, source.inputs, source.anatomy)
    after = _written(grown, source.inputs, made.task.target)
    same = ""
    for name, a in before.items():
        info = source.anatomy.tensors[name]
        task = made.task.of(info)
        layers = task.layer_map.layers
        eta = eta_of(task.source.sizes["hidden_size"], task.target.sizes["hidden_size"])
        places = [info.template.format(i) for i, layer in enumerate(layers) if layer.index == info.layer] or [name]
        others = [after[place] for place in places if place in after]
        # what a writer hands on may be scaled throughout, and the last copy of a layer may carry its affine part
        found = [difference(name, a, b * factor) for b in others for factor in {1.0, eta}]
        if others and not any(d is not None and d.relative <= EXACT for d in found):
            return f" The first tensor that differs is `{name}`."
        same = name
    return f" All is the same up to `{same}`; what reads that is another." if same else ""


def _written(model: PreTrainedModel, inputs: Mapping[str, Tensor], anatomy: Anatomy) -> dict[str, Tensor]:
    """What each norm and each writer of the residual stream gives, by the name of its weight, in order of execution."""
    found: dict[str, Tensor] = {}
    handles = []

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            if isinstance(result, Tensor):
                found.setdefault(name, result)

        return hook

    for name, info in anatomy.tensors.items():
        if name.endswith(".weight") and (info.writes_stream or info.kind == "norm"):
            handles.append(model.get_submodule(info.module).register_forward_hook(keep(name)))
    try:
        _run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
