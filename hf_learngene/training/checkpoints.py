"""`CheckpointSafeTrainer`: transformers' Trainer, with checkpoints that are whole or absent and give every weight back."""

from __future__ import annotations

import copy
import functools
import json
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import sort_checkpoints

from hf_learngene.disk import sync_files, write_failure
from hf_learngene.errors import OutputError, ResumeError
from hf_learngene.training.resuming import STATE, check_resumable, checkpoints_of, fault_of, last_whole_checkpoint


logger = logging.getLogger(__name__)
# Below the folder of the run. The Trainer uploads nothing whose name begins so, and takes it for no checkpoint.
PARTIAL = "_partial"


class CheckpointSafeTrainer(Trainer):
    """A `Trainer` whose checkpoints are whole or absent, and read as `from_pretrained` reads.

    Transformers 5.23 saves ViT, DeiT, BEiT, DINOv2, ViT-MAE, ViT-MSN and I-JEPA (not BERT) under their historical
    names, and its Trainer reads them back without renaming: `resume_from_checkpoint` and `load_best_model_at_end` leave
    most weights as they were, and only a line of the log says so (huggingface/transformers#43701). This one reads every
    weight, of its own checkpoints and of those that a plain Trainer wrote. FSDP and DeepSpeed have formats of their own,
    which are read as the Trainer reads them.

    A run that is killed while the Trainer writes a checkpoint leaves half a `checkpoint-N`, which it then fails on. Here
    a checkpoint is written to `_partial` beside it and renamed once every process has done its part;
    `train(resume_from_checkpoint=True)` passes over half ones that a plain Trainer left. It adds no argument, and
    stands before any other trainer: `class Mine(CheckpointSafeTrainer, Seq2SeqTrainer)`.

    Raises:
        ResumeError: the checkpoint lacks weights of the model, or is not whole.
        OutputError: a checkpoint could not be written, or the folder for them not be made.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from transformers import TrainingArguments, ViTConfig, ViTForImageClassification
        >>> config = ViTConfig(hidden_size=8, num_attention_heads=2, intermediate_size=16, num_hidden_layers=1, image_size=32)
        >>> folder = tempfile.mkdtemp()
        >>> args = TrainingArguments(folder, max_steps=2, save_steps=1, report_to="none", disable_tqdm=True)
        >>> images = [{"pixel_values": torch.rand(3, 32, 32), "labels": i % 2} for i in range(8)]
        >>> CheckpointSafeTrainer(ViTForImageClassification(config), args, train_dataset=images).train().global_step
        {...}
        2
        >>> again = CheckpointSafeTrainer(ViTForImageClassification(config), args, train_dataset=images)
        >>> again.train(resume_from_checkpoint=f"{folder}/checkpoint-1").global_step
        {...}
        2
    """

    # what the last reading of a checkpoint left unread: torch's report, missing and unexpected keys
    _unread: Any = None
    # while a checkpoint is being written, it goes below PARTIAL
    _writing = False
    # where this run has put checkpoints, once it has
    _run: Path | None = None

    @functools.wraps(Trainer.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except OSError as error:  # it makes the folder of the run
            folder = getattr(getattr(self, "args", None), "output_dir", None)
            if folder is None or not str(error.filename or "").startswith(folder):
                raise
            raise cast(OutputError, write_failure(error, Path(folder))) from error

    # ---- writing

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, PARTIAL) if self._writing else folder

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._writing:  # an upload reads in the background, from where the checkpoint will stay
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint as Trainer does, but gives it its name only once it is whole."""
        run = Path(self._get_output_dir(trial))
        partial = run / PARTIAL
        final = run / f"checkpoint-{self.state.global_step}"
        written = partial / final.name
        if self.args.should_save:
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        self.accelerator.wait_for_everyone()
        self._writing = True
        try:
            super()._save_checkpoint(model, trial)
            self._note_best(run, final, written)
            self.accelerator.wait_for_everyone()
            self._put(written, final)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            left = "The checkpoints before it are whole: go on from the last of them."
            failure = write_failure(error, final, left=left) if isinstance(error, Exception) else None
            if failure is not None:
                raise failure from error
            raise
        finally:
            self._writing = False
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        self._run = run
        self._rotate()  # the Trainer's own deletion of old ones saw PARTIAL alone

    def _rotate(self) -> None:
        """Deletes the oldest checkpoints beyond the limit, each at once: half of one would stay under its name."""
        limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
        if self._run is None or not self.args.should_save or not limit or limit < 1:
            return
        found = sort_checkpoints(str(self._run), use_mtime=True, best_model_checkpoint=best)
        stay = max(limit, 2 if best and str(Path(best)) in found[:-1] else 1)  # they are sorted behind the others
        partial = self._run / PARTIAL
        for folder in found[:-stay]:
            with suppress(OSError):  # it stays whole, until this is called again
                partial.mkdir(exist_ok=True)
                os.rename(folder, partial / os.path.basename(folder))
        shutil.rmtree(partial, ignore_errors=True)

    def _note_best(self, run: Path, final: Path, written: Path) -> None:
        """Records the best checkpoint by the name that it will have: the Trainer looked for it below PARTIAL."""
        best = run / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_global_step and (best == final or best.exists()):
            self.state.best_model_checkpoint = str(best)
            if self.args.should_save:
                self.state.save_to_json(str(written / STATE))

    def _put(self, written: Path, final: Path) -> None:
        """Gives a whole checkpoint its name, in place of half a one that may lie there."""
        if self.args.should_save:
            _replace(written, final)
        self.accelerator.wait_for_everyone()
        # On a machine without the others' disk, each node holds the random states of its own processes.
        if self.args.local_process_index == 0 and written.exists():
            _replace(written, final)
        self.accelerator.wait_for_everyone()

    # ---- resuming

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains as Trainer does; `resume_from_checkpoint=True` is the last checkpoint that is whole.

        Raises:
            ResumeError: a checkpoint that is not whole, or no whole one for `True`.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = _last(str(self.args.output_dir))
        elif resume_from_checkpoint:
            check_resumable(resume_from_checkpoint)
        if self.args.should_save:
            shutil.rmtree(Path(str(self.args.output_dir)) / PARTIAL, ignore_errors=True)  # of a run that was killed
        self._run = None
        found = super().train(resume_from_checkpoint, *args, **kwargs)
        self._rotate()  # what could not be deleted in its time
        return found

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Goes no step beyond the last: the Trainer counts behind each step, and takes one more where all are done already."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._unread = None
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._read_the_rest(resume_from_checkpoint, model if model is not None else self.model)
        self._note_problem(resume_from_checkpoint)

    def _note_problem(self, folder: str) -> None:
        """Takes over which kind of labels there were: a model notes it at its first batch, and a finished run sees none again."""
        path = Path(folder) / "config.json"
        written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        inner: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        for name, found in (("config", written), ("base", written.get("base_config"))):  # of a learngene's model
            config: Any = getattr(inner, name, None)
            if found and getattr(config, "problem_type", "") is None:
                config.problem_type = found.get("problem_type")

    def _load_best_model(self) -> None:
        self._unread = None
        super()._load_best_model()
        self._read_the_rest(str(self.state.best_model_checkpoint), self.model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        self._unread = load_result

    def _read_the_rest(self, folder: str, model: nn.Module | None) -> None:
        if self._unread is None:
            return
        inner: Any = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        if not isinstance(inner, PreTrainedModel):
            super()._issue_warnings_after_load(self._unread)
            return
        if not self._unread.unexpected_keys and not _lost(inner, set(self._unread.missing_keys)):
            return
        reading: Any = type(inner).from_pretrained
        # a copy, because loading writes to it; the dtype, because the config's may be that of the checkpoint it started from
        config = copy.deepcopy(inner.config)
        found, info = reading(folder, config=config, dtype=inner.dtype, output_loading_info=True)
        if info["missing_keys"]:
            lacking = sorted(info["missing_keys"])
            raise ResumeError(
                f"{os.path.basename(folder)} lacks {len(lacking)} tensors of the model ({', '.join(lacking[:3])}"
                f"{', …' if len(lacking) > 3 else ''}). Resume with a whole checkpoint of the same model."
            )
        inner.load_state_dict(found.state_dict())


def _lost(model: PreTrainedModel, missing: set[str]) -> set[str]:
    """The missing names but those of a tensor that was read under the other name it is tied to."""
    pairs = [*model.all_tied_weights_keys.items()]
    return missing - {name for a, b in pairs for name, other in ((a, b), (b, a)) if other not in missing}


def _replace(written: Path, final: Path) -> None:
    sync_files(written)
    if final.exists():
        os.rename(final, written.with_name("old"))
    os.rename(written, final)
    shutil.rmtree(written.parent, ignore_errors=True)


def _last(folder: str) -> str:
    last = last_whole_checkpoint(folder)
    half = [path for path in checkpoints_of(folder) if fault_of(path) is not None]
    if last is None:
        said = f" ({half[0].name}: {fault_of(half[0])})" if half else ""
        raise ResumeError(f"{folder} holds no whole checkpoint{said}. Leave resume_from_checkpoint out to begin anew.")
    for path in half:
        logger.warning("%s is passed over, its writing was interrupted: %s.", path.name, fault_of(path))
    return str(last)
