"""The teacher's logits on disk, computed once: later epochs do not pay for the teacher."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
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
from hf_learngene.training.resuming import write_json
from hf_learngene.training.teacher import Teacher


INDEX = "learngene_index"
FIRST = 8  # examples of the batch that a collator is known by


class Indexed(Dataset):
    """A data set whose examples hold their place in it, as the column `learngene_index`."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], INDEX: index}


class TeacherCache:
    """One row of logits for each training example, in a file of the output folder.

    The file is only used again for the same teacher, the same data, made into batches in the same way, and the same
    normalisation: its name holds a digest of all of them. It is filled in order, under another name until it is whole, and
    goes on where it stopped.

    Args:
        folder (`str` or `os.PathLike`): where the file goes.
        teacher (`Teacher`): whose logits are kept.
        dataset: the training data, with a length and places.
        collate (`Callable`): makes a batch of examples, as in training.

    Raises:
        TeacherError: data without places, or a batch that is another each time it is made.
    """

    def __init__(
        self, folder: str | os.PathLike[str], teacher: Teacher, dataset: Any, collate: Callable[[list[Any]], Any]
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TeacherError(
                "cache_teacher needs a data set with a length; a stream has no places to keep logits for."
            )
        self.length = len(dataset)
        self.indexed = Indexed(dataset)
        self.collate = collate
        parts = teacher.config.to_json_string(), teacher.model.state_dict(), teacher.statistics
        key = digest.of_values(*parts, digest.of_data(dataset), self._first_batch())[:16]
        self.path = Path(folder) / f"teacher_logits_{key}"
        self.rows: np.memmap | None = None

    def _first_batch(self) -> str:
        """A digest of what data set and collator make of the first examples: it tells one collator from another."""
        first = range(min(FIRST, self.length))
        made, again = (digest.of_values(self.collate([self.indexed[i] for i in first])) for _ in range(2))
        if made != again:
            raise TeacherError(
                "cache_teacher keeps what the teacher says of each example once, and here the same examples make another batch "
                "each time: the data set or the data_collator draws random numbers. Turn cache_teacher off, or the randomness."
            )
        return made

    def fill(self, trainer: Trainer, teacher: Teacher, batch_size: int) -> None:
        """Computes the rows that are missing: the main process does, and the others wait for it."""
        if trainer.accelerator.is_main_process:
            self._fill(trainer, teacher, batch_size)
        trainer.accelerator.wait_for_everyone()
        self.rows = np.load(self.path.with_suffix(".npy"), mmap_mode="r")

    def _fill(self, trainer: Trainer, teacher: Teacher, batch_size: int) -> None:
        complete, partial = self.path.with_suffix(".npy"), self.path.with_suffix(".partial.npy")
        if complete.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        progress = self.path.with_suffix(".json")
        rows, done = _begun(partial, progress, self.length)
        for start in tqdm(range(done, self.length, batch_size), desc="teacher", disable=trainer.args.disable_tqdm):
            stop = min(start + batch_size, self.length)
            batch = trainer._prepare_inputs(self.collate([self.indexed[i] for i in range(start, stop)]))
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
                write_json(progress, {"rows": stop})
        if rows is not None:
            rows.flush()
        os.replace(partial, complete)
        progress.unlink(missing_ok=True)

    def __getitem__(self, index: Tensor) -> Tensor:
        """The teacher's logits of the examples at `index`, (examples, classes)."""
        rows = cast(np.memmap, self.rows)
        return torch.from_numpy(np.array(rows[index.cpu().numpy()])).to(index.device)


def _begun(partial: Path, progress: Path, length: int) -> tuple[np.memmap | None, int]:
    """Rows of a run that was interrupted, and how many of them are filled; what is not sure is begun anew."""
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
