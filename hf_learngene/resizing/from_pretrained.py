"""`from_pretrained_resized`: name a checkpoint and a size."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.admit import admit_no_learngene
from hf_learngene.anatomy.config_fields import native_name
from hf_learngene.calibration.reading import check_there
from hf_learngene.errors import CheckpointError, UnsupportedSourceError, naming
from hf_learngene.hub.load import load_config, load_source, native_class, pinned
from hf_learngene.hub.sentence import holds_width
from hf_learngene.hub.tasks import class_of_checkpoint
from hf_learngene.resizing.calibrating import carry_out
from hf_learngene.resizing.execute import check_source
from hf_learngene.resizing.learning import check_trainable
from hf_learngene.resizing.plan import Plan, make_plan
from hf_learngene.resizing.spec import GIVEN, ResizeSpec
from hf_learngene.state import seeded


ChooseClass = Callable[[PreTrainedConfig], type[PreTrainedModel]]


def plan_checkpoint(
    source: str | os.PathLike,
    spec: ResizeSpec,
    model_class: type[PreTrainedModel] | None = None,
    choose_class: ChooseClass = class_of_checkpoint,
) -> tuple[Plan, Mapping[str, Any]]:
    """The plan for a checkpoint on disk or on the Hub, and the loading keywords with the revision pinned to a commit.

    A budget leaves a sentence encoder its width, unless that is asked for: vectors that are stored stay comparable in size.

    Args:
        source: a Hub id or a folder.
        spec: what is asked for.
        model_class: of the result; default: what `choose_class` says.
        choose_class: config -> class.

    Raises:
        LearngeneError: no such checkpoint, or what is asked for cannot be done.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise UnsupportedSourceError(
            f"A checkpoint is named by a Hub id or a folder; this is a {type(source).__name__}. "
            "`resize(model, ...)` takes a model in memory."
        )
    native = native_class(model_class) if model_class is not None else None  # before anything is fetched
    loading = pinned(source, dict(spec.loading))
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
    cls = native or native_class(cls)
    width = native_name(config, "hidden_size")
    open_ = spec.budget is not None and width is not None and not {width, "hidden_size"} & spec.sizes.keys()
    if open_ and holds_width(source, loading, cls):
        spec = dataclasses.replace(spec, sizes={**spec.sizes, str(width): getattr(config, str(width))})
    with naming(source):
        return make_plan(config, cls, spec), loading


def load_resized(
    source: str | os.PathLike,
    spec: ResizeSpec,
    model_class: type[PreTrainedModel] | None = None,
    choose_class: ChooseClass = class_of_checkpoint,
    tell: Callable[[str], Any] | None = None,
) -> PreTrainedModel:
    """Plans, loads the checkpoint, and resizes it. See `ResizableMixin.from_pretrained_resized`.

    `tell` is given what there is to say at the end (`carry_out`); the other arguments are those of `plan_checkpoint`.
    """
    plan, loading, model = load_planned(source, spec, model_class, choose_class)
    name, commit = os.fspath(source), commit_of(loading)
    resized = carry_out(plan, model, source=name, loading=loading, commit=commit, own=True, tell=tell)
    for name, value in spec.labels.items():
        setattr(resized.config, name, value)
    if model_class is not None and not isinstance(resized, model_class):
        resized.__class__ = model_class  # the mixin adds methods only, no state
    return resized


def load_planned(
    source: str | os.PathLike,
    spec: ResizeSpec,
    model_class: type[PreTrainedModel] | None = None,
    choose_class: ChooseClass = class_of_checkpoint,
) -> tuple[Plan, Mapping[str, Any], PreTrainedModel]:
    """The plan for a checkpoint and the keywords that pin its state, as `plan_checkpoint` gives them, and the source itself."""
    check_examples_there(spec)
    plan, loading = plan_checkpoint(source, spec, model_class, choose_class)
    check_trainable(plan)
    with seeded(spec.seed):  # what the checkpoint lacks is drawn when it is loaded
        model, missing = load_source(source, plan.model_class, plan.source_config, plan.source, loading)
    check_source(model)
    return (plan.without(missing) if missing else plan), loading, model


def check_examples_there(spec: ResizeSpec) -> None:
    """Refuses a path of examples where nothing lies, before anything is looked at for it.

    A method that looks at none is the plan's to refuse.
    """
    looks = spec.method is None or spec.method.needs_examples
    if looks and spec.examples == GIVEN and isinstance(spec.calibration, (str, os.PathLike)):
        check_there(spec.calibration)


def commit_of(loading: Mapping[str, Any]) -> str | None:
    """The state of the Hub that pinned keywords name."""
    return getattr(loading.get("revision"), "resolved", None)
