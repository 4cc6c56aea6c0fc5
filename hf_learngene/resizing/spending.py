"""A budget as sizes: what it counts of a source, and the width and depth that it allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy, anatomy_like
from hf_learngene.budget.count import parameter_count
from hf_learngene.budget.fit import fit
from hf_learngene.budget.meter import Meter, parse_budget
from hf_learngene.maps import LayerMap
from hf_learngene.resizing.sizes import complete, target_config


def spent(
    params: str | int | float,
    source: Anatomy,
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    sizes: Mapping[str, Any],
) -> dict[str, Any]:
    """The sizes that were given, with a width and a depth in the source's proportions that a budget allows.

    Args:
        params: the budget.
        source: the source's anatomy.
        config: its config.
        model_class: of source and target.
        sizes: those given by name, canonical; they are kept.

    Raises:
        InvalidSizeError: no size is that small, or that large.
    """
    meter = meter_for(params, source, config, model_class, sizes)
    found = fit(source, meter, sizes, lambda s: complete(source, config, s), lambda s: config_at(s, source, config))
    return {**found, **sizes}


def meter_for(
    params: str | int | float,
    source: Anatomy,
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    sizes: Mapping[str, Any],
) -> Meter:
    """What a budget counts. Tables over patches are counted at the image and patch size that the caller gave.

    Raises:
        InvalidSizeError: a budget that is no number.
    """
    ceiling = parse_budget(params, source.num_parameters)
    images = {n: v for n, v in sizes.items() if n in ("image_size", "patch_size")}
    base = source
    if images:
        base = anatomy_like(source, config_at(complete(source, config, images), source, config), model_class)
    count = parameter_count(base)
    return Meter(
        ceiling,
        source.num_parameters,
        lambda at: count({n: v for n, v in at.items() if n not in ("image_size", "patch_size")}),
        lambda made: anatomy_like(source, made, model_class).num_parameters,
    )


def config_at(sizes: Mapping[str, Any], source: Anatomy, config: PreTrainedConfig) -> PreTrainedConfig:
    """The config at given sizes, all of them, whatever the method that makes the weights."""
    depth = sizes["num_hidden_layers"]
    spread = LayerMap.spread if depth <= source.num_layers else LayerMap.insert
    return target_config(config, source, sizes, spread(source.num_layers, depth), {})
