"""Tiny checkpoints with the tokenizer or image processor they need, and tiny files of images and sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ViTImageProcessorPil

from testing.families import tiny_model
from testing.family_sizes import SIZES


SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
WORDS = ["good", "bad", "film", "plot"]
VOCABULARY = [*SPECIAL.values(), *WORDS]
VOCABULARY += [f"word{number}" for number in range(SIZES["vocab_size"] - len(VOCABULARY))]
# what a dropout mask hits depends on how a batch is split
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def save_checkpoint(folder: Path, kind: str, class_name: str, extra: dict[str, Any] | None = None) -> PreTrainedModel:
    """A tiny random float32 model in `folder`, with what prepares its inputs."""
    model = tiny_model(
        kind, class_name, {**(NO_DROPOUT if kind in ("vit", "bert") else {}), **(extra or {})}, torch.float32
    )
    model.save_pretrained(folder)
    if model.main_input_name == "pixel_values":
        ViTImageProcessorPil(size={"height": SIZES["image_size"], "width": SIZES["image_size"]}).save_pretrained(
            folder
        )
    else:
        words().save_pretrained(folder)
    return model


def words() -> PreTrainedTokenizerFast:
    """A tokenizer that splits at spaces."""
    tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, model_max_length=SIZES["max_position_embeddings"], **SPECIAL
    )


def some_images(count: int = 16) -> list[PILImage.Image]:
    generator = np.random.default_rng(0)
    return [PILImage.fromarray(generator.integers(0, 255, (14, 14, 3), dtype=np.uint8)) for _ in range(count)]


def write_images(path: Path, count: int = 16) -> Path:
    """A parquet file of random images with two labels."""
    rows = {"image": some_images(count), "label": [number % 2 for number in range(count)]}
    Dataset.from_dict(rows, features=Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})).to_parquet(
        path
    )
    return path


def write_sentences(path: Path, count: int = 16) -> Path:
    """A jsonl file of sentences with two labels."""
    rows = [
        {"sentence": f"[CLS] {WORDS[i % 2]} {WORDS[2 + i // 2 % 2]} word{i} [SEP]", "label": "ab"[i % 2]}
        for i in range(count)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path
