"""A folder for the checkpoints of a run that nobody is to see."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments

from hf_learngene.disk import new_scratch


@contextmanager
def scratch_folder(args: TrainingArguments) -> Iterator[None]:
    """A folder for the checkpoints of a run, the same one for every process, that goes with it: `args.output_dir` meanwhile.

    Raises:
        OutputError: there is no place for one.
    """
    first, several = args.process_index == 0, args.world_size > 1
    folder = new_scratch("hf_learngene_") if first else ""
    args.output_dir = broadcast_object_list([folder])[0] if several else folder
    try:
        yield
    finally:
        if several:
            PartialState().wait_for_everyone()
        if first:
            shutil.rmtree(folder, ignore_errors=True)


__all__ = ["scratch_folder"]
