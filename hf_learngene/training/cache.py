"""The teacher's logits on disk, computed once: later epochs do not pay for the teacher."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import Trainer

from hf_learngene.errors import TeacherError
from hf_learngene.training.teacher import Teacher


INDEX = "learngene_index"


class Indexed(Dataset):
    """A data set whose examples know their place."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], INDEX: index}


class TeacherCache:
    """One row of logits for each training example, in a file of the output folder.

    The file is only used again for the same teacher and the same data: its name holds a digest of both. It is filled in
    order, and goes on where it stopped.
    """

    def __init__(self, folder: str | os.PathLike[str], teacher: Teacher, dataset: Any) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TeacherError(
                "cache_teacher needs a data set with a length; a stream has no places to keep logits for."
            )
        self.length = len(dataset)
        self.path = Path(folder) / f"teacher_logits_{_digest(teacher, dataset)}"
        self.rows: np.memmap | None = None

    def fill(self, trainer: Trainer, teacher: Teacher, dataset: Indexed, batch_size: int) -> None:
        """Computes what is missing; the main process does, the others wait."""
        if trainer.accelerator.is_main_process:
            self._fill(trainer, teacher, dataset, batch_size)
        trainer.accelerator.wait_for_everyone()
        self.rows = np.load(self.path.with_suffix(".npy"), mmap_mode="r")

    def _fill(self, trainer: Trainer, teacher: Teacher, dataset: Indexed, batch_size: int) -> None:
        complete, partial = self.path.with_suffix(".npy"), self.path.with_suffix(".partial.npy")
        if complete.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        progress = self.path.with_suffix(".json")
        done = json.loads(progress.read_text())["rows"] if partial.exists() and progress.exists() else 0
        rows = np.load(partial, mmap_mode="r+") if done else None
        collate = trainer._get_collator_with_removed_columns(trainer.data_collator, description="teacher")
        for start in tqdm(range(done, self.length, batch_size), desc="teacher", disable=trainer.args.disable_tqdm):
            stop = min(start + batch_size, self.length)
            batch = trainer._prepare_inputs(collate([dataset[i] for i in range(start, stop)]))
            logits = teacher(batch).logits.float().cpu().numpy()
            if logits.ndim != 2:
                raise TeacherError(
                    f"cache_teacher keeps one row of logits for each example; this teacher gives {logits.shape[1:]} for each. "
                    "Turn it off for models with logits for each token."
                )
            if rows is None:
                shape = (self.length, logits.shape[1])
                rows = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
            rows[start:stop] = logits
            if (start // batch_size) % 100 == 99:
                rows.flush()
                progress.write_text(json.dumps({"rows": stop}))
        if rows is not None:
            rows.flush()
        os.replace(partial, complete)
        progress.unlink(missing_ok=True)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Logits of the examples at `index`, (examples, classes)."""
        rows = cast(np.memmap, self.rows)
        return torch.from_numpy(np.array(rows[index.cpu().numpy()])).to(index.device)


def _digest(teacher: Teacher, dataset: Any) -> str:
    """Of the teacher's config and weights (their sums), and of the data set's fingerprint or examples at its ends."""
    parts = [teacher.config.to_json_string(), str(len(dataset))]
    parts += [f"{n}:{float(p.detach().double().sum()):.12e}" for n, p in teacher.model.named_parameters()]
    fingerprint = getattr(dataset, "_fingerprint", None)
    parts.append(fingerprint or "".join(repr(dataset[i]) for i in {0, len(dataset) - 1}))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
