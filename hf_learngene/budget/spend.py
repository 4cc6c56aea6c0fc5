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
from hf_learngene.budget.stage_fit import fit_stages
from hf_learngene.budget.width import fit_width
from hf_learngene.errors import InvalidSizeError, LearngeneError


Sizes = Mapping[str, Any]

_IMAGES = ("image_size", "patch_size")


def metered(
    budget: Budget,
    source: Anatomy,
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    given: Sizes,
    whole: Callable[[Sizes], Sizes],
    config_at: Callable[[Sizes], PreTrainedConfig],
) -> Meter:
    """What a budget counts. What is counted over patches is counted at the image and patch size that the caller gave.

    Args:
        budget: as it was asked for.
        source: the source's anatomy.
        config: its config.
        model_class: of source and target.
        given: sizes given by name, canonical.
        whole: sizes -> the same with all that follow from them; refuses those that do not divide.
        config_at: sizes -> the config of a model that has them.

    Raises:
        InvalidSizeError: a budget that is no number.
        UnsupportedFamilyError: a family that cannot be run to count FLOPs or to be timed.
    """
    images = {n: v for n, v in given.items() if n in _IMAGES}
    base, base_config = source, config
    if images:
        base_config = config_at(images)
        base = anatomy_like(source, base_config, model_class)

    def config_of(sizes: Sizes) -> PreTrainedConfig:
        return config_at({**images, **sizes})

    if budget.quantity == "params":
        amount: float = source.num_parameters
        estimate: Callable[[Sizes], float] = parameter_count(base)

        def exact(sizes: Sizes) -> float:
            try:
                return anatomy_like(source, config_of(sizes), model_class).num_parameters
            except LearngeneError:
                raise
            except Exception as error:  # what the family's own constructor raises at a size that it refuses
                said = ", ".join(f"{n}={v}" for n, v in sizes.items())
                raise InvalidSizeError(f"`{source.model_type}` cannot be built with {said}: {error}") from error
    elif budget.quantity == "flops":
        amount, estimate = flops(config, model_class), flop_count(base, base_config, model_class)

        def exact(sizes: Sizes) -> float:
            return flops(config_of(sizes), model_class)
    else:
        watch = stopwatch(config, model_class)
        amount = watch.seconds
        budget.ceiling(amount)  # refused before anything is timed
        work, depth = flop_count(base, base_config, model_class), source.num_layers

        def exact(sizes: Sizes) -> float:
            return watch.time(config_of(sizes)) * MARGIN

        probes = [*_probes(source), *([{}] if images else [])]
        known: list[tuple[Sizes, float]] = [] if images else [({}, amount)]
        known += [(s, exact(s)) for s in (_divided(p, whole) for p in probes) if s is not None]
        estimate = fitted(known, lambda at: (1.0, float(at.get("num_hidden_layers", depth)), float(work(_plain(at)))))
    return Meter(budget, budget.ceiling(amount), amount, lambda at: estimate(_plain(at)), exact)


def spent(
    meter: Meter, source: Anatomy, given: Sizes, whole: Callable[[Sizes], Sizes], refitted: bool = False
) -> dict[str, Any]:
    """The sizes that were given, with those that a budget allows.

    Args:
        meter: the budget.
        source: the source's anatomy.
        given: sizes given by name, canonical; they are kept.
        whole: as `metered` takes it.
        refitted: whether the result is refitted to the source. Then width alone shrinks, as far as that goes, since layers and
            whole heads are missed more; otherwise width and depth keep the source's proportions.

    Raises:
        InvalidSizeError: no size is that small, or that large.
    """
    if source.num_stages:
        return {**fit_stages(source, meter, given, whole), **given}
    narrower = fit_width(source, meter, given, whole) if refitted else None
    return {**(narrower or fit(source, meter, given, whole)), **given}


def _probes(source: Anatomy) -> list[dict[str, Any]]:
    """Sizes that are timed, so that the time of others can be told."""
    width, step, depth = source.sizes["hidden_size"], source.sizes.get("head_dim", 1), source.num_layers
    half, quarter = (max(step, round(width * share / step) * step) for share in (0.5, 0.25))
    shallow = {} if source.shared_layers else {"num_hidden_layers": max(1, depth // 2)}
    return [shallow, {"hidden_size": half}, {"hidden_size": half, **shallow}, {"hidden_size": quarter, **shallow}]


def _plain(sizes: Sizes) -> Sizes:
    """Sizes without those of images: a count of the source is at these already."""
    return {n: v for n, v in sizes.items() if n not in _IMAGES}


def _divided(sizes: Sizes, whole: Callable[[Sizes], Sizes]) -> Sizes | None:
    """All sizes, where these divide."""
    try:
        return whole(sizes)
    except InvalidSizeError:
        return None


__all__ = ["metered", "spent"]
