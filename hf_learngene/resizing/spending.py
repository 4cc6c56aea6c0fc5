"""A budget as sizes: what it counts of a source, and the width and depth that it allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy, anatomy_like
from hf_learngene.budget.count import parameter_count
from hf_learngene.budget.fit import fit
from hf_learngene.budget.flops import flop_count, flops
from hf_learngene.budget.latency import MARGIN, fitted, stopwatch
from hf_learngene.budget.meter import Budget, Meter
from hf_learngene.errors import InvalidSizeError
from hf_learngene.maps import LayerMap
from hf_learngene.resizing.sizes import complete, target_config


Sizes = Mapping[str, Any]

_IMAGES = ("image_size", "patch_size")


def metered(
    budget: Budget, source: Anatomy, config: PreTrainedConfig, model_class: type[PreTrainedModel], given: Sizes
) -> Meter:
    """What a budget counts. What is counted over patches is counted at the image and patch size that the caller gave.

    Args:
        budget: as it was asked for.
        source: the source's anatomy.
        config: its config.
        model_class: of source and target.
        given: sizes given by name, canonical.

    Raises:
        InvalidSizeError: a budget that is no number.
        UnsupportedFamilyError: a family that cannot be run to count FLOPs or to be timed.
    """
    images = {n: v for n, v in given.items() if n in _IMAGES}
    base, base_config = source, config
    if images:
        base_config = _config_at(images, source, config)
        base = anatomy_like(source, base_config, model_class)

    def config_at(sizes: Sizes) -> PreTrainedConfig:
        return _config_at({**images, **sizes}, source, config)

    if budget.quantity == "params":
        amount: float = source.num_parameters
        estimate: Callable[[Sizes], float] = parameter_count(base)

        def exact(sizes: Sizes) -> float:
            return anatomy_like(source, config_at(sizes), model_class).num_parameters
    elif budget.quantity == "flops":
        amount, estimate = flops(config, model_class), flop_count(base, base_config, model_class)

        def exact(sizes: Sizes) -> float:
            return flops(config_at(sizes), model_class)
    else:
        watch = stopwatch(config, model_class)
        amount = watch.seconds
        budget.ceiling(amount)  # refused before anything is timed
        work, depth = flop_count(base, base_config, model_class), source.num_layers

        def exact(sizes: Sizes) -> float:
            return watch.time(config_at(sizes)) * MARGIN

        probes = [*_probes(source), *([{}] if images else [])]
        known: list[tuple[Sizes, float]] = [] if images else [({}, amount)]
        known += [(s, exact(s)) for s in (_whole(p, source, config) for p in probes) if s is not None]
        estimate = fitted(known, lambda at: (1.0, float(at.get("num_hidden_layers", depth)), float(work(_plain(at)))))
    return Meter(budget, budget.ceiling(amount), amount, lambda at: estimate(_plain(at)), exact)


def spent(meter: Meter, source: Anatomy, config: PreTrainedConfig, given: Sizes) -> dict[str, Any]:
    """The sizes that were given, with a width and a depth in the source's proportions that a budget allows.

    Args:
        meter: the budget.
        source: the source's anatomy.
        config: its config.
        given: sizes given by name, canonical; they are kept.

    Raises:
        InvalidSizeError: no size is that small, or that large.
    """
    return {**fit(source, meter, given, lambda sizes: complete(source, config, sizes)), **given}


def _probes(source: Anatomy) -> list[dict[str, Any]]:
    """Sizes that are timed, so that the time of others can be told."""
    width, step, depth = source.sizes["hidden_size"], source.sizes.get("head_dim", 1), source.num_layers
    half, quarter = (max(step, round(width * share / step) * step) for share in (0.5, 0.25))
    shallow = {} if source.shared_layers else {"num_hidden_layers": max(1, depth // 2)}
    return [shallow, {"hidden_size": half}, {"hidden_size": half, **shallow}, {"hidden_size": quarter, **shallow}]


def _plain(sizes: Sizes) -> Sizes:
    """Sizes without those of images: a count of the source is at these already."""
    return {n: v for n, v in sizes.items() if n not in _IMAGES}


def _whole(sizes: Sizes, source: Anatomy, config: PreTrainedConfig) -> Sizes | None:
    try:
        return complete(source, config, sizes)
    except InvalidSizeError:
        return None


def _config_at(sizes: Sizes, source: Anatomy, config: PreTrainedConfig) -> PreTrainedConfig:
    """The config at given sizes, whatever the method that makes the weights."""
    whole = complete(source, config, sizes)
    depth = whole["num_hidden_layers"]
    spread = LayerMap.spread if depth <= source.num_layers else LayerMap.insert
    return target_config(config, source, whole, spread(source.num_layers, depth), {})


__all__ = ["metered", "spent"]
