"""Masks of masked-LM training that a resumed run draws as the uninterrupted one did."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling

from hf_learngene.training import digest


class ResumableMasking(DataCollatorForLanguageModeling):
    """Transformers' collator for masked-LM training, with masks that follow from the seed and the texts of the batch.

    Random numbers that go on from batch to batch would be others after a run was interrupted: the batches before are
    not made again. Epochs differ all the same, since each shuffles the texts into other batches.
    """

    def torch_call(self, examples: list[Any]) -> dict[str, Any]:
        """A padded batch with masked tokens and their labels, (examples, tokens) each."""
        texts = [np.asarray(example["input_ids"], dtype=np.int64) for example in examples]
        self.generator = torch.Generator().manual_seed(int(digest.of_values(self.seed, texts)[:15], 16))
        return super().torch_call(examples)
