"""One stage of a resize that looks at examples: what to keep, before the recipes; the refit, after them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

from rich.table import Table
from transformers import PreTrainedModel
from transformers.utils.logging import is_progress_bar_enabled

from hf_learngene.errors import CalibrationError
from hf_learngene.methods import Calibrated, PruningMethod, Selection, recipes_for
from hf_learngene.pruning import Deciding, Examples, Fitted, Refit, kept_layers, scored
from hf_learngene.resizing.plan import Pass, make_stage
from hf_learngene.tables import render


def decided(
    stage: Pass, model_class: type[PreTrainedModel], model: PreTrainedModel, examples: Examples | None, seed: int
) -> Pass:
    """The stage with everything chosen that it keeps."""
    method = cast(PruningMethod, stage.method)
    hidden = not is_progress_bar_enabled()
    source, depth = stage.task.source, stage.task.target.num_layers
    fewer = depth < source.num_layers and not source.shared_layers
    if isinstance(method, Calibrated):
        if examples is None:
            raise CalibrationError("method='calibrated' looks at examples: give calibration=.")
        if fewer:
            stage = _with_layers(stage, kept_layers(model, source, depth, examples, hidden), model_class, model, seed)
        choices = Deciding(model, stage.task, examples, method.ridge).run(disable_progress=hidden)
    else:
        scores = scored(method.ranking, model, source, examples, hidden)
        if fewer:
            stage = _with_layers(stage, scores.kept_layers(depth), model_class, model, seed)
        choices = scores.choices(stage.task)
    method = dataclasses.replace(method, choices=choices)
    recipes = tuple(recipes_for(stage.task, method, stage.missing))
    return dataclasses.replace(stage, method=method, recipes=recipes)


def _with_layers(
    stage: Pass, layers: tuple[int, ...], model_class: type[PreTrainedModel], model: PreTrainedModel, seed: int
) -> Pass:
    method = dataclasses.replace(cast(PruningMethod, stage.method), choices=Selection(layers))
    return make_stage(method, model.config, model_class, stage.sizes, seed, stage.missing, stage.vocabulary)


def refitted(stage: Pass, source: PreTrainedModel, made: PreTrainedModel, examples: Examples) -> list[Fitted]:
    """What each step of the refit left; `made` is changed in place."""
    method = cast(Calibrated, stage.method)
    request = stage.task
    run = Refit(source, request.source, made, request.target, cast(Selection, method.choices), examples, method.ridge)
    return run.run(disable_progress=not is_progress_bar_enabled())


def fit_table(fits: Sequence[Fitted]) -> str:
    """A row for each step: the relative error against the source before and after it."""
    table = Table(box=None, pad_edge=False)
    for column in ("refitted", "tokens", "error before", "after"):
        table.add_column(column, justify="left" if column == "refitted" else "right")
    for fit in fits:
        table.add_row(fit.name, f"{fit.tokens:,}", f"{fit.before:.3f}", f"{fit.after:.3f}")
    return render(table)
