"""`LearngeneTrainer`: transformers' Trainer with a teacher."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.generic import find_labels

from hf_learngene.errors import (
    NonFiniteLossError,
    ResumeError,
    TeacherError,
    TrainingDataError,
    UnknownOptionError,
    UnsupportedSourceError,
)
from hf_learngene.training import losses
from hf_learngene.training.arguments import LearngeneTrainingArguments
from hf_learngene.training.cache import INDEX, Indexed, TeacherCache
from hf_learngene.training.checkpoints import CheckpointSafeTrainer
from hf_learngene.training.matching import Attended, Projections
from hf_learngene.training.teacher import Teacher, check_label_space, columns_of


LOGITS = ("logits", "prediction_logits", "start_logits", "end_logits")
PROJECTIONS = "projections.safetensors"
# What a config says of the run and not of the model.
_NOT_THE_MODEL = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "fitted", "ancestry", "_commit_hash",
                  "ancestry_commit", "license", "results",
                  "_attn_implementation_autoset", "architectures", "problem_type"}  # fmt: skip


@runtime_checkable
class Elastic(Protocol):
    """A student that is many models at once: a learngene."""

    base_class: type[PreTrainedModel]

    def sample_target(
        self, generator: torch.Generator, depths: tuple[int | None, int | None], widths: list[int] | None
    ) -> Any: ...


class LearngeneTrainer(CheckpointSafeTrainer):
    """Trains a learngene's auxiliary model, a new size's scalers, or an ordinary (resized) model, from a teacher.

    It is transformers' Trainer, so that distribution, mixed precision, accumulation, trackers, checkpoints and resume come with
    it. The loss is `(1 - alpha) * labels + alpha * teacher`, each item (example, or masked token) counting once however the
    batch is split over steps and processes.

    Args:
        model (`PreTrainedModel`): the student.
        args (`LearngeneTrainingArguments`): `TrainingArguments` and how to distil.
        teacher (`PreTrainedModel` or `str`, *optional*): a model of the same label space, or its id. Without one, the labels
            teach.
        teacher_processing_class (*optional*): the teacher's image processor, where its image statistics differ from those of
            `processing_class`, the student's. An id's own is loaded.
        **kwargs: as for `Trainer`: `train_dataset`, `eval_dataset`, `data_collator`, `processing_class`, `compute_metrics`, ...
            but no `compute_loss_func`: the loss is this one's.

    Raises:
        UnknownOptionError: options that do not go together, or do not suit the student.
        TeacherError: the teacher's labels or vocabulary are others, or it lacks what a loss needs.
        TrainingDataError: the data lack the columns of the student.
        NonFiniteLossError: while training; names the step and the last checkpoint.
        ResumeError: a checkpoint of another configuration.

    Example:
        >>> import tempfile
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from hf_learngene import AutoLearngene
        >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2)
        >>> teacher = BertForSequenceClassification(config)
        >>> learngene = AutoLearngene.from_ancestry(teacher, "tleg")
        >>> data = [{"input_ids": [5, 6, 7], "labels": i % 2} for i in range(4)]
        >>> folder = tempfile.mkdtemp()
        >>> args = LearngeneTrainingArguments(folder, max_steps=1, report_to="none", disable_tqdm=True)
        >>> trainer = LearngeneTrainer(learngene, args, teacher=teacher, train_dataset=data)
        >>> trainer.train().global_step
        {...}
        1
    """

    args: LearngeneTrainingArguments

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: LearngeneTrainingArguments | None = None,
        teacher: PreTrainedModel | str | os.PathLike[str] | None = None,
        *,
        teacher_processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else LearngeneTrainingArguments(output_dir="learngene_output")
        if not isinstance(args, LearngeneTrainingArguments):
            raise UnknownOptionError(f"args is a LearngeneTrainingArguments; it was a {type(args).__name__}.")
        if kwargs.get("compute_loss_func") is not None:
            raise UnknownOptionError(
                "compute_loss_func would take the place of the teacher's loss too. Override LearngeneTrainer.compute_loss, or "
                "take CheckpointSafeTrainer, which has no teacher."
            )
        super().__init__(model=model, args=args, **kwargs)
        self.student: PreTrainedModel = self.accelerator.unwrap_model(self.model)
        if not isinstance(self.student, PreTrainedModel):
            raise UnsupportedSourceError(
                f"The student is a transformers model; it was a {type(self.student).__name__}."
            )
        self.student_class = self.student.base_class if isinstance(self.student, Elastic) else type(self.student)
        self.student_config = getattr(self.student, "base", self.student.config)
        self.student_columns = _columns(self.student, self.student_class)
        # every loss here is divided by the items of the whole accumulated batch
        self.model_accepts_loss_kwargs = True
        if args.label_names is None:
            self.label_names = find_labels(self.student_class)
        if args.label_smoothing_factor:
            self._check_smoothing()
        if args.sandwich_weight and not isinstance(self.student, Elastic):
            raise UnknownOptionError(
                "sandwich_weight trains other descendants of a learngene; this student is one model. A dense student that "
                "drops layers is SwsConfig(num_stages=num_hidden_layers)."
            )
        self.teacher: Teacher | None = None
        self.projections: Projections | None = None
        self.cache: TeacherCache | None = None
        if teacher is not None:
            self._add_teacher(teacher, teacher_processing_class)
        elif args.cache_teacher:
            raise TeacherError("cache_teacher needs a teacher.")

    def _check_smoothing(self) -> None:
        """Refuses what transformers' LabelSmoother passes over or breaks on."""
        config = self.student_config
        kind = config.problem_type or ("regression" if config.num_labels == 1 else None)
        if "MaskedLM" in self.student_class.__name__:
            kind = None
        if self.label_names == ["labels"] and kind in (None, "single_label_classification"):
            return
        named = ", ".join(self.label_names) or "no labels"
        raise UnknownOptionError(
            f"label_smoothing_factor={self.args.label_smoothing_factor} is for `labels` that are one class out of several; "
            f"{self.student_class.__name__} takes {named}{f' ({kind})' if kind else ''}. Set it to 0."
        )

    # ---- the teacher

    def _add_teacher(self, model: Any, processor: Any) -> None:
        args = self.args
        self.teacher = Teacher(model, processor, self.processing_class)
        if args.distillation in ("soft", "hard"):
            check_label_space(
                self.student_config,
                self.teacher.config,
                (self.student_class.__name__, type(self.teacher.model).__name__),
            )
        self.teacher.wrapped = self.accelerator.prepare_model(self.teacher.model, evaluation_mode=True)
        mine, theirs = (_width(c) for c in (self.student_config, self.teacher.config))
        others = [w for w in args.sandwich_widths or () if w != mine]
        if args.distillation == "features" and args.sandwich_weight and others:
            raise UnknownOptionError(
                f"distillation='features' compares vectors of the student's width ({mine}); sandwich_widths draws {others[0]} "
                "too. Leave sandwich_widths out, or use distillation='soft'."
            )
        names = [
            n for n, on in (("hidden", args.hidden_states_weight), ("features", args.distillation == "features")) if on
        ]
        if names:
            self.projections = Projections(mine, theirs, names, args.seed).to(args.device)
            self.add_callback(_ReduceProjections(self))
        self.attended: tuple[Attended, Attended] | None = None
        if args.relations_weight:
            anatomy = getattr(self.student, "anatomy", None)
            self.attended = Attended(self.student, -1, anatomy), Attended(self.teacher.model, args.relation_layer)
            for width in (mine, theirs):
                if width % args.relation_heads:
                    raise TeacherError(
                        f"relation_heads={args.relation_heads} does not divide the widths of student and teacher "
                        f"({mine} and {theirs})."
                    )

    def _set_signature_columns_if_needed(self) -> None:
        """The union of what student and teacher take: a teacher must not lose its token types."""
        if self._signature_columns is None:
            theirs = self.teacher.columns if self.teacher is not None else []
            names = [*self.student_columns, *theirs, "label", "label_ids", *self.label_names, INDEX]
            self._signature_columns = list(dict.fromkeys(names))  # type: ignore[assignment]

    # ---- the loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The labels' and the teacher's loss; in evaluation the labels' alone, where there are labels."""
        training = self.student.training
        index = inputs.pop(INDEX, None)
        mine = {k: v for k, v in inputs.items() if k in self.student_columns}
        labelled = any(mine.get(n) is not None for n in self.label_names)
        if self.label_smoother is not None:
            mine.pop("labels", None)  # the model's own loss would be computed for nothing
        if not training and labelled:
            outputs = model(**mine)
            loss = self._labels_loss(outputs, inputs)
            return (loss, outputs) if return_outputs else loss
        args = self.args
        if self.teacher is not None and args.alpha == 1 and training:
            mine = {k: v for k, v in mine.items() if k not in self.label_names}
        hidden = self.teacher is not None and args.needs_hidden_states
        small = None
        if training and args.sandwich_weight:
            mine["also"] = self._other_target()
        if hidden:
            mine["output_hidden_states"] = True
        with self._watching():
            theirs = self._ask_teacher(inputs, index)
            outputs = model(**mine)
        if training and args.sandwich_weight:
            outputs, small = outputs
        items = _items_of(
            inputs.get("labels"), len(next(v for v in mine.values() if isinstance(v, Tensor))), args.device
        )
        total = self._total(outputs, theirs, inputs, items)
        if args.relations_weight and self.teacher is not None and self.attended is not None:
            student, teacher = self.attended
            found = losses.relation_loss(student.three(), teacher.three(), _mask(inputs), args.relation_heads)
            total = total + args.relations_weight * (found * items).sum()
        if small is not None:
            total = total + args.sandwich_weight * self._total(small, theirs, inputs, items, deep=False)
        counted = num_items_in_batch if num_items_in_batch is not None else items.sum()
        loss = total / (counted.clamp_min(1) if isinstance(counted, Tensor) else max(1, counted))
        if num_items_in_batch is not None and args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        if training and not bool(torch.isfinite(loss)):
            self._stop_at(loss)
        return (loss, outputs) if return_outputs else loss

    def _total(self, outputs: Any, theirs: Any, inputs: Mapping[str, Any], items: Tensor, deep: bool = True) -> Tensor:
        """The loss summed over the items of this micro-batch."""
        args = self.args
        alpha = args.alpha if self.teacher is not None and args.distillation != "none" else 0.0
        total = torch.zeros((), device=items.device)
        if not bool(items.any()):
            # no token was masked in this micro-batch, and the model's mean over nothing is no number
            known = next(v for k, v in outputs.items() if k != "loss" and isinstance(v, Tensor))
            return total + 0.0 * known.sum()
        if alpha < 1:
            loss = self._labels_loss(outputs, inputs)
            if loss is None:
                raise TrainingDataError(
                    f"There are no labels ({', '.join(self.label_names)}) in the batch, and alpha={alpha} asks for them. With a "
                    "teacher, alpha=1.0 needs none."
                )
            total = total + (1 - alpha) * loss * items.sum()
        if alpha > 0:
            total = total + alpha * (self._distance(outputs, theirs, inputs) * items).sum()
        if deep and args.hidden_states_weight and self.teacher is not None:
            found = losses.hidden_state_loss(
                outputs.hidden_states, theirs.hidden_states, _mask(inputs), self._projection("hidden")
            )
            total = total + args.hidden_states_weight * (found * items).sum()
        return total

    def _labels_loss(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor | None:
        """The mean over the labelled items: the model's own, or the smoothed one."""
        labels = inputs.get("labels")
        if self.label_smoother is None or labels is None:
            return outputs.get("loss")
        if labels.is_floating_point():
            raise TrainingDataError(
                "label_smoothing_factor is for labels that are one class; these are not whole numbers."
            )
        return self.label_smoother(outputs, labels)

    def _distance(self, outputs: Any, theirs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Of each example to the teacher: (examples,)."""
        args = self.args
        if args.distillation == "features":
            mine, wanted = _last_state(outputs), _last_state(theirs)
            if mine.shape[:2] != wanted.shape[:2]:
                raise TeacherError(
                    f"distillation='features' compares token by token; the student has {mine.shape[1]} tokens, the teacher "
                    f"{wanted.shape[1]}. Give both the same image and patch size."
                )
            return losses.feature_loss(mine, wanted, _mask(inputs), self._projection("features"))
        names = [n for n in LOGITS if outputs.get(n) is not None and theirs.get(n) is not None]
        if not names:
            raise TeacherError(
                f"distillation={args.distillation!r} compares logits; the student gives {', '.join(outputs)}, the teacher "
                f"{', '.join(theirs)}. For a teacher without a head: distillation='features'."
            )
        parts = []
        for name in names:
            mine, owner = losses.at_items(outputs[name], inputs.get("labels"))
            wanted, _ = losses.at_items(theirs[name], inputs.get("labels"))
            if mine.shape != wanted.shape:
                raise TeacherError(
                    f"{name} is {tuple(outputs[name].shape)} for the student and {tuple(theirs[name].shape)} for the teacher."
                )
            if args.distillation == "hard":
                rows = losses.hard_label_loss(mine, wanted)
            else:
                rows = losses.soft_logit_loss(mine, wanted, args.temperature)
            examples = len(outputs[name])
            count = torch.bincount(owner, minlength=examples).clamp_min(1)
            parts.append(torch.zeros(examples, device=rows.device, dtype=rows.dtype).index_add(0, owner, rows) / count)
        return torch.stack(parts).mean(0)

    def _projection(self, name: str) -> nn.Module | None:
        return self.projections.of(name) if self.projections is not None else None

    def _ask_teacher(self, inputs: Mapping[str, Any], index: Tensor | None) -> Any:
        args = self.args
        if self.teacher is None or (
            args.distillation == "none" and not args.hidden_states_weight + args.relations_weight
        ):
            return None
        if self.cache is not None and index is not None and self.student.training:
            return {"logits": self.cache[index]}
        return self.teacher(inputs, args.needs_hidden_states)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if self.teacher is None or self.attended is None:
            yield
            return
        mine, theirs = self.attended
        runs = self.student.skeleton(self.student.target()) if isinstance(self.student, Elastic) else self.student  # type: ignore[operator]
        with mine.watching(runs), theirs.watching(self.teacher.model):
            yield

    def _other_target(self) -> Any:
        """Drawn anew for each optimizer step, the same in every process and micro-batch."""
        generator = torch.Generator().manual_seed(hash((self.args.seed, self.state.global_step)) % 2**63)
        depths = self.args.sandwich_min_layers, self.args.sandwich_max_layers
        return self.student.sample_target(generator, depths, self.args.sandwich_widths)  # type: ignore[operator]

    def _stop_at(self, loss: Tensor) -> None:
        folder = str(self.args.output_dir)
        last = get_last_checkpoint(folder) if os.path.isdir(folder) else None
        kept = f"The last checkpoint is {os.path.basename(last)}" if last else "No checkpoint was written yet"
        raise NonFiniteLossError(
            f"The loss became {float(loss.detach())} at step {self.state.global_step + 1}. {kept}; the weights of this step "
            f"were not used. "
            f"Lower learning_rate ({self.args.learning_rate}), clip harder (max_grad_norm), or train without fp16."
        )

    # ---- training, saving, resuming

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`, once data and teacher are known to fit."""
        self._check_data()
        if hasattr(self.student.config, "fitted"):
            self.student.config.fitted = True
        if self.args.cache_teacher and self.cache is None:
            self._fill_cache(cast(Teacher, self.teacher))
        return super().train(*args, **kwargs)

    def _fill_cache(self, teacher: Teacher) -> None:
        self.cache = TeacherCache(str(self.args.output_dir), teacher, self.train_dataset)
        self.train_dataset = Indexed(self.train_dataset)
        self._set_signature_columns_if_needed()
        batch = max(self.args.per_device_eval_batch_size, self.args.per_device_train_batch_size)
        self.cache.fill(self, teacher, self.train_dataset, batch)

    def _check_data(self) -> None:
        data: Any = self.train_dataset
        if data is None or not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or not len(data):
            return
        example = data[0]
        needed = self.student_class.main_input_name
        if isinstance(example, Mapping) and needed not in example and self.args.remove_unused_columns:
            raise TrainingDataError(
                f"The student reads {needed!r}; the training examples have {', '.join(map(str, example)) or 'no columns'}. "
                + ("Process the images with the image processor (dataset.set_transform)." if needed == "pixel_values"
                   else "Tokenize the texts first (dataset.map)."
                   )
            )  # fmt: skip

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As in Trainer; of a learngene neither scalers nor what makes biases and norms decays."""
        own = getattr(self.student, "decay_parameter_names", None)
        return own() if own is not None else super().get_decay_parameter_names(model)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        made = super().create_optimizer(model)
        if self.projections is not None and len(self.projections.maps) and self.optimizer is not None:
            known = {id(p) for g in self.optimizer.param_groups for p in g["params"]}
            new = [p for p in self.projections.parameters() if id(p) not in known]
            if new:
                self.optimizer.add_param_group({"params": new, "weight_decay": 0.0})
        return made

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.projections is not None and self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            save_file({k: v.contiguous() for k, v in self.projections.state_dict().items()}, folder / PROJECTIONS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._check_checkpoint(Path(resume_from_checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = Path(resume_from_checkpoint) / PROJECTIONS
        if self.projections is not None and path.exists():
            self.projections.load_state_dict(load_file(path))

    def _check_checkpoint(self, folder: Path) -> None:
        path = folder / "config.json"
        if not path.exists():
            return
        saved, own = (_flat(json.loads(t)) for t in (path.read_text(), self.student.config.to_json_string()))
        other = sorted(k for k in saved.keys() | own.keys() if saved.get(k) != own.get(k))
        if other:
            shown = ", ".join(f"{k}: {_short(saved.get(k))} there, {_short(own.get(k))} here" for k in other[:3])
            raise ResumeError(
                f"{folder.name} was written by another configuration ({shown}). Resume with the same model, or train "
                f"into another "
                "output_dir."
            )


class _ReduceProjections(TrainerCallback):
    """Projections are not part of the wrapped model: their gradients are averaged here."""

    def __init__(self, trainer: LearngeneTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        projections = self.trainer.projections
        if projections is not None and self.trainer.accelerator.num_processes > 1:
            for parameter in projections.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.trainer.accelerator.reduce(parameter.grad, "mean")


def _columns(student: PreTrainedModel, of: type[PreTrainedModel]) -> list[str]:
    return columns_of(of) if isinstance(student, Elastic) else columns_of(student)  # type: ignore[arg-type]


def _width(config: Any) -> int:
    for part in (config, getattr(config, "vision_config", None), getattr(config, "text_config", None)):
        width = getattr(part, "hidden_size", None)
        if isinstance(width, int):
            return width
    raise TeacherError(f"`{config.model_type}` has no one width; hidden states and relations cannot be compared.")


def _items_of(labels: Tensor | None, examples: int, device: torch.device) -> Tensor:
    """How many items each example holds: 1, or its labelled tokens. What Trainer counts for `num_items_in_batch`."""
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


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names, without those that are not the model's."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name not in _NOT_THE_MODEL:
            found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:40]}…"
