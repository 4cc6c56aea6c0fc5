"""Tensors that start anew, as the family's own constructor draws them."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.config_fields import changed
from hf_learngene.state import quiet, seeded


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
