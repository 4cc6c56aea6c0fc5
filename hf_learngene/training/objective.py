"""The loss of `LearngeneTrainer`: of labels and of a teacher, each item counting once however a batch is split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.calibration.synthetic.masked_lm import is_masked_lm
from hf_learngene.errors import TeacherError, TrainingDataError, UnknownOptionError
from hf_learngene.training import losses
from hf_learngene.training.arguments import LearngeneTrainingArguments
from hf_learngene.training.matching import Attended, Projections


LOGITS = ("logits", "prediction_logits", "start_logits", "end_logits")


class Objective:
    """Sums of the losses over the items of a batch; an item is an example, or a labelled token.

    Args:
        args (`LearngeneTrainingArguments`): weights of the losses.
        label_names (`Sequence[str]`): columns that hold labels.
        label_smoother (`Callable`, *optional*): transformers' `LabelSmoother`.
        taught (`bool`): whether there is a teacher.
        projections (`Projections`, *optional*): from the student's width to the teacher's.
        several (`bool`, *optional*, defaults to `False`): whether an example may have several labels at once.
    """

    def __init__(
        self,
        args: LearngeneTrainingArguments,
        label_names: Sequence[str],
        label_smoother: Callable | None,
        taught: bool,
        projections: Projections | None,
        several: bool = False,
    ) -> None:
        self.args = args
        self.label_names = label_names
        self.label_smoother = label_smoother
        self.taught = taught
        self.projections = projections
        self.several = several

    def total(self, outputs: Any, theirs: Any, inputs: Mapping[str, Any], items: Tensor, deep: bool = True) -> Tensor:
        """The loss summed over the items of a micro-batch.

        Args:
            outputs: of the student.
            theirs: outputs of the teacher, or None.
            inputs (`Mapping`): the micro-batch.
            items (`Tensor`): how many items each example holds, (examples,), see `items_of`.
            deep (`bool`, *optional*, defaults to `True`): with the hidden states of matching layers.
        """
        args = self.args
        alpha = args.alpha if self.taught and args.distillation != "none" else 0.0
        total = torch.zeros((), device=items.device)
        if not bool(items.any()):
            # no token was masked in this micro-batch, and the model's mean over nothing is no number
            known = next(v for k, v in outputs.items() if k != "loss" and isinstance(v, Tensor))
            return total + 0.0 * known.sum()
        if alpha < 1:
            loss = self.of_labels(outputs, inputs)
            if loss is None:
                raise TrainingDataError(
                    f"There are no labels ({', '.join(self.label_names)}) in the batch, and alpha={alpha} asks for them. With a "
                    "teacher, alpha=1.0 needs none."
                )
            total = total + (1 - alpha) * loss * items.sum()
        if alpha > 0:
            total = total + alpha * (self._distance(outputs, theirs, inputs) * items).sum()
        if deep and args.hidden_states_weight and self.taught:
            found = losses.hidden_state_loss(
                outputs.hidden_states, theirs.hidden_states, _mask(inputs), self._projection("hidden")
            )
            total = total + args.hidden_states_weight * (found * items).sum()
        return total

    def of_labels(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor | None:
        """The mean loss over the labelled items: the model's own, or the smoothed one."""
        labels = inputs.get("labels")
        if self.label_smoother is None or labels is None:
            return outputs.get("loss")
        if labels.is_floating_point():
            raise TrainingDataError(
                "label_smoothing_factor is for labels that are one class; these are not whole numbers."
            )
        return self.label_smoother(outputs, labels)

    def of_relations(self, pair: tuple[Attended, Attended], inputs: Mapping[str, Any], items: Tensor) -> Tensor:
        """The distance of the q, k, v relations of one layer of student and teacher, summed over the items."""
        student, teacher = pair
        found = losses.relation_loss(student.three(), teacher.three(), _mask(inputs), self.args.relation_heads)
        return (found * items).sum()

    def _distance(self, outputs: Any, theirs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """The distance of each example to the teacher, (examples,)."""
        args = self.args
        if args.distillation in ("features", "embeddings"):
            mine, wanted = _last_state(outputs), _last_state(theirs)
            if mine.shape[:2] != wanted.shape[:2]:
                raise TeacherError(
                    f"distillation={args.distillation!r} compares token by token; the student has {mine.shape[1]} tokens, the "
                    f"teacher {wanted.shape[1]}. Give both the same image and patch size."
                )
            if args.distillation == "embeddings":
                return losses.embedding_loss(mine, wanted, _mask(inputs))
            return losses.feature_loss(mine, wanted, _mask(inputs), self._projection("features"))
        names = [n for n in LOGITS if outputs.get(n) is not None and theirs.get(n) is not None]
        if not names:
            raise TeacherError(
                f"distillation={args.distillation!r} compares logits; the student gives {', '.join(outputs)}, the teacher "
                f"{', '.join(theirs)}. For a teacher without a head: distillation='features'."
            )
        parts = []
        for name in names:
            labels = inputs.get("labels")
            mine, owner = losses.at_items(outputs[name], labels, _mask(inputs))  # (items, classes), (items,)
            wanted, _ = losses.at_items(theirs[name], labels, _mask(inputs))
            if mine.shape != wanted.shape:
                raise TeacherError(
                    f"{name} is {tuple(outputs[name].shape)} for the student and {tuple(theirs[name].shape)} for the teacher."
                )
            if args.distillation == "hard":
                rows = losses.hard_label_loss(mine, wanted)
            else:
                rows = losses.soft_logit_loss(mine, wanted, args.temperature, self.several)
            examples = len(outputs[name])
            count = torch.bincount(owner, minlength=examples).clamp_min(1)
            parts.append(torch.zeros(examples, device=rows.device, dtype=rows.dtype).index_add(0, owner, rows) / count)
        return torch.stack(parts).mean(0)

    def _projection(self, name: str) -> nn.Module | None:
        return self.projections.of(name) if self.projections is not None else None


def check_smoothing(
    factor: float, label_names: Sequence[str], model: type[PreTrainedModel], config: PreTrainedConfig
) -> None:
    """Refuses what transformers' LabelSmoother passes over or breaks on.

    Raises:
        UnknownOptionError: the labels are not one class out of several.
    """
    kind = config.problem_type or ("regression" if config.num_labels == 1 else None)
    if is_masked_lm(model):
        kind = None
    if list(label_names) == ["labels"] and kind in (None, "single_label_classification"):
        return
    named = ", ".join(label_names) or "no labels"
    raise UnknownOptionError(
        f"label_smoothing_factor={factor} is for `labels` that are one class out of several; "
        f"{model.__name__} takes {named}{f' ({kind})' if kind else ''}. Set it to 0."
    )


def items_of(labels: Tensor | None, examples: int, device: torch.device) -> Tensor:
    """The number of items that each example holds, 1 or its labelled tokens: what Trainer counts for `num_items_in_batch`.

    Example:
        >>> items_of(torch.tensor([[5, -100, 7], [-100, -100, 8]]), 2, torch.device("cpu"))
        tensor([2., 1.])
    """
    if not isinstance(labels, Tensor):
        return torch.ones(examples, device=device)
    counted = labels.ne(-100)
    return counted.reshape(examples, -1).sum(-1).float()


def _mask(inputs: Mapping[str, Any]) -> Tensor | None:
    mask = inputs.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.dim() == 2 else None


def _last_state(outputs: Any) -> Tensor:
    found = outputs.get("last_hidden_state")
    return found if found is not None else outputs["hidden_states"][-1]
