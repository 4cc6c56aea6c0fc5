"""One model trained and measured, the same way for every start: plain `transformers.Trainer`."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from hf_learngene.comparing.spec import CompareSpec
from hf_learngene.errors import CalibrationError, TrainingDataError, UnknownOptionError, nearest
from hf_learngene.metrics import IGNORED, accuracy, predicted_classes
from hf_learngene.state import quiet


ACCURACY = "accuracy"
WARMUP_SHARE = 0.1
_KEY = "compared"  # not the metric's own name, which may be one that Trainer uses (loss)
# Arguments that a comparison sets by its own settings, and those that change no result (by how they begin).
_ELSEWHERE = (
    "max_steps", "num_train_epochs", "per_device_", "learning_rate", "seed", "data_seed", "eval_", "batch_eval_metrics",
    "prediction_loss_only", "remove_unused_columns", "metric_for_best_model", "greater_is_better", "load_best_model",
    "auto_find_batch_size", "output_dir", "run_name", "disable_tqdm", "report_to", "project", "logging_", "log_", "save_",
    "hub_", "push_", "dataloader_num_workers", "dataloader_p", "debug", "do_", "trackio_", "ddp_timeout",
)  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """What is measured; larger is better.

    Args:
        name: the key in what `compute` gives.
        compute: as `compute_metrics` of a `Trainer`; without one, accuracy by the largest logit.

    Raises:
        UnknownOptionError: `compute` is needed, or gives no such number.
    """

    name: str = ACCURACY
    compute: Callable[[EvalPrediction], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.compute is None and self.name != ACCURACY:
            raise UnknownOptionError(
                f"metric={self.name!r} needs compute_metrics, a function that gives it; without one there is {ACCURACY!r}."
                f"{nearest(self.name, [ACCURACY])}"
            )

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        found = self.compute(prediction) if self.compute is not None else {ACCURACY: _label_accuracy(prediction)}
        if self.name not in found:
            names = [str(n) for n in found]
            raise UnknownOptionError(
                f"compute_metrics gives {', '.join(names) or 'nothing'}; metric was {self.name!r}.{nearest(self.name, names)}"
            )
        try:
            return {_KEY: float(found[self.name])}
        except (TypeError, ValueError) as error:
            raise UnknownOptionError(
                f"The metric {self.name!r} is to be one number; compute_metrics gave {found[self.name]!r}."
            ) from error


def _label_accuracy(prediction: EvalPrediction) -> float:
    """The share of labels that are met, of those that count.

    Raises:
        TrainingDataError: the labels are not one class each.
    """
    found, labels = prediction.predictions, prediction.label_ids
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iub" or labels.shape != np.shape(found):
        raise TrainingDataError(
            "Accuracy is of labels that are one class each, whole numbers in a column 'labels'. For others, give "
            "compute_metrics, and the metric's name."
        )
    return accuracy(found, labels, ignored=IGNORED)


def base_arguments(given: TrainingArguments | None, spec: CompareSpec, output_dir: Path, plain_columns: bool) -> Any:
    """Arguments of every training; what a comparison sets itself stands above those given.

    Raises:
        UnknownOptionError: `given` is something else.
    """
    if given is not None and not isinstance(given, TrainingArguments):
        raise UnknownOptionError(f"args is a TrainingArguments; it was a {type(given).__name__}.")
    base = given if given is not None else TrainingArguments(str(output_dir))
    return dataclasses.replace(
        base,
        output_dir=str(output_dir),
        max_steps=spec.steps,
        per_device_train_batch_size=spec.batch_size,
        per_device_eval_batch_size=max(spec.batch_size, base.per_device_eval_batch_size),
        warmup_steps=base.warmup_steps or math.ceil(spec.steps * WARMUP_SHARE),
        eval_strategy="steps",
        eval_steps=spec.eval_steps,
        eval_on_start=True,
        eval_delay=0,
        prediction_loss_only=False,
        batch_eval_metrics=False,
        auto_find_batch_size=False,  # a model that needs smaller batches would be trained otherwise
        save_strategy="no",
        load_best_model_at_end=False,
        logging_strategy="no",
        report_to="none",
        push_to_hub=False,
        disable_tqdm=True,
        # pinning is for accelerators, and warns where there is none
        dataloader_pin_memory=base.dataloader_pin_memory and base.device.type not in ("cpu", "mps"),
        # a transform makes the model's columns from others, which must not be taken away
        remove_unused_columns=base.remove_unused_columns and plain_columns,
    )


def described(arguments: TrainingArguments) -> dict[str, Any]:
    """The arguments that differ from transformers' defaults, and that no other setting stands for."""
    usual, own = TrainingArguments("usual").to_dict(), arguments.to_dict()
    return {k: own[k] for k, v in usual.items() if own[k] != v and not k.startswith(_ELSEWHERE)}


