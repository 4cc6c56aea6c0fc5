"""`distill`: one step behind a shrink, from the source, without labels."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from transformers import DataCollatorWithPadding, DefaultDataCollator, EarlyStoppingCallback, PreTrainedModel
from transformers.utils import logging

from hf_learngene.calibration.examples import Examples
from hf_learngene.calibration.processing import processor_for
from hf_learngene.calibration.record import COMPARED_ON, GIVEN, SYNTHETIC
from hf_learngene.calibration.synthetic import synthetic_examples
from hf_learngene.calibration.synthetic.masked_lm import is_masked_lm
from hf_learngene.errors import TeacherError, TrainingDataError, UnknownOptionError
from hf_learngene.hub import provenance
from hf_learngene.pruning.agreement import Agreement, agreement
from hf_learngene.training.arguments import LearngeneTrainingArguments
from hf_learngene.training.data import LABEL_NAMES, TrainingData, read_data, training_data
from hf_learngene.training.masking import ResumableMasking
from hf_learngene.training.scratch import scratch_folder
from hf_learngene.training.teacher import LABELS
from hf_learngene.training.trainer import LearngeneTrainer


logger = logging.get_logger(__name__)


# A rate that starts which work already survive: of 1e-5, 3e-5 and 1e-4, tried on a calibrated third of a ViT, only the first came
# nearer to the source (docs/distil.md).
GENTLE = 1e-5
STEEP = 3e-5
STEPS = 300
EVALUATIONS = 6
PATIENCE = 2
# Made-up examples where there are no others, and how many of any are held back: an eighth, and no more than so many.
MADE_UP = 2048
HELD_BACK = 256
FEWEST = 16


def distill(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    train_dataset: Any = SYNTHETIC,
    *,
    processing_class: Any = None,
    input_column: str | None = None,
    args: LearngeneTrainingArguments | None = None,
    pooling: str | None = None,
    **training_arguments: Any,
) -> PreTrainedModel:
    """Trains a resized model to give its source's outputs, from unlabelled examples, for as long as it helps.

    The loss follows from the head: the teacher's logits (classification, of tokens too, masked LM, question answering), its
    number (regression), or its embeddings where there is no head. Labels that the examples have are not looked at. An eighth of
    the examples, at most 256, is held back; the model that is nearest to its source on them is kept, and training stops when it
    comes no nearer. A model that only got worse is given back as it was.

    Args:
        model (`PreTrainedModel`): the smaller model, trained in place.
        teacher (`PreTrainedModel`): its source, or another model with the same outputs.
        train_dataset (`datasets.Dataset` or `str`, *optional*, defaults to `"synthetic"`): images, texts, or the model's own
            columns; a path or an id on the Hub; or `"synthetic"` for made-up examples.
        processing_class (*optional*): the checkpoint's tokenizer or image processor. The model's own where it was loaded from
            a checkpoint.
        input_column (`str`, *optional*): of images or texts; found by its type.
        args (`LearngeneTrainingArguments`, *optional*): in place of the defaults below, as they are; which model is kept, and
            when training stops, is theirs to say then.
        pooling (`str`, *optional*): how a sentence encoder makes one vector (`"mean"`, `"cls"`, `"max"`): agreement is told by
            it.
        **training_arguments: fields of `LearngeneTrainingArguments` that differ from the defaults: 300 steps of 32 examples, a
            peak learning rate of 1e-5 after a tenth of warm-up, then a cosine.

    Returns:
        `PreTrainedModel`: `model`, in evaluation mode. `config.learngene["distillation"]` says what was done.

    Raises:
        UnknownOptionError: `args` beside single fields, or a field that does not exist.
        TeacherError: another head, other labels or another vocabulary than the model's.
        TrainingDataError: too few examples, or none that the model can read.
        SyntheticExamplesError: examples of this kind cannot be made up.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_learngene import resize
        >>> config = ViTConfig(
        ...     hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2, image_size=16, patch_size=8
        ... )
        >>> source = ViTForImageClassification(config).eval()
        >>> small = resize(source, num_hidden_layers=1, method="weight_selection")
        >>> images = [{"pixel_values": torch.randn(3, 16, 16)} for _ in range(32)]
        >>> small = distill(small, source, images, max_steps=2, disable_tqdm=True)
        {...}
        >>> small.config.learngene["distillation"]["count"]
        28
    """
    if args is not None and training_arguments:
        raise UnknownOptionError(
            f"args says everything; {', '.join(sorted(training_arguments))} stand beside it. Put them into it, or leave args out."
        )
    kind = loss_of(model, teacher)
    made_up = isinstance(train_dataset, str) and train_dataset == SYNTHETIC
    if processing_class is None:
        processing_class = processor_for(model) or processor_for(teacher)
    data = prepared(train_dataset, model, processing_class, input_column)
    fitted, held = _split(data.dataset)
    compared = Examples([_shown(held[i]) for i in range(len(held))], model)
    chosen = copy.copy(args) if args is not None else _arguments(kind, training_arguments)
    with scratch_folder(chosen) if args is None else nullcontext():
        if (
            data.dataset is not train_dataset
        ):  # images that are read as they are asked for have no column of the model's yet
            chosen.remove_unused_columns = False
        _warn(model, chosen)
        trainer = _Distiller(
            model,
            chosen,
            teacher=teacher,
            train_dataset=fitted,
            eval_dataset=held,
            data_collator=data.collator,
            processing_class=data.processing_class,
            callbacks=[EarlyStoppingCallback(PATIENCE)] if args is None else None,
        )
        before = agreement(teacher, model.eval(), compared, pooling=pooling)
        trainer.train_nearest() if args is None else trainer.train()
    model = trainer.student.eval()
    after = agreement(teacher, model, compared, pooling=pooling)
    record = {
        "teacher": provenance.public_name(teacher.config._name_or_path) if teacher.config._name_or_path else None,
        "loss": chosen.distillation,
        "examples": SYNTHETIC if made_up else GIVEN,
        "count": len(fitted),
        "steps": trainer.kept_step,
        "learning_rate": chosen.learning_rate,
    }
    _note(model, record, before, after)
    return model


def loss_of(model: PreTrainedModel, teacher: PreTrainedModel) -> str:
    """Which loss takes a model to its teacher: `soft` for logits, `embeddings` where there is no head.

    Raises:
        TeacherError: one has a head and the other none, or another.
    """
    mine, theirs = (type(m).__name__ for m in (model, teacher))
    headed = [m.base_model is not m for m in (model, teacher)]
    if headed[0] != headed[1] or (headed[0] and mine != theirs):
        raise TeacherError(
            f"The model is a {mine} and its teacher a {theirs}: their outputs cannot be compared. Load both by one class, "
            f"such as {theirs if headed[1] else mine}.from_pretrained."
        )
    return "soft" if headed[0] else "embeddings"


def prepared(
    given: Any, model: PreTrainedModel, processing_class: Any = None, input_column: str | None = None
) -> TrainingData:
    """Examples of a model's own columns without labels, and what makes batches of them.

    Raises:
        TrainingDataError: nothing that the model can read, or a processor that is needed and missing.
        SyntheticExamplesError: examples of this kind cannot be made up.
    """
    if isinstance(given, str) and given == SYNTHETIC:
        given = synthetic_examples(model, processing_class, count=MADE_UP)
    elif isinstance(given, (str, os.PathLike)):
        given = read_data(given)
    if not hasattr(given, "__getitem__") or not hasattr(given, "__len__") or not len(given):
        raise TrainingDataError(
            f"distill takes a data set that knows its length, a path, or 'synthetic'; it was a {type(given).__name__}"
            f"{' without examples' if hasattr(given, '__len__') else ''}."
        )
    first = given[0]
    own = isinstance(first, Mapping) and model.main_input_name in first
    if not own:
        if processing_class is None:
            raise TrainingDataError(
                f"The examples have {', '.join(map(str, first)) if isinstance(first, Mapping) else 'no columns'}, and nothing "
                f"makes {model.main_input_name!r} of them. Give processing_class=, the checkpoint's tokenizer or image processor."
            )
        return training_data(_unlabelled(given), model, processing_class, input_column=input_column)
    if is_masked_lm(type(model)):
        if processing_class is None:
            raise TrainingDataError(
                "Masked-LM training masks tokens: give processing_class=, the checkpoint's tokenizer."
            )
        return TrainingData(given, ResumableMasking(processing_class), processing_class)
    text = model.main_input_name == "input_ids" and processing_class is not None
    return TrainingData(
        given, DataCollatorWithPadding(processing_class) if text else DefaultDataCollator(), processing_class
    )


def _unlabelled(dataset: Any) -> Any:
    """A data set without its columns of labels, which are of no use here and may not be the model's."""
    names = [n for n in dataset.column_names if n.lower() in LABEL_NAMES]
    return dataset.remove_columns(names)


