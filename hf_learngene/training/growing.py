"""A learned growth, trained: its operator makes the larger model's weights for every pass, and the loss is that model's own."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Self

import torch
from datasets import Dataset
from torch import nn
from torch.func import functional_call
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    DefaultDataCollator,
    PreTrainedConfig,
    PreTrainedModel,
    PrinterCallback,
)
from transformers.utils.logging import is_progress_bar_enabled

from hf_learngene.calibration.synthetic.masked_lm import is_masked_lm
from hf_learngene.errors import TrainingDataError, UnknownOptionError, first_line, nearest
from hf_learngene.maps.learned import GrowthOperator
from hf_learngene.state import evaluating, undisturbed
from hf_learngene.training import digest
from hf_learngene.training.arguments import LearngeneTrainingArguments
from hf_learngene.training.data import TrainingData, read_data, training_data
from hf_learngene.training.masking import ResumableMasking
from hf_learngene.training.scratch import scratch_folder
from hf_learngene.training.teacher import columns_of
from hf_learngene.training.trainer import LearngeneTrainer


STEPS = 100
# Of 3e-4, 1e-3, 3e-3 and 1e-2, tried on a ViT of width 32 that grows to 64 on scikit-learn's digits (one seed), all came below
# the start's held-out loss with both methods; 1e-2 was the best for one and the worst for the other.
RATE = 1e-3
LABELLED = ("label", "label_ids")  # what the Trainer's collators call `labels`


class GrowthConfig(PreTrainedConfig):
    """Config of an operator in training: what a checkpoint of another growth differs in.

    Args:
        base_config (`dict`): of the model that it makes.
        growth (`dict`): the method and its options.
    """

    model_type = "learngene_growth"
    base_config: dict[str, Any] | None = None
    growth: dict[str, Any] | None = None


class GrowthStudent(PreTrainedModel):
    """An operator as a student: the parameters are the operator's, and a pass runs the larger model on what it makes.

    Args:
        operator (`GrowthOperator`): makes the weights.
        model (`PreTrainedModel`): of the target's class and size, which runs on them. Its own parameters are not looked at.
        growth (`Mapping`): the method and its options, for checkpoints.
        ties (`Mapping`): other name -> first name of tied parameters.
    """

    config_class = GrowthConfig
    base_model_prefix = ""
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(
        self, operator: GrowthOperator, model: PreTrainedModel, growth: Mapping[str, Any], ties: Mapping[str, str]
    ) -> None:
        kept = {k: v for k, v in model.config.to_dict().items() if k != "learngene"}
        super().__init__(GrowthConfig(base_config=kept, growth=dict(growth)))
        self.operator = operator
        self.base_class, self.base = type(model), model.config
        self.main_input_name = model.main_input_name
        self.ties = dict(ties)
        self._runs = [model]  # in a list, so that its parameters are none of the student's
        self.post_init()

    def target(self) -> None:
        """There is one size only."""

    def skeleton(self, target: Any = None) -> PreTrainedModel:
        """The model that runs on what the operator makes."""
        return self._runs[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The larger model's own forward: its inputs, its output."""
        weights = self.operator.weights()
        tied = {name: weights[first] for name, first in self.ties.items()}
        return functional_call(self.skeleton(), {**weights, **tied}, args, kwargs, tie_weights=False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.skeleton().train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        nn.Module._apply(self.skeleton(), fn)
        return self

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing is drawn: an operator begins where its growth does."""

    @torch.no_grad()
    def materialise(self) -> PreTrainedModel:
        """The plain model, with the weights that the operator makes now."""
        model, weights = self.skeleton(), self.operator.weights()
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)
        return model.eval()


def train_growth(
    operator: GrowthOperator,
    model: PreTrainedModel,
    train_dataset: Any,
    *,
    growth: Mapping[str, Any],
    ties: Mapping[str, str],
    processing_class: Any = None,
    training: LearngeneTrainingArguments | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Trains an operator by the loss of the model that it makes, and gives that model its weights.

    Random state is as it was afterwards.

    Args:
        operator: at its start.
        model: of the target's class and size, as it starts; it is changed in place.
        train_dataset: the model's own columns, or images or texts; a path or an id on the Hub. With labels, unless the model
            gives a loss without (masked LM masks tokens itself).
        growth: the method and its options.
        ties: of the model.
        processing_class: tokenizer or image processor.
        training: arguments, or fields that differ from the defaults; see `growth_arguments`.
        seed: for every random number, unless `training` says another.

    Returns:
        The model in eval mode, and a record of what was done.

    Raises:
        TrainingDataError: no example, none that the model can read, or no loss. Nothing is trained then.
        UnknownOptionError: a field that does not exist.
    """
    args = growth_arguments(training, seed)
    own_folder = not isinstance(training, LearngeneTrainingArguments) and "output_dir" not in (training or {})
    student = GrowthStudent(operator, model, growth, ties)
    with undisturbed(), torch.enable_grad():
        given = read_data(train_dataset) if isinstance(train_dataset, (str, os.PathLike)) else train_dataset
        data = growth_data(given, model, processing_class, args.seed)
        check_loss(model, data)
        if getattr(data.dataset, "format", {}).get("type") == "custom":  # images that are read as they are asked for
            args.remove_unused_columns = False
        with scratch_folder(args) if own_folder else nullcontext():
            trainer = LearngeneTrainer(
                student,
                args,
                train_dataset=data.dataset,
                data_collator=data.collator,
                processing_class=data.processing_class,
            )
            if not is_progress_bar_enabled():
                trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or None)
    record = {
        "data": digest.of_data(given),
        "count": len(data.dataset),
        "steps": trainer.state.global_step,
        "learning_rate": args.learning_rate,
        "parameters": sum(p.numel() for p in operator.parameters()),
    }
    return student.materialise(), record


