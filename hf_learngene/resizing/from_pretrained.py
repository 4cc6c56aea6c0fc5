"""`from_pretrained_resized`: name a checkpoint and a size."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedModel

from hf_learngene.anatomy.admit import admit_no_learngene
from hf_learngene.errors import CheckpointError, UnknownOptionError, UnsupportedSourceError
from hf_learngene.hub.load import load_config, load_source, native_class, pinned
from hf_learngene.methods import Method
from hf_learngene.resizing.execute import carry_out, check_source, examples_for
from hf_learngene.resizing.plan import Plan, make_plan
from hf_learngene.resizing.spec import split_loading, split_options
from hf_learngene.state import seeded


def plan_checkpoint(
    source: str | os.PathLike,
    model_class: type[PreTrainedModel] | None,
    *,
    method: str | Method,
    params: str | int | float | None,
    seed: int,
    given: dict[str, Any],
    choose_class: Any = None,
    calibrated: bool = False,
    kept_tokens: Any = None,
    pad_to_multiple_of: int | None = None,
) -> tuple[Plan, dict[str, Any], dict[str, Any]]:
    """(plan, loading keywords, label fields) for a checkpoint on disk or on the Hub."""
    rest, loading, labels = split_loading(given)
    if not isinstance(source, (str, os.PathLike)):
        raise UnsupportedSourceError(
            f"A checkpoint is named by a Hub id or a folder; this is a {type(source).__name__}. "
            "`resize(model, ...)` takes a model in memory."
        )
    native = native_class(model_class) if model_class is not None else None  # before anything is fetched
    loading = pinned(source, loading)
    config = load_config(source, loading)
    admit_no_learngene(config)
    cls = model_class or choose_class(config)
    wanted: Any = cls.config_class
    nested = getattr(config, "vision_config", None)
    if not isinstance(config, wanted) and isinstance(nested, wanted):
        config = nested  # one tower of a two-tower checkpoint
    if not isinstance(config, wanted):
        raise CheckpointError(
            f"`{source}` is a `{config.model_type}` checkpoint, and {cls.__name__} loads `{wanted.model_type}` ones."
        )
    rest, labels = _with_labels(rest, labels)
    sizes, options = split_options(rest, method)
    made = make_plan(
        config,
        native or native_class(cls),
        sizes,
        method,
        options,
        params,
        seed,
        calibrated=calibrated,
        kept_tokens=kept_tokens,
        pad_to_multiple_of=pad_to_multiple_of,
    )
    return made, loading, labels


def _with_labels(rest: dict[str, Any], labels: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The number of labels follows from their names, and `id2label` and `label2id` from each other."""
    names = labels.get("id2label")
    if names is None and isinstance(labels.get("label2id"), Mapping):
        names = {index: name for name, index in labels["label2id"].items()}
    if names is None:
        return rest, labels
    if not isinstance(names, Mapping) or sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise UnknownOptionError(f"id2label names the labels 0, 1, ...: {{0: 'cat', 1: 'dog'}}; it was {names!r}.")
    if rest.get("num_labels", len(names)) != len(names):
        raise UnknownOptionError(
            f"num_labels={rest['num_labels']}, but id2label names {len(names)} labels. Leave num_labels out."
        )
    names = {int(index): name for index, name in names.items()}
    return {**rest, "num_labels": len(names)}, {
        "label2id": {n: i for i, n in names.items()},
        **labels,
        "id2label": names,
    }


def load_resized(
    source: str | os.PathLike,
    model_class: type[PreTrainedModel] | None,
    *,
    method: str | Method = "auto",
    params: str | int | float | None = None,
    seed: int = 0,
    choose_class: Any = None,
    calibration: Any = None,
    processing_class: Any = None,
    kept_tokens: Any = None,
    pad_to_multiple_of: int | None = None,
    tell: Callable[[str], Any] | None = None,
    **given: Any,
) -> PreTrainedModel:
    """Plans, loads the checkpoint, and resizes it. See `ResizableMixin.from_pretrained_resized`.

    `tell` is given the table of what each step of a refit left.
    """
    plan, loading, labels = plan_checkpoint(
        source,
        model_class,
        method=method,
        params=params,
        seed=seed,
        given=given,
        choose_class=choose_class,
        calibrated=calibration is not None,
        kept_tokens=kept_tokens,
        pad_to_multiple_of=pad_to_multiple_of,
    )
    with seeded(seed):  # what the checkpoint lacks is drawn when it is loaded
        model, missing = load_source(source, plan.model_class, plan.source_config, plan.source, loading)
    check_source(model)
    if missing:
        plan = _without(plan, missing)
    commit = getattr(loading.get("revision"), "resolved", None)
    examples = examples_for(plan, calibration, model, processing_class)
    resized = carry_out(plan, model, os.fspath(source), commit, own=True, examples=examples, tell=tell)
    for name, value in labels.items():
        setattr(resized.config, name, value)
    if model_class is not None and not isinstance(resized, model_class):
        resized.__class__ = model_class  # the mixin adds methods only, no state
    return resized


def _without(plan: Plan, missing: frozenset[str]) -> Plan:
    """The same plan, taking nothing from tensors that the checkpoint did not hold (a new head, a pooler)."""
    import dataclasses

    from hf_learngene.methods import recipes_for

    first = plan.passes[0]
    again = dataclasses.replace(first, recipes=tuple(recipes_for(first.task, first.method, missing)), missing=missing)
    later = [
        dataclasses.replace(stage, recipes=tuple(recipes_for(stage.task, stage.method, missing)), missing=missing)
        for stage in plan.passes[1:]
    ]
    return dataclasses.replace(plan, passes=(again, *later))
