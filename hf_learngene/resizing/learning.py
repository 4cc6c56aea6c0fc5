"""A growth whose maps are learned: asked for with data, and trained once its start is made."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_learngene.errors import TrainingDataError
from hf_learngene.methods import LearnedGrowth
from hf_learngene.resizing.origins import COMPUTED
from hf_learngene.resizing.passes import Pass
from hf_learngene.resizing.plan import Plan
from hf_learngene.resizing.spec import ResizeSpec


logger = logging.get_logger(__name__)


def check_trainable(plan: Plan) -> None:
    """Refuses a plan that learns and has nothing to learn from.

    Raises:
        TrainingDataError: there is no `train_dataset`.
    """
    learner = next((step.method.name for step in plan.passes if step.method.learns), None)
    if learner is not None and plan.spec.train_dataset is None:
        raise TrainingDataError(
            f"method={learner!r} learns how to grow: give train_dataset=, with labels unless the model masks tokens. "
            "method='lemon' grows without data, to the model that this one starts from."
        )


def learned(step: Pass, spec: ResizeSpec, source: PreTrainedModel, start: PreTrainedModel) -> dict[str, Any]:
    """Trains the maps of a pass, and puts what they make into `start`, the model that they begin as.

    Args:
        step: the pass, of a method that learns.
        spec: what was asked for.
        source: the source of the pass.
        start: the target as the recipes make it; changed in place.

    Returns:
        A record of what was done, for `config.learngene`.

    Raises:
        LearngeneError: data that the model cannot be trained on.
    """
    from hf_learngene.training.growing import train_growth  # the Trainer takes long to import

    method, device = cast(LearnedGrowth, step.method), start.device
    parameters = {n: p.detach() for n, p in start.named_parameters()}
    anew = {recipe.name for recipe in step.recipes if not recipe.sources and recipe.origin != COMPUTED}
    fresh = [n for n, p in start.named_parameters() if n in anew and p.requires_grad]
    operator = method.operator(step.task, dict(source.named_parameters(remove_duplicate=False)), parameters, fresh)
    nn.Module.to(operator, device)
    made, record = train_growth(
        operator,
        start,
        spec.train_dataset,
        growth={"method": method.name, **method.options()},
        ties=step.task.target.ties,
        processing_class=spec.processing_class,
        training=spec.training,
        seed=spec.seed,
    )
    nn.Module.to(made, device)
    logger.warning(
        "Learned for %d steps on %s examples how to grow (%s parameters).",
        record["steps"],
        f"{record['count']:,}",
        f"{record['parameters']:,}",
    )
    return record


__all__ = ["check_trainable", "learned"]
