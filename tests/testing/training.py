"""Tiny data, teachers and trainers for the training tests; run as a script, trainings in processes of their own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils.data import Dataset
from transformers import TrainingArguments

from hf_learngene import AutoLearngene, LearngeneTrainer, LearngeneTrainingArguments
from testing.families import tiny_model
from testing.family_sizes import SIZES
from testing.learngenes import OPTIONS


class Images(Dataset):
    """Random images with labels."""

    def __init__(self, count: int = 32, size: int = 12) -> None:
        generator = torch.Generator().manual_seed(1)
        self.pixels = torch.randn(count, 3, size, size, generator=generator)
        self.labels = torch.randint(0, 5, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[index], "labels": int(self.labels[index])}


class Texts(Dataset):
    """Random texts: `task` is `classify` or `mask` (a label at every third token, more of them in later examples)."""

    def __init__(self, count: int = 32, task: str = "classify") -> None:
        generator = torch.Generator().manual_seed(2)
        self.ids = torch.randint(5, SIZES["vocab_size"] - 1, (count, 10), generator=generator)
        self.labels = torch.randint(0, 5, (count,), generator=generator)
        self.task = task

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.ids[index]
        mask = torch.ones_like(ids)
        mask[10 - index % 3 :] = 0
        labels: Any = int(self.labels[index])
        if self.task == "mask":
            labels = torch.full_like(ids, -100)
            labels[: 1 + index % 5] = ids[: 1 + index % 5]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


# what a dropout mask hits depends on how the batch is split
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# keywords of the trainer, not of its arguments
PASSED = ("compute_loss_func", "data_collator", "processing_class", "teacher_processing_class")
DATA = {
    "vit": ("vit", "ViTForImageClassification", Images),
    "bert": ("bert", "BertForSequenceClassification", Texts),
    "mlm": ("bert", "BertForMaskedLM", lambda: Texts(task="mask")),
}


def teacher_of(data: str, seed: int = 7, **extra: Any):
    kind, name, _ = DATA[data]
    return tiny_model(kind, name, {**NO_DROPOUT, **extra}, dtype=torch.float32, seed=seed)


def student_of(data: str, learngene: str):
    """A learngene fitted to a tiny model, or that model (`plain`)."""
    kind, name, _ = DATA[data]
    model = tiny_model(kind, name, NO_DROPOUT, dtype=torch.float32, seed=3)
    return model if learngene == "plain" else AutoLearngene.from_ancestry(model, learngene, **OPTIONS[learngene])


def trainer_of(data: str, learngene: str, output: str | os.PathLike[str], teacher: Any = "default", **arguments: Any):
    """A trainer of four steps of eight examples."""
    defaults: dict[str, Any] = {
        "output_dir": str(output),
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "optim": "adamw_torch",
        "adam_epsilon": 1e-4,  # a key bias has no gradient but rounding, which AdamW would blow up
    }
    extra = {k: arguments.pop(k) for k in ("train_dataset", "eval_dataset", "model", *PASSED) if k in arguments}
    args = LearngeneTrainingArguments(**{**defaults, **arguments})
    model = extra.pop("model", None) or student_of(data, learngene)
    known = teacher_of(data) if isinstance(teacher, str) and teacher == "default" else teacher
    return LearngeneTrainer(model, args, known, **{"train_dataset": DATA[data][2](), **extra})


def plain_trainer(cls: Any, folder: str | os.PathLike[str], **arguments: Any) -> Any:
    """A `Trainer`, or one of its kind, of three steps that each end in a checkpoint."""
    torch.manual_seed(0)
    model = tiny_model("vit", "ViTForImageClassification", NO_DROPOUT, dtype=torch.float32)
    given = {"max_steps": 3, "save_steps": 1, "per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none",
             "disable_tqdm": True, **arguments}  # fmt: skip
    return cls(model, TrainingArguments(str(folder), **given), train_dataset=Images(), eval_dataset=Images())


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@record  # the launcher then tells which process failed first, and why
def main() -> None:
    """`python -m testing.training JOBS`: a JSON list of `[data, learngene, output, arguments]`, see `train`."""
    for data, learngene, output, arguments in json.loads(Path(sys.argv[1]).read_text()):
        train(data, learngene, output, **arguments)
    PartialState().destroy_process_group()  # a process that leaves its peers without a word may be aborted on the way out


def train(data: str, learngene: str, output: str | os.PathLike[str], **given: Any) -> None:
    """Writes losses and weights (of process 0) to `output`."""
    os.makedirs(output, exist_ok=True)
    resume = given.pop("resume", None)
    trainer = trainer_of(data, learngene, output, **given)
    trainer.train(resume_from_checkpoint=resume)
    if trainer.is_world_process_zero():
        Path(output, "losses.json").write_text(json.dumps(losses_of(trainer)))
        torch.save(trainer.student.state_dict(), Path(output, "weights.pt"))


if __name__ == "__main__":
    main()
