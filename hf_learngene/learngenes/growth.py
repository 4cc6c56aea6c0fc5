"""From a learngene to a descendant, and from one size to another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.errors import InvalidSizeError
from hf_learngene.hub import provenance
from hf_learngene.learngenes.parts import Target, path_of
from hf_learngene.maps import LayerMap
from hf_learngene.resizing.sizes import check_names, complete
from hf_learngene.resizing.sizes import target_config as config_at
from hf_learngene.state import quiet


if TYPE_CHECKING:
    from hf_learngene.learngenes.base import Learngene

# What a learngene changes itself; everything else is left to `resize`.
OWN = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
       "intermediate_size", "mlp_ratio")  # fmt: skip


def split_sizes(
    learngene: Learngene, sizes: Mapping[str, Any], stages: Sequence[int] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(sizes of the learngene's own axes, the others), by canonical name.

    Raises:
        InvalidSizeError: stages that do not fit the depth.
    """
    wanted = check_names(learngene.anatomy, sizes)
    if stages is not None and wanted.setdefault("num_hidden_layers", len(stages)) != len(stages):
        raise InvalidSizeError(
            f"stages names {len(stages)} layers and num_hidden_layers={wanted['num_hidden_layers']}; leave one of them out."
        )
    own = {n: v for n, v in wanted.items() if n in OWN}
    rest = {n: v for n, v in wanted.items() if n not in OWN}
    return own, rest


def target_config(learngene: Learngene, own: Mapping[str, Any]) -> PreTrainedConfig:
    """The auxiliary model's config at other sizes, with everything derived brought along."""
    anatomy = learngene.anatomy
    sizes = learngene.rounded(complete(anatomy, learngene.base, own), own)
    layers = LayerMap.spread(anatomy.num_layers, sizes["num_hidden_layers"])
    return config_at(learngene.base, anatomy, sizes, layers, {})


def assemble(
    learngene: Learngene, target: Target, state: dict[str, Tensor], own: Mapping[str, Any], seed: int
) -> PreTrainedModel:
    """A plain model from the weights made for it, with its record in the config."""
    with quiet():
        model = learngene.base_class.from_pretrained(
            None, config=target.config, state_dict=state, dtype=learngene.dtype, device_map=None
        )
    config = learngene.config
    source, commit = config._name_or_path, getattr(config, "_commit_hash", None)
    model.name_or_path = model.config._name_or_path = source
    # the name of a folder says nothing to others; its ancestry's, with the commit, does
    unknown = not source or (os.path.isdir(source) and config.ancestry_commit)
    model.config.learngene = provenance.entry(
        source=config.ancestry if unknown else provenance.public_name(source),
        commit=config.ancestry_commit if unknown else commit,
        passes=[(config.learngene_type, config.options())],
        seed=seed,
        sizes=own,
        fresh=[],
        before=learngene.base,
    )
    provenance.seal(model)
    return cast(PreTrainedModel, nn.Module.to(model, learngene.device))


def taken_to(learngene: Learngene, target: Target) -> Learngene:
    """A copy whose auxiliary size is the target: shared parts frozen, scalers of that size to be trained."""
    values = learngene.config.to_dict()
    rows = learngene.scaler_rows(target)
    for template, info in learngene.components.items():
        scale = learngene.depth_scale(info, target)
        rows |= {n: t * scale for n, t in rows.items() if n.rpartition(".")[0] == path_of(template)}
    shapes = {f"shared.{n}": list(p.shape) for n, p in learngene.shared.named_parameters()}
    shapes |= {f"scalers.{n}": list(t.shape) for n, t in rows.items()}
    values |= {"base_config": target.config.to_dict(), "shapes": shapes}
    config = cast(Any, type(learngene.config)).from_dict(values)
    with quiet():
        other = type(learngene)(config)
        nn.Module.to(other, learngene.device, learngene.dtype)
    with torch.no_grad():
        for path in learngene.shared.paths():
            other.shared.take(path).copy_(learngene.shared.take(path)).requires_grad_(False)
        for path, value in rows.items():
            other.scalers.take(path).copy_(value)
        state = learngene.weights(target=target)
        for path in other.outside.paths():
            other.outside.take(path).copy_(state[path]).requires_grad_(not target.same_width)
    return other.train(learngene.training)
