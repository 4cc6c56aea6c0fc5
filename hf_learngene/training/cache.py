"""The teacher's logits on disk, computed once: later epochs do not pay for the teacher."""

from __future__ import annotations

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
from hf_learngene.training import digest
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

    The file is only used again for the same teacher, the same data and the same normalisation between them: its name holds
    a digest of all three. It is filled in order, under another name until it is whole, and goes on where it stopped.
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
        rows, done = _begun(partial, progress, self.length)
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
                _write(progress, {"rows": stop})
        if rows is not None:
            rows.flush()
        os.replace(partial, complete)
        progress.unlink(missing_ok=True)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Logits of the examples at `index`, (examples, classes)."""
        rows = cast(np.memmap, self.rows)
        return torch.from_numpy(np.array(rows[index.cpu().numpy()])).to(index.device)


def _begun(partial: Path, progress: Path, length: int) -> tuple[np.memmap | None, int]:
    """What a run that was cut off left behind, and how many of its rows are filled. What is not sure is begun anew."""
    try:
        done = int(json.loads(progress.read_text())["rows"])
        np.load(partial, mmap_mode="r")  # fails where the file was cut off; r+ would fill it up with zeros
        rows = np.load(partial, mmap_mode="r+")
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # none, or cut off while it was written
        rows, done = None, 0
    if rows is None or rows.ndim != 2 or len(rows) != length or not 0 < done <= length:
        progress.unlink(missing_ok=True)  # or it would vouch for rows of the new file
        return None, 0
    return rows, done


def _write(path: Path, content: Any) -> None:
    """Whole or not at all."""
    beside = path.with_suffix(".json.tmp")
    beside.write_text(json.dumps(content))
    os.replace(beside, path)


def _digest(teacher: Teacher, dataset: Any) -> str:
    """Of the teacher's config, weights and buffers, of how it normalises images anew, and of the data."""
    parts = teacher.config.to_json_string(), teacher.model.state_dict(), teacher.statistics, digest.of_data(dataset)
    return digest.of_values(*parts)[:16]
