"""The route of a resize: which methods carry it out, in which order, and on which examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from hf_learngene.anatomy import Anatomy
from hf_learngene.budget.meter import Meter
from hf_learngene.budget.search import check_within_reach
from hf_learngene.calibration.synthetic import why_not
from hf_learngene.errors import (
    CalibrationError,
    DirectionError,
    LearngeneError,
    UnknownOptionError,
)
from hf_learngene.maps.task import GEOMETRY, WIDTHS, changes, flat_heads, source_axes
from hf_learngene.methods import METHODS, Calibrated, Lemon, Method
from hf_learngene.methods.geometry import Geometry
from hf_learngene.resizing.guard import WITHOUT_EXAMPLES
from hf_learngene.resizing.spec import SYNTHETIC, ResizeSpec
from hf_learngene.vocabulary.rows import KeptTokens, Vocabulary


logger = logging.get_logger(__name__)

Route = list[tuple[Method, dict[str, Any]]]

_RANK = (*WIDTHS, "num_hidden_layers", "mlp_ratio")
_OF_WIDTH = ("hidden_size", "num_attention_heads", "head_dim")
_COUNTED_IN_EXAMPLES = tuple(name for name in GEOMETRY if name != "num_labels")


def examples_origin(spec: ResizeSpec, config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> str | None:
    """Where the examples come from that this resize may look at: `given`, `synthetic`, or None for none at all.

    Raises:
        UnknownOptionError: examples for a method that looks at none.
        CalibrationError: no examples, or made-up ones, for a method that needs others.
        SyntheticExamplesError: made-up ones were asked for, or are needed, and cannot be made.
    """
    method, origin = spec.method, spec.examples
    if method is not None and not method.needs_examples:
        if origin is not None and not spec.chooses_examples:
            takers = [name for name, known in METHODS.items() if known.needs_examples]
            raise UnknownOptionError(
                f"{method.name!r} looks at no examples, so calibration= would do nothing; {', '.join(takers)} do. Leave one "
                "of the two out."
            )
        return None
    if method is not None and method.needs_labels and origin == SYNTHETIC:
        if spec.chooses_examples:
            return None  # a plan needs none, and the resize says what is missing
        raise CalibrationError(
            f"method={method.name!r} looks at labels, and made-up examples have none. Give calibration=, a few hundred examples "
            "with labels, or use method='calibrated', which needs no labels."
        )
    if method is not None and origin is None:
        raise missing_examples(method.name, method.needs_labels)
    error = why_not(config, model_class) if origin == SYNTHETIC else None
    if error is not None and (method is not None or not spec.chooses_examples):
        raise error
    return origin if error is None else None


def missing_examples(name: str, labels: bool) -> CalibrationError:
    """What a method says that needs examples and has none."""
    kind = "with labels" if labels else "without labels, or calibration='synthetic' for made-up ones"
    return CalibrationError(
        f"method={name!r} looks at examples: give calibration=, a few hundred of the model's kind, {kind}."
    )


def route_of(
    spec: ResizeSpec,
    source: Anatomy,
    sizes: Mapping[str, Any],
    *,
    examples: bool,
    waits: bool = False,
    vocabulary: Vocabulary | None = None,
) -> Route:
    """The methods of a resize, each with the sizes that it leads to.

    `auto` grows by `lemon` and shrinks by `calibrated`, without examples by weight selection; mixed, it shrinks first.
    What examples are counted in (ids, positions, pixels) changes behind the methods that look at them.

    Args:
        spec: what is asked for.
        source: the source's anatomy.
        sizes: all of the target's.
        examples: whether there are examples.
        waits: whether a budget is still to be spent, by what is measured on examples.
        vocabulary: which tokens are kept.

    Raises:
        DirectionError: a mixed resize without a size in between.
    """
    if spec.method is not None:
        route: Route = [(spec.method, dict(sizes))]
    elif vocabulary is not None and not waits and not changes(source, sizes, source.sizes.keys() - {"vocab_size"}):
        return [(KeptTokens(), dict(sizes))]
    else:
        route = _auto(spec, source, sizes, examples, waits)
    return _examples_first(route, source, vocabulary)


def _auto(spec: ResizeSpec, source: Anatomy, sizes: Mapping[str, Any], examples: bool, waits: bool) -> Route:
    """Grow by lemon, shrink by calibrated or weight selection; mixed: first shrink what shrinks, then grow the rest."""
    old, new = dict(source.sizes), dict(sizes)
    changed = changes(source, sizes, (*_RANK, *source_axes(source)))
    grows = [n for n, (was, now) in changed.items() if now > was]
    shrinks = [n for n, (was, now) in changed.items() if now < was]
    if source.num_stages:
        grows, shrinks = _by_stage(source, sizes)
    elif flat_heads(new) <= flat_heads(old):  # the same heads cut otherwise: a selection takes them flat
        grows, shrinks = ([n for n in x if n not in ("num_attention_heads", "head_dim")] for x in (grows, shrinks))
        shrinks += ["num_attention_heads"] if flat_heads(new) < flat_heads(old) else []
    if grows and not shrinks:
        return [(Lemon(), dict(sizes))]
    middle = {**sizes, **{n: old[n] for n in grows}}
    fits = (
        source.num_stages
        or source.head_dim_honoured
        or middle["num_attention_heads"] * middle["head_dim"] == middle["hidden_size"]
    )
    if grows and not fits:
        raise DirectionError(
            f"Shrinking {', '.join(shrinks)} and growing {', '.join(grows)} in one go has no size in between that "
            f"`{source.model_type}` can have: the heads must fill the width. Resize in two calls, with sizes of your choice."
        )
    wanted = bool(shrinks or waits or not spec.chooses_examples)
    route = _shrinking(spec, source, middle, calibrated=examples and wanted, shrinks=bool(shrinks))
    return [*route, (Lemon(), dict(sizes))] if grows else route


def _by_stage(source: Anatomy, sizes: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Sizes of a hierarchy that grow and that shrink; heads that keep their size grow and shrink with the width."""
    changed = changes(source, sizes, source.sizes.keys() - {*GEOMETRY, "num_labels"})
    wide = {n.rpartition(".")[2] for n in changed if n.startswith("hidden_size.")}
    alone = {n: pair for n, pair in changed.items() if not (n.startswith("head") and n.rpartition(".")[2] in wide)}
    return [n for n, (was, now) in alone.items() if now > was], [n for n, (was, now) in alone.items() if now < was]