def has_plain_columns(dataset: Any) -> bool:
    """Whether the columns of a data set are what the model gets."""
    return isinstance(dataset, datasets.Dataset) and dataset.format["type"] != "custom"


def sample(dataset: Any, count: int, seed: int) -> list[Any]:
    """Examples drawn from a data set, in memory: read several times, and the same each time.

    Raises:
        CalibrationError: the data set is a stream.

    Example:
        >>> len(sample(range(100), 10, seed=0)), sample([3], 10, seed=0)
        (10, [3])
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise CalibrationError(
            "train_dataset is a stream, so that no calibration examples can be drawn from it: give calibration=, a few "
            "hundred of them."
        )
    places = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count]
    return [dataset[i] for i in places.tolist()]


class _Watch(TrainerCallback):
    """Keeps what was measured at each step."""

    def __init__(self, told: Callable[[int, float], None]) -> None:
        self.curve: dict[int, float] = {}
        self.told = told

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        value = _measured(metrics)
        self.curve[int(state.global_step)] = value
        self.told(int(state.global_step), value)


@dataclass(frozen=True)
class Task:
    """What is the same for every job: the data, the metric and the arguments."""

    train_dataset: Any
    eval_dataset: Any
    metric: Metric
    arguments: TrainingArguments
    data_collator: Any = None
    processing_class: Any = None

    def measure(self, model: PreTrainedModel) -> float:
        """The metric of a model as it is."""
        with quiet():
            return _measured(self._trainer(model, self.arguments).evaluate())

    def train(
        self, model: PreTrainedModel, seed: int, learning_rate: float, told: Callable[[int, float], None]
    ) -> dict[int, float]:
        """Trains a model, in place.

        Args:
            model: the model.
            seed: decides the order of the examples, and what training draws.
            learning_rate: at its peak.
            told: called with the step and the metric whenever it is measured.

        Returns:
            The metric by step.
        """
        watch = _Watch(told)
        arguments = dataclasses.replace(self.arguments, seed=seed, data_seed=seed, learning_rate=learning_rate)
        with quiet():
            trainer = self._trainer(model, arguments)
            trainer.add_callback(watch)
            trainer.train()
        del trainer
        if arguments.device.type != "cpu":
            gc.collect()  # a trainer refers to itself, and keeps its model on the accelerator until it is found
        return watch.curve

    def _trainer(self, model: PreTrainedModel, arguments: TrainingArguments) -> Trainer:
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=self.train_dataset,
            eval_dataset=self.eval_dataset,
            # one that draws masks goes on drawing: each job gets it as it was
            data_collator=copy.deepcopy(self.data_collator),
            processing_class=self.processing_class,
            compute_metrics=self.metric,
            preprocess_logits_for_metrics=predicted_classes if self.metric.compute is None else None,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer


def _measured(metrics: Mapping[str, Any]) -> float:
    if f"eval_{_KEY}" not in metrics:
        raise TrainingDataError("eval_dataset holds no labels that the model takes, so nothing can be measured on it.")
    return float(metrics[f"eval_{_KEY}"])
