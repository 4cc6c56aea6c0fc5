"""`LearngeneTrainer`: transformers' Trainer with a teacher."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import find_labels

from hf_learngene.anatomy.stages import stage_fields
from hf_learngene.errors import NonFiniteLossError, TeacherError, UnknownOptionError, UnsupportedSourceError
from hf_learngene.training.arguments import LearngeneTrainingArguments
from hf_learngene.training.cache import INDEX, TeacherCache
from hf_learngene.training.checkpoints import CheckpointSafeTrainer
from hf_learngene.training.data import check_columns
from hf_learngene.training.matching import Attended, Projections, ReduceProjections, width_of
from hf_learngene.training.objective import Objective, check_smoothing, items_of
from hf_learngene.training.resuming import check_configuration, last_whole_checkpoint
from hf_learngene.training.teacher import Teacher, check_label_space, columns_of


PROJECTIONS = "projections.safetensors"


@runtime_checkable
class Made(Protocol):
    """A student whose weights are made for each pass, of parameters of its own: a learngene, a learned growth."""

    base_class: type[PreTrainedModel]

    def target(self) -> Any: ...

    def skeleton(self, target: Any) -> PreTrainedModel: ...


@runtime_checkable
class Elastic(Made, Protocol):
    """A student that is many models at once: a learngene."""

    def sample_target(
        self, generator: torch.Generator, depths: tuple[int | None, int | None], widths: list[int] | None
    ) -> Any: ...

    def check_samples(self, depths: tuple[int | None, int | None], widths: list[int] | None) -> None: ...


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
        InvalidSizeError: sandwich training of depths or widths that the student cannot make.
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
    # whether labels say how good the student is where there are any, or the teacher
    judged_by_labels = True

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
        if isinstance(model, Made) and args.n_gpu > 1:
            raise UnknownOptionError(
                f"This process sees {args.n_gpu} GPUs, over which the Trainer copies a model by nn.DataParallel. Weights that "
                "are made for each pass cannot be copied so. Start a process for each GPU (`accelerate launch` or `torchrun "
                f"--nproc_per_node {args.n_gpu}`), or show it one (CUDA_VISIBLE_DEVICES=0)."
            )
        super().__init__(model=model, args=args, **kwargs)
        self.student: PreTrainedModel = self.accelerator.unwrap_model(self.model)
        if not isinstance(self.student, PreTrainedModel):
            raise UnsupportedSourceError(
                f"The student is a transformers model; it was a {type(self.student).__name__}."
            )
        self.student_class = self.student.base_class if isinstance(self.student, Made) else type(self.student)
        self.student_config = getattr(self.student, "base", self.student.config)
        self.student_columns = _columns(self.student, self.student_class)
        # every loss here is divided by the items of the whole accumulated batch
        self.model_accepts_loss_kwargs = True
        if args.label_names is None:
            self.label_names = find_labels(self.student_class)
        if args.label_smoothing_factor:
            check_smoothing(args.label_smoothing_factor, self.label_names, self.student_class, self.student_config)
        if args.sandwich_weight:
            if not isinstance(self.student, Elastic):
                raise UnknownOptionError(
                    "sandwich_weight trains other descendants of a learngene; this student is one model. A dense student that "
                    "drops layers is SwsConfig(num_stages=num_hidden_layers)."
                )
            self.student.check_samples(self._depths, args.sandwich_widths)
        self.teacher: Teacher | None = None
        self.projections: Projections | None = None
        self.attended: tuple[Attended, Attended] | None = None
        self.cache: TeacherCache | None = None
        if teacher is not None:
            self._add_teacher(teacher, teacher_processing_class)
        elif args.cache_teacher:
            raise TeacherError("cache_teacher needs a teacher.")
        self.objective: Objective = Objective(
            args,
            self.label_names,
            self.label_smoother,
            teacher is not None,
            self.projections,
            several=self.student_config.problem_type == "multi_label_classification",
        )

    # ---- the teacher

    def _add_teacher(self, model: Any, processing_class: Any) -> None:
        args = self.args
        self.teacher = Teacher(model, processing_class, self.processing_class)
        if args.distillation in ("soft", "hard"):
            check_label_space(
                self.student_config,
                self.teacher.config,
                (self.student_class.__name__, type(self.teacher.model).__name__),
            )
        self.teacher.wrapped = self.accelerator.prepare_model(self.teacher.model, evaluation_mode=True)
        if not (args.needs_hidden_states or args.relations_weight):
            return  # logits have no width, and of some hierarchies (SegFormer) no field says one
        if args.hidden_states_weight and any(map(stage_fields, (self.student_config, self.teacher.config))):
            raise UnknownOptionError(
                "hidden_states_weight compares layers of one width, and the stages of a hierarchy have one each: leave it out, "
                "or use distillation='features', which compares what the last stage gives."
            )
        mine, theirs = (width_of(c) for c in (self.student_config, self.teacher.config))
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
            self.add_callback(ReduceProjections(self.projections, self.accelerator))
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
        """Keeps every column that student or teacher takes: a teacher must not lose its token types."""
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
        if not training and labelled and self.judged_by_labels:
            outputs = model(**mine)
            loss = self.objective.of_labels(outputs, inputs)
            return (loss, outputs) if return_outputs else loss
        args = self.args
        if self.teacher is not None and args.alpha == 1 and (training or not self.judged_by_labels):
            mine = {k: v for k, v in mine.items() if k not in self.label_names}
        hidden = self.teacher is not None and args.needs_hidden_states
        if training and args.sandwich_weight:
            mine["also" if args.auxiliary_weight else "instead"] = self._other_target()
        if hidden:
            mine["output_hidden_states"] = True
        with self._watching():
            theirs = self._ask_teacher(inputs, index)
            outputs = model(**mine)
        own, small = outputs, None
        if "instead" in mine:
            own, small = None, outputs
        elif "also" in mine:
            own, small = outputs
            outputs = own
        items = items_of(
            inputs.get("labels"), len(next(v for v in mine.values() if isinstance(v, Tensor))), args.device
        )
        total = torch.zeros((), device=args.device)
        if own is not None:
            total = self.objective.total(own, theirs, inputs, items)
        if args.relations_weight and self.teacher is not None and self.attended is not None:
            total = total + args.relations_weight * self.objective.of_relations(self.attended, inputs, items)
        if small is not None:
            beside = self.objective.total(small, theirs, inputs, items, deep=False)
            total = args.auxiliary_weight * total + args.sandwich_weight * beside
        counted = num_items_in_batch if num_items_in_batch is not None else items.sum()
        loss = total / (counted.clamp_min(1) if isinstance(counted, Tensor) else max(1, counted))
        if num_items_in_batch is not None and args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        if training and not bool(torch.isfinite(loss)):
            self._stop_at(loss)
        return (loss, outputs) if return_outputs else loss

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
        runs = self.student.skeleton(self.student.target()) if isinstance(self.student, Made) else self.student
        with mine.watching(runs), theirs.watching(self.teacher.model):
            yield

    def _other_target(self) -> Any:
        """A descendant drawn anew for each optimizer step, the same in every process and micro-batch."""
        generator = torch.Generator().manual_seed(hash((self.args.seed, self.state.global_step)) % 2**63)
        return self.student.sample_target(generator, self._depths, self.args.sandwich_widths)  # type: ignore[operator]

    @property
    def _depths(self) -> tuple[int | None, int | None]:
        """Least and largest depth of a drawn descendant: one that is trained alone takes its turn with the auxiliary model."""
        most, anatomy = self.args.sandwich_max_layers, cast(Any, self.student).anatomy
        if most is None and not self.args.auxiliary_weight and not anatomy.num_stages:
            most = anatomy.num_layers
        return self.args.sandwich_min_layers, most

    def _stop_at(self, loss: Tensor) -> None:
        last = last_whole_checkpoint(str(self.args.output_dir))
        kept = f"The last checkpoint is {last.name}" if last else "No checkpoint was written yet"
        raise NonFiniteLossError(
            f"The loss became {float(loss.detach())} at step {self.state.global_step + 1}. {kept}; the weights of this step "
            f"were not used. "
            f"Lower learning_rate ({self.args.learning_rate}), clip harder (max_grad_norm), or train without fp16."
        )

    # ---- training, saving, resuming

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as Trainer does, once data and teacher are known to fit."""
        if self.args.remove_unused_columns:
            check_columns(self.train_dataset, self.student_class.main_input_name)
        if hasattr(self.student.config, "fitted"):
            self.student.config.fitted = True
            self.student.config.calibration = None  # it says how far the learngene is from its ancestry
        if self.args.cache_teacher and self.cache is None:
            self._fill_cache(cast(Teacher, self.teacher))
        return super().train(*args, **kwargs)

    def _fill_cache(self, teacher: Teacher) -> None:
        self._set_signature_columns_if_needed()
        collate = self._get_collator_with_removed_columns(self.data_collator, description="teacher")
        self.cache = TeacherCache(str(self.args.output_dir), teacher, self.train_dataset, collate)
        self.train_dataset = self.cache.indexed
        batch = max(self.args.per_device_eval_batch_size, self.args.per_device_train_batch_size)
        self.cache.fill(self, teacher, batch)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters with weight decay: of a learngene neither scalers nor what makes biases and norms."""
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

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves as Trainer does; a checkpoint holds the projections too."""
        super().save_model(output_dir, _internal_call)
        if self._writing and self.projections is not None and self.args.should_save:
            state = {k: v.contiguous() for k, v in self.projections.state_dict().items()}
            save_file(state, Path(str(output_dir)) / PROJECTIONS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        check_configuration(resume_from_checkpoint, self.student.config)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = Path(resume_from_checkpoint) / PROJECTIONS
        if self.projections is not None and path.exists():
            self.projections.load_state_dict(load_file(path))


def _columns(student: PreTrainedModel, of: type[PreTrainedModel]) -> list[str]:
    return columns_of(of) if isinstance(student, Made) else columns_of(student)  # type: ignore[arg-type]
