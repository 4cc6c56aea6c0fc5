"""`CheckpointSafeTrainer`: transformers' Trainer, with checkpoints that give every weight back."""

from __future__ import annotations

import copy
import os
from typing import Any

from torch import nn
from transformers import PreTrainedModel, Trainer

from hf_learngene.errors import ResumeError


class CheckpointSafeTrainer(Trainer):
    """A `Trainer` that reads checkpoints as `from_pretrained` does.

    Transformers 5.23 saves ViT, DeiT, BEiT, DINOv2, ViT-MAE, ViT-MSN and I-JEPA (not BERT) under their historical
    names, and its Trainer reads them back without renaming: `resume_from_checkpoint` and `load_best_model_at_end` leave
    most weights as they were, and only a line of the log says so (huggingface/transformers#43701). This one reads every
    weight, of its own checkpoints and of those that a plain Trainer wrote. FSDP and DeepSpeed have formats of their own
    and are left alone. It adds no argument, and stands before any other trainer:
    `class Mine(CheckpointSafeTrainer, Seq2SeqTrainer)`.

    Raises:
        ResumeError: the checkpoint lacks weights of the model.

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

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._unread = None
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._read_the_rest(resume_from_checkpoint, model if model is not None else self.model)

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
