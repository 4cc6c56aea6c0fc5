"""One stage of a resize that looks at examples: what to keep, before the recipes; the refit, after them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

from rich.table import Table
from transformers import PreTrainedModel
from transformers.utils.logging import is_progress_bar_enabled

from hf_learngene.calibrating import Deciding, Examples, Fitted, Refit, kept_layers
from hf_learngene.methods import Calibrated, Choices, recipes_for
from hf_learngene.resizing.plan import Stage, make_stage
from hf_learngene.resizing.table import render


def decided(
    stage: Stage, model_class: type[PreTrainedModel], model: PreTrainedModel, examples: Examples, seed: int
) -> Stage:
    """The stage with everything chosen that it keeps."""
    method = cast(Calibrated, stage.method)
    quiet = not is_progress_bar_enabled()
    source, depth = stage.request.source, stage.request.target.num_layers
    if depth < source.num_layers and not source.shared_layers:
        layers = kept_layers(model, source, depth, examples, disable_progress=quiet)
        method = dataclasses.replace(method, choices=Choices(layers))
        stage = make_stage(method, model.config, model_class, stage.sizes, seed, stage.missing)
    choices = Deciding(model, stage.request, examples, method.ridge).run(disable_progress=quiet)
    method = dataclasses.replace(method, choices=choices)
    recipes = tuple(recipes_for(stage.request, method, stage.missing))
    return dataclasses.replace(stage, method=method, recipes=recipes)


def refitted(stage: Stage, source: PreTrainedModel, made: PreTrainedModel, examples: Examples) -> list[Fitted]:
    """What each step of the refit left; `made` is changed in place."""
    method = cast(Calibrated, stage.method)
    request = stage.request
    run = Refit(source, request.source, made, request.target, cast(Choices, method.choices), examples, method.ridge)
    return run.run(disable_progress=not is_progress_bar_enabled())


def fit_table(fits: Sequence[Fitted]) -> str:
    """A row for each step: the relative error against the source before and after it."""
    table = Table(box=None, pad_edge=False)
    for column in ("refitted", "tokens", "error before", "after"):
        table.add_column(column, justify="left" if column == "refitted" else "right")
    for fit in fits:
        table.add_row(fit.name, f"{fit.tokens:,}", f"{fit.before:.3f}", f"{fit.after:.3f}")
    return render(table)
