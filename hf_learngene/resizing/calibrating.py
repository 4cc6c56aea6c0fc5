"""A plan carried out on its calibration examples: the caller's, made-up ones, or the caller's topped up with made-up ones."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from transformers import PreTrainedModel
from transformers.utils import logging

from hf_learngene.calibration.examples import Batches, Examples
from hf_learngene.calibration.held_back import held_back
from hf_learngene.calibration.processing import resolved_processor
from hf_learngene.calibration.record import COMPARED_ON, record_of, told
from hf_learngene.calibration.shares import shared
from hf_learngene.calibration.synthetic import can_synthesise, examples_needed, synthetic_examples
from hf_learngene.errors import (
    CalibrationError,
    InvalidSizeError,
    LearngeneError,
    NoGainError,
    UnsupportedFamilyError,
    first_line,
)
from hf_learngene.hub import provenance
from hf_learngene.hub.sentence import read_modules
from hf_learngene.pruning.agreement import Agreement, agreement
from hf_learngene.pruning.estimate import LONG, seconds_needed, spoken
from hf_learngene.resizing.execute import check_numbers, execute, spend_budget
from hf_learngene.resizing.guard import check_gain
from hf_learngene.resizing.learning import check_trainable
from hf_learngene.resizing.passes import Pass
from hf_learngene.resizing.plan import Plan, make_plan
from hf_learngene.resizing.route import missing_examples
from hf_learngene.resizing.spec import GIVEN, SYNTHETIC, ResizeSpec


logger = logging.get_logger(__name__)


def carry_out(
    plan: Plan,
    model: PreTrainedModel,
    *,
    source: str | None = None,
    loading: Mapping[str, Any] | None = None,
    commit: str | None = None,
    own: bool = False,
    tell: Callable[[str], Any] | None = None,
    follow: Callable[[Pass, PreTrainedModel], Any] | None = None,
) -> PreTrainedModel:
    """The model that a plan describes, sealed, and with a record of what it was calibrated on.

    Args:
        plan: what is to be done.
        model: the source.
        source: its name, for the record.
        loading: keywords that it was read with just now from where the name says; None for a model in memory.
        commit: the state of the Hub that it comes from.
        own: whether nobody else holds the source.
        tell: is given what there is to say at the end: the table of what each step of a refit left, and how good the result is.
            Default: the log is told the second.
        follow: is given each pass as it is run, and its source.

    Raises:
        LearngeneError: what `execute` refuses, or examples that do not fit.
    """
    check_trainable(plan)
    if plan.examples is not None:
        check_numbers(model, source)
    if any(step.method.learns for step in plan.passes):
        reads = resolved_processor(plan.spec.processing_class, model, source if loading is not None else None, loading)
        plan = dataclasses.replace(plan, spec=dataclasses.replace(plan.spec, processing_class=reads))
    with examples_for(plan, model, source if loading is not None else None, loading) as examples:
        fitted: Batches | None = examples
        held: Batches | None = None
        record: dict[str, Any] = {}
        agreed = list[Agreement]()
        if examples is not None:
            if plan.budget is not None:
                plan = spend_budget(plan, model, examples)[0]
            fitted, held = held_back(examples)
            record = record_of(examples)

        modules = read_modules(source, loading) if source is not None and loading is not None else None

        def seen(first: Pass, last: Pass, before: PreTrainedModel, after: PreTrainedModel) -> None:
            if fitted is not None and plan.spec.method is None:
                check_gain(first, last.sizes, before, after, held or fitted)
            if held is None:
                return
            if _starts_anew(plan, model):
                before, after = (cast(PreTrainedModel, one.base_model) for one in (before, after))
            found = agreement(before, after, held, pooling=modules.pooling if modules is not None else None)
            if found is not None:
                agreed[:] = [found]

        try:
            if examples is not None and fitted is not None and any(step.method.refits for step in plan.passes):
                _announce(model, fitted, examples)
            made = execute(
                plan,
                model,
                source=source,
                commit=commit,
                examples=fitted,
                own=own,
                tell=tell,
                seen=seen,
                follow=follow,
            )
        except (CalibrationError, InvalidSizeError, UnsupportedFamilyError) as error:
            if not _gives_way(plan, error):
                raise
            logger.warning("Shrinking by weight selection, which needs training. %s", error)
            record, plan = {}, _without_examples(plan)
            made = execute(plan, model, source=source, commit=commit, own=own)
            made.config.learngene = {
                **made.config.learngene,
                "fallback": {"from": "calibrated", "why": first_line(error)},
            }
        if record:
            if agreed:
                record["agreement"] = dataclasses.asdict(agreed[0])
            made.config.learngene = {**made.config.learngene, "calibration": record}
            if any(step.method.refits for step in plan.passes):
                (tell or logger.warning)(told(record, agreed[0].on(COMPARED_ON[record["examples"]]) if agreed else ""))
    provenance.seal(made)
    return made


def _gives_way(plan: Plan, error: LearngeneError) -> bool:
    """Whether what `auto` chose is left by it: on examples that it made up itself, and on given ones where nothing is gained."""
    chosen = plan.spec.method is None and plan.examples is not None
    return chosen and (plan.spec.chooses_examples or isinstance(error, NoGainError))


def _announce(model: PreTrainedModel, fitted: Batches, examples: Examples) -> None:
    """Says how long it will take, where that is long enough to ask oneself."""
    with shared(fitted) as mine:
        seconds = seconds_needed(model, mine)
    if seconds >= LONG:
        logger.warning(
            "Calibrating on %s examples takes about %s.",
            f"{examples.given_count + examples.made_up_count:,}",
            spoken(seconds),
        )


def _starts_anew(plan: Plan, model: PreTrainedModel) -> bool:
    """Whether a head is new, so that it agrees with nothing."""
    inside = f"{model.base_model_prefix}."
    return "For" in type(model).__name__ and any(not name.startswith(inside) for name in plan.fresh)


def _without_examples(plan: Plan) -> Plan:
    spec = dataclasses.replace(plan.spec, calibration=None)
    return make_plan(plan.source_config, plan.model_class, spec, plan.passes[0].task.missing)


@contextmanager
def examples_for(
    plan: Plan,
    model: PreTrainedModel,
    source: str | os.PathLike[str] | None = None,
    loading: Mapping[str, Any] | None = None,
) -> Iterator[Examples | None]:
    """The calibration examples as the plan's methods need them, while they are needed; None where they need none.

    Args:
        plan: what is to be done.
        model: the source.
        source: the checkpoint that it was read from just now, if it was, for its processor.
        loading: keywords that it was read with.

    Raises:
        CalibrationError: a method needs examples, and there are none, or they do not fit the model.
    """
    spec = plan.spec
    takers = [step.method for step in plan.passes if step.method.needs_examples]
    labels = any(method.needs_labels for method in takers)
    if plan.examples is None or not takers:
        if takers:
            raise missing_examples(plan.method, labels)
        if plan.examples == GIVEN:
            logger.warning("calibration= is not used: %s needs no examples.", plan.method)
        yield None
        return

    # a ranking solves for nothing, so few examples are enough for it, and it looks at those that its caller chose
    top_up = spec.calibration_top_up and any(method.refits for method in takers)
    spec = dataclasses.replace(spec, calibration_top_up=top_up)
    with examples_of(spec, model, source, loading, labels=labels) as examples:
        yield examples


@contextmanager
def examples_of(
    spec: ResizeSpec,
    model: PreTrainedModel,
    source: str | os.PathLike[str] | None = None,
    loading: Mapping[str, Any] | None = None,
    labels: bool = False,
) -> Iterator[Examples]:
    """The calibration examples that a spec names, given or made up, while they are needed.

    Args:
        spec: it names some.
        model: what reads them.
        source: the checkpoint that it was read from just now, if it was, for its processor.
        loading: keywords that it was read with.
        labels: whether labels are handed on.

    Raises:
        CalibrationError: they do not fit the model.
    """

    def processor() -> Any:
        return resolved_processor(spec.processing_class, model, source, loading)

    with Examples(
        None if spec.examples == SYNTHETIC else spec.calibration,
        model,
        spec.processing_class,
        labels=labels,
        calibration_column=spec.calibration_column,
        calibration_size=spec.calibration_size,
        source=source,
        loading=loading,
        more=None if labels else _made_up(spec, model, processor),
        seed=spec.seed,
    ) as examples:
        yield examples


def _made_up(
    spec: ResizeSpec, model: PreTrainedModel, processor: Callable[[], Any]
) -> Callable[[int], Iterable[Any]] | None:
    """What makes up the examples that the given ones leave to be wished for; None where they are to do by themselves."""
    if spec.examples == GIVEN and not (spec.calibration_top_up and can_synthesise(model.config, type(model))):
        return None

    def more(given_tokens: int) -> Iterable[Any]:
        if given_tokens and not examples_needed(model, given_tokens=given_tokens):
            return ()  # no processor is fetched for nothing
        reads = processor()
        count = examples_needed(model, reads, given_tokens=given_tokens)
        return synthetic_examples(model, reads, count=count, seed=spec.seed) if count else ()

    return more
