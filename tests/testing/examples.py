"""Examples for tiny models: images, or texts of different lengths."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from testing.families import inputs_for
from testing.family_sizes import SIZES


def examples_for(model: PreTrainedModel, count: int = 96, seed: int = 0, labels: bool = False) -> list[dict[str, Any]]:
    """Random examples in the model's dtype, with one of its labels each (of every token, for a head over tokens) where asked."""
    generator = torch.Generator().manual_seed(seed)
    if model.main_input_name == "pixel_values":
        shape = inputs_for(model)["pixel_values"].shape[1:]
        rows: list[dict[str, Any]] = [
            {"pixel_values": torch.randn(*shape, generator=generator, dtype=model.dtype)} for _ in range(count)
        ]
    else:
        rows = [
            {"input_ids": torch.randint(5, SIZES["vocab_size"] - 1, (8 + i % 5,), generator=generator).tolist()}
            for i in range(count)
        ]
    if not labels:
        return rows
    if type(model).__name__.endswith(("ForMaskedLM", "ForTokenClassification")):
        classes = model.config.vocab_size if type(model).__name__.endswith("ForMaskedLM") else model.config.num_labels
        return [{**row, "labels": [i % classes for i in row["input_ids"]]} for row in rows]
    return [{**row, "labels": i % model.config.num_labels} for i, row in enumerate(rows)]
