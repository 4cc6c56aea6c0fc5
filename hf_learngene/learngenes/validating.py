"""`learngene.validate(...)`: what descendants of several sizes reach before any fine-tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainingArguments
from transformers.utils.generic import find_labels

from hf_learngene.disk import scratch
from hf_learngene.errors import TrainingDataError
from hf_learngene.learngenes.protocol import LearngeneLike
from hf_learngene.metrics import IGNORED, accuracy, predicted_classes
from hf_learngene.state import undisturbed


_NOT_MEASURED = ("epoch", "eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second",
                 "eval_model_preparation_time")  # fmt: skip


def validated(
    learngene: LearngeneLike,
    eval_dataset: Any,
    sizes: Sequence[Mapping[str, Any]],
    dataset: str,
    split: str,
    given: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The figures of descendants of several sizes; see `Learngene.validate`."""
    fields = {f.name for f in dataclasses.fields(TrainingArguments)}
    options = {k: v for k, v in given.items() if k in fields}
    passed: dict[str, Any] = {k: v for k, v in given.items() if k not in fields}
    if "compute_metrics" not in passed:
        check_one_label(learngene.base_class, options.get("label_names"))
        passed |= {"compute_metrics": label_accuracy, "preprocess_logits_for_metrics": predicted_classes}
    models = [learngene.initialize(**size) for size in sizes]  # all sizes are checked before the first is measured
    found = []
    with undisturbed(), scratch("validate") as folder:
        args = TrainingArguments(**{"output_dir": str(folder), "report_to": "none", **options})
        for size, model in zip(sizes, models, strict=True):
            metrics = Trainer(model, args, eval_dataset=eval_dataset, **passed).evaluate()
            own = {k.removeprefix("eval_"): v for k, v in metrics.items() if k not in _NOT_MEASURED}
            if not own:
                raise TrainingDataError("The examples hold no labels, so there is nothing to measure descendants by.")
            found.append(learngene.add_result(dataset, own, split=split, **size))
    return found


def check_one_label(model_class: type[PreTrainedModel], label_names: Sequence[str] | None = None) -> None:
    """Refuses what `label_accuracy` cannot measure: it takes the first logits, and so the labels of those and no others.

    Raises:
        TrainingDataError: the model takes several labels, such as start and end of an answer.
    """
    names = find_labels(model_class)
    wanted = list(label_names or names)
    if wanted != names[:1]:
        raise TrainingDataError(
            f"The accuracy is that of one label, and {model_class.__name__} is measured by {' and '.join(wanted)}: say with "
            "compute_metrics what counts."
        )


def label_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of labels that are right; masked ones do not count."""
    return {"accuracy": accuracy(prediction.predictions, prediction.label_ids, ignored=IGNORED)}
