"""What one build and one recorded pass show of a model, whatever it is: its norms, ties and parameters in place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.axes import NAMED_AXES, layer_of
from hf_learngene.anatomy.passes import plain_pass
from hf_learngene.anatomy.roles import Flow
from hf_learngene.anatomy.small import light, narrow
from hf_learngene.anatomy.trace import Trace, subtracts_mean
from hf_learngene.anatomy.types import HIDDEN, NormInfo, TensorInfo
from hf_learngene.errors import UnsupportedFamilyError


def axis_fields(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Axes that carry the name of the field that drives them, by that name."""
    axes = {d.axis for t in tensors.values() for d in t.dims}
    return {axis: axis for axis in sorted(axes - NAMED_AXES)}


def traced(model: PreTrainedModel, config: PreTrainedConfig, section_of: str, containers: Sequence[str]) -> Trace:
    """What flows where in a plain pass.

    Raises:
        UnsupportedFamilyError: none succeeds.
    """
    return first_traced([(model, config)], section_of, containers)[1]


def first_traced(
    candidates: Sequence[tuple[PreTrainedModel, PreTrainedConfig]], section_of: str, containers: Sequence[str]
) -> tuple[int, Trace]:
    """What flows where in the first of several models, each with its config, that a plain pass succeeds of; and which that is.

    All are tried on `meta` before one is on the CPU, where a failing pass over a large image takes seconds.

    Raises:
        UnsupportedFamilyError: none succeeds.
    """
    failure: Exception | None = None
    try:
        for cpu in (False, True):
            for place, (model, config) in enumerate(candidates):
                lists = (cast(nn.ModuleList, model.get_submodule(c)) for c in containers)
                layers = {
                    f"{c}.{i}" for c, members in zip(containers, lists, strict=True) for i in range(len(members))
                }
                on_cpu = [light(narrow(config, section_of) or config, section_of), config] if cpu else []
                try:
                    return place, plain_pass(model, config, layers, on_cpu)
                except Exception as error:
                    failure = error
        name = type(candidates[-1][0]).__name__
        raise UnsupportedFamilyError(
            f"A forward pass of {name} with plain inputs failed, so its flow stays unknown: {failure}"
        ) from failure
    finally:
        del failure  # its frames hold this one and all callers', and with them every model there


def norms_seen(
    model: nn.Module,
    flow: Flow,
    containers: Sequence[str],
    tensors: Mapping[str, TensorInfo],
    followers: Collection[str],
) -> list[NormInfo]:
    """The normalisations that a pass went through, in order of execution; `followers` are those whose epsilon is the config's."""
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
                stage=weight.stage if weight is not None else None,
            )
        )
    return norms


def placed(model: PreTrainedModel, containers: Sequence[str]) -> Iterator[tuple[str, nn.Parameter, int | None, str]]:
    """Name, parameter, layer and template of each parameter; tied ones under their first name alone."""
    tied = full_ties(model)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name not in tied:
            yield name, parameter, *layer_of(name, containers)


def full_ties(model: PreTrainedModel) -> dict[str, str]:
    """Other name of a tied parameter -> its first name."""
    names = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    return {k: v for k, v in model.all_tied_weights_keys.items() if k in names and v in names and k != v}