def _split(dataset: Any) -> tuple[Any, Any]:
    """What is trained on, and what is held back.

    Raises:
        TrainingDataError: too few to hold any back.
    """
    if len(dataset) < FEWEST:
        raise TrainingDataError(
            f"There are {len(dataset)} examples to distil on; give {FEWEST} or more, or 'synthetic'."
        )
    count = min(HELD_BACK, len(dataset) // 8)
    if hasattr(dataset, "select"):
        mixed = dataset.shuffle(seed=0)
        return mixed.select(range(count, len(mixed))), mixed.select(range(count))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [dataset[i] for i in order]
    return rows[count:], rows[:count]


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in LABELS}


def _arguments(kind: str, given: Mapping[str, Any]) -> LearngeneTrainingArguments:
    known = {f.name for f in dataclasses.fields(LearngeneTrainingArguments)}
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise UnknownOptionError(f"{unknown!r} is no field of LearngeneTrainingArguments.")
    steps = int(given.get("max_steps", STEPS))
    every = max(1, steps // EVALUATIONS)
    defaults: dict[str, Any] = {
        "output_dir": "",
        "max_steps": steps,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 32,
        "learning_rate": GENTLE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, steps // 10),
        "weight_decay": 0.01,
        "alpha": 1.0,
        "distillation": kind,
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_only_model": True,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "logging_steps": every,
        "report_to": "none",
    }
    return LearngeneTrainingArguments(**{**defaults, **given})


def _warn(model: PreTrainedModel, args: LearngeneTrainingArguments) -> None:
    """Says so before a start that works is thrown away."""
    record = getattr(model.config, "learngene", None) or {}
    passes = [one.get("method") for one in record.get("passes", [])]
    if args.learning_rate >= STEEP and ("calibrated" in passes or "lemon" in passes):
        logger.warning(
            "learning_rate=%g is steep for a model that works already, and may undo more than it gains: %g is the default here.",
            args.learning_rate,
            GENTLE,
        )


class _Distiller(LearngeneTrainer):
    """A trainer that is judged by its distance to the teacher, and keeps the nearest model, the start among them."""

    judged_by_labels = False
    kept_step = 0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        done = super().train(*args, **kwargs)
        self.kept_step = self.state.best_global_step or self.state.global_step
        return done

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        """The distance of a batch to the teacher; without labels, the Trainer would look for none."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach().mean(), None, None

    def train_nearest(self) -> None:
        """Trains, and goes back to the start where no step came nearer."""
        start = self.evaluate()["eval_loss"]
        weights = {n: t.detach().to("cpu", copy=True) for n, t in self.student.state_dict().items()}
        self.train()
        best = self.state.best_metric
        if best is not None and best < start:
            return
        self.kept_step = 0
        self.student.load_state_dict(weights)
        logger.warning(
            "No step came nearer to the teacher on held-back examples (%.4g at the start, %.4g at best), so the model is given "
            "back as it was. Try a smaller learning_rate than %g, or more examples.",
            start,
            best if best is not None else float("nan"),
            self.args.learning_rate,
        )


def _note(model: PreTrainedModel, record: dict[str, Any], before: Agreement | None, after: Agreement | None) -> None:
    if after is not None and before is not None:
        record = {**record, "before": before.value, "agreement": dataclasses.asdict(after)}
        if record["steps"]:
            after_on = after.on(COMPARED_ON[record["examples"]])
            logger.warning("Distilled for %d steps: it %s (%.3f before).", record["steps"], after_on, before.value)
    if getattr(model.config, "learngene", None):
        calibration = model.config.learngene.get("calibration")
        if isinstance(calibration, dict):  # of the model as it was
            calibration = {k: v for k, v in calibration.items() if k != "agreement"}
        kept = {**model.config.learngene, "distillation": record}
        model.config.learngene = {**kept, "calibration": calibration} if calibration is not None else kept
        provenance.seal(model)


__all__ = ["distill", "loss_of", "prepared"]