def _shrinking(spec: ResizeSpec, source: Anatomy, sizes: dict[str, Any], *, calibrated: bool, shrinks: bool) -> Route:
    """What `auto` shrinks with: what it chose by itself, it also leaves by itself where that cannot be done."""
    if not calibrated:
        if shrinks and spec.examples == SYNTHETIC:
            logger.warning(
                "The inputs of `%s` cannot be made up, so it is shrunk by weight selection, which needs training. Give examples "
                "(calibration=), and the result works before any.",
                source.model_type,
            )
        return [(WITHOUT_EXAMPLES, sizes)]
    if spec.chooses_examples or source.num_stages:
        try:
            Calibrated().check_stages(source, sizes)
        except LearngeneError as error:
            first = _without_widths(source, sizes)
            if first is not None:
                logger.warning(
                    "Calibrating depth and ffn, and shrinking the widths by weight selection, which needs training: %s",
                    error,
                )
                return [(Calibrated(), first), (WITHOUT_EXAMPLES, sizes)]
            logger.warning("Shrinking by weight selection, which needs training: %s", error)
            return [(WITHOUT_EXAMPLES, sizes)]
    return [(Calibrated(), sizes)]


def _without_widths(source: Anatomy, sizes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The sizes of a hierarchy with the source's widths and heads, where `calibrated` can make those and they are smaller."""
    if not source.num_stages:
        return None
    kept = {n: v for n, v in source.sizes.items() if n.partition(".")[0] in _OF_WIDTH}
    first = {**sizes, **kept}
    if first == source.sizes:
        return None
    try:
        Calibrated().check_stages(source, first)
    except LearngeneError:
        return None
    return first


def _examples_first(route: Route, source: Anatomy, vocabulary: Vocabulary | None) -> Route:
    """The route with what examples are counted in changed by its last method, and behind any that looks at examples."""
    sizes = route[-1][1]
    counted = changes(source, sizes, _COUNTED_IN_EXAMPLES)
    if any(method.needs_examples for method, _ in route) and (counted or vocabulary is not None):
        route = [*route, (KeptTokens() if vocabulary is not None else Geometry(), sizes)]
    elif vocabulary is None:
        return route
    before = {name: old for name, (old, _) in counted.items()}
    return [*((method, {**to, **before}) for method, to in route[:-1]), route[-1]]


def spends_by_error(spec: ResizeSpec, budget: Meter, source: Anatomy, wanted: Mapping[str, Any]) -> bool:
    """Whether a budget waits for examples: on those that a caller names, it goes by the error that each size leaves.

    Left alone, it is spent by rule, which a plan can show before any weight is read.

    Raises:
        InvalidSizeError: a budget below all that is searched.
    """
    names = (n for n in source.sizes if n.partition(".")[0] in _RANK)
    grows = any(new > old for old, new in changes(source, wanted, names).values())
    refits = spec.method is None or spec.method.refits
    if spec.chooses_examples or not budget.shrinks or grows or not refits:
        return False
    check_within_reach(source, budget, wanted)
    return True


__all__ = ["examples_origin", "missing_examples", "route_of", "spends_by_error"]