def growth_arguments(
    given: LearngeneTrainingArguments | Mapping[str, Any] | None, seed: int = 0
) -> LearngeneTrainingArguments:
    """How an operator is trained: arguments as they are, or the defaults with some fields in their place.

    The defaults: 100 steps of 32 examples, a peak rate of 1e-3 after a tenth of warm-up, then a cosine, no weight decay.

    Raises:
        UnknownOptionError: something else, or a field that does not exist.
    """
    if isinstance(given, LearngeneTrainingArguments):
        return copy.copy(given)
    if given is not None and not isinstance(given, Mapping):
        raise UnknownOptionError(
            f"training= takes LearngeneTrainingArguments, or a dict of its fields that differ from the defaults, such as "
            f'{{"max_steps": 200}}; it was a {type(given).__name__}.'
        )
    known = [f.name for f in dataclasses.fields(LearngeneTrainingArguments)]
    unknown = next((name for name in given or {} if name not in known), None)
    if unknown is not None:
        raise UnknownOptionError(
            f"{unknown!r} is no field of LearngeneTrainingArguments.{nearest(str(unknown), known)}"
        )
    steps = int((given or {}).get("max_steps", STEPS))
    defaults: dict[str, Any] = {
        "output_dir": "",
        "max_steps": steps,
        "per_device_train_batch_size": 32,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, steps // 10),
        "weight_decay": 0.0,
        "save_strategy": "no",
        "logging_steps": max(1, steps // 10),
        "report_to": "none",
        "disable_tqdm": not is_progress_bar_enabled(),
        "seed": seed % 2**32,
    }
    return LearngeneTrainingArguments(**{**defaults, **(given or {})})


def growth_data(given: Any, model: PreTrainedModel, processing_class: Any = None, seed: int = 0) -> TrainingData:
    """Examples with the model's own columns and labels, and what makes batches of them.

    Args:
        given: a data set of the model's own columns, or of images or texts.
        model: what is trained.
        processing_class: tokenizer or image processor.
        seed: of the masks of masked-LM training.

    Raises:
        TrainingDataError: no data set, nothing that the model can read, or a processor that is needed and missing.
    """
    if not hasattr(given, "__getitem__") or not hasattr(given, "__len__") or not len(given):
        raise TrainingDataError(
            f"train_dataset= takes a data set that knows its length, or a path; it was a {type(given).__name__}"
            f"{' without examples' if hasattr(given, '__len__') else ''}."
        )
    first = given[0]
    masked = is_masked_lm(type(model))
    if not isinstance(first, Mapping) or model.main_input_name not in first:
        if processing_class is None:
            raise TrainingDataError(
                f"The examples have {', '.join(map(str, first)) if isinstance(first, Mapping) else 'no columns'}, and nothing "
                f"makes {model.main_input_name!r} of them. Give processing_class=, the checkpoint's tokenizer or image processor."
            )
        dataset = given if hasattr(given, "features") else Dataset.from_list(list(given))
        return training_data(dataset, model, processing_class, seed=seed)
    if masked and "labels" not in first:
        if processing_class is None:
            raise TrainingDataError(
                "Masked-LM training masks tokens: give processing_class=, the checkpoint's tokenizer."
            )
        return TrainingData(given, ResumableMasking(processing_class, seed=seed), processing_class)
    collator: Any = DefaultDataCollator()
    if processing_class is not None and model.main_input_name == "input_ids":
        tagged = masked or "TokenClassification" in type(model).__name__
        collator = (DataCollatorForTokenClassification if tagged else DataCollatorWithPadding)(processing_class)
    return TrainingData(given, collator, processing_class)


def check_loss(model: PreTrainedModel, data: TrainingData) -> None:
    """Refuses data on which a model gives no loss: tried on the first examples, before anything is trained.

    The source could not teach in place of labels: at an exact start its outputs are the model's own already.

    Raises:
        TrainingDataError: says what is missing.
    """
    rows = [dict(data.dataset[i]) for i in range(min(2, len(data.dataset)))]
    taken = {*columns_of(model), *LABELLED}
    rows = [{k: v for k, v in row.items() if k in taken} for row in rows]
    try:
        with evaluating(model), torch.no_grad():
            batch = data.collator(rows)
            outputs = model(**{k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()})
    except Exception as error:  # of the collator, or of the model's own code on columns that it cannot read
        raise TrainingDataError(
            f"{type(model).__name__} cannot be trained on these examples: {first_line(error)}. They have "
            f"{', '.join(map(str, data.dataset[0]))}."
        ) from error
    if outputs.get("loss") is None:
        raise TrainingDataError(
            f"{type(model).__name__} gives no loss on these examples ({', '.join(map(str, data.dataset[0]))}), and a growth is "
            f"learned by the model's own. Give examples with labels, load the source with the head that they are for "
            "(AutoModelForMaskedLM needs none), or take method='lemon', which learns nothing. The source cannot stand in for "
            "labels: the growth starts with its outputs."
        )


__all__ = ["GrowthStudent", "check_loss", "growth_arguments", "growth_data", "train_growth"]
