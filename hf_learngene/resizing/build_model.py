"""`build_model`: from weights, whoever made them, to a plain transformers model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.config_fields import changed, nested_configs
from hf_learngene.state import quiet, seeded


def build_model(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    weights: Mapping[str, Tensor],
    like: PreTrainedModel,
    *,
    anatomy: Anatomy,
    seed: int = 0,
) -> PreTrainedModel:
    """A plain transformers model of given weights; tensors that are not among them are drawn anew.

    Args:
        model_class: of the model.
        config: of the model.
        weights: parameter name in memory -> tensor, tied ones once.
        like: the model whose dtype, device, attention implementation and name it takes.
        anatomy: of the model, as whoever made the weights knows it.
        seed: for what is drawn anew.

    Returns:
        The model in eval mode. It is saved under the key names that the family's own `save_pretrained` of a fresh model has.
    """
    with torch.no_grad():
        state = {**weights, **drawn(model_class, config, anatomy, anatomy.tensors.keys() - weights.keys(), seed)}
        state = {name: tensor.to(like.dtype) for name, tensor in state.items()}
    model = _assembled(model_class, config, state, like, seed, None)
    return model if like.device.type == "cpu" else cast(PreTrainedModel, nn.Module.to(model, device=like.device))


def build_hollow(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, like: PreTrainedModel, *, anatomy: Anatomy
) -> PreTrainedModel:
    """What `build_model` builds, on meta: names, shapes, dtypes, ties and config, but no weights."""
    state = {n: torch.empty(t.shape, dtype=like.dtype, device="meta") for n, t in anatomy.tensors.items()}
    return _assembled(model_class, config, state, like, 0, {"": "meta"})


def _assembled(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    state: Mapping[str, Tensor],
    like: PreTrainedModel,
    seed: int,
    device_map: dict[str, str] | None,
) -> PreTrainedModel:
    # a learngene runs whatever attention its skeletons have
    attention = like.config._attn_implementation if isinstance(like.config, type(config)) else None
    with seeded(seed), quiet():
        model = model_class.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            dtype=like.dtype,
            attn_implementation=attention,
            device_map=device_map,
        )
    for name, parameter in model.named_parameters():  # a few classes fix the dtype of a parameter in their constructor
        if name in state and parameter.dtype != state[name].dtype:
            parameter.data = state[name]
    model.name_or_path = model.config._name_or_path = like.name_or_path or ""
    # by default transformers would save the model under the names of the tensors it was just given
    vars(model).pop("_weight_conversions", None)
    return model


def cast_to(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model itself, in another dtype; its config and those inside of it say so, for a backbone is built as its own says."""
    nn.Module.to(model, dtype=dtype)
    for config in (model.config, *nested_configs(model.config).values()):
        config.dtype = dtype
    return model


def drawn(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, anatomy: Anatomy, names: Collection[str], seed: int
) -> dict[str, Tensor]:
    """Freshly initialised tensors of `model_class(config)`, by name.

    `from_pretrained` builds on `meta` and then runs the family's initialisation, which leaves what only the constructor
    sets (the zeros of Longformer's decoder bias) as whatever memory held. So a model is built in full here; with one
    layer, if nothing inside a layer is asked for.
    """
    if not names:
        return {}
    with seeded(seed), quiet():
        model = _built(model_class, config, anatomy, names)
    tensors = dict(model.named_parameters(remove_duplicate=False))
    return {name: tensors[name].detach() for name in names}


def _built(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, anatomy: Anatomy, names: Collection[str]
) -> PreTrainedModel:
    depth = anatomy.fields.get("num_hidden_layers")
    if depth is not None and all(anatomy.tensors[n].layer is None for n in names):
        try:
            model = model_class(changed(config, anatomy.section, {depth: 1}, anatomy.per_layer))
            if set(names) <= dict(model.named_parameters(remove_duplicate=False)).keys():
                return model
        except Exception:  # a family that refuses one layer is built whole
            pass
    return model_class(config)
