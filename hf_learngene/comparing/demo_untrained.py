"""Smaller models that work without data or training: a part of the demo.

A sentence encoder and a vision encoder are shrunk on made-up examples and by weight selection, and each is asked how it orders
the similarities of real sentences and images. These come along with scikit-learn: sentences that describe its data sets, and
crops of its two photographs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_linnerud,
    load_sample_images,
    load_wine,
)
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedModel
from transformers import AutoModel as TransformersAutoModel

from hf_learngene.pruning.similarity import cosines_of_pairs, pooled, rank_correlation
from hf_learngene.resizing import AutoModel, resize


PATCHES_PER_SIDE = 8
SHOWN = 256  # images
SENTENCE = range(30, 201)  # characters
CROP = range(60, 220)  # pixels
METHODS = {"auto": "made-up examples", "weight_selection": "weight selection"}


def sentences() -> list[str]:
    """Plain sentences of the descriptions of scikit-learn's data sets.

    Example:
        >>> sentences()[0]
        "The dataset is taken from Fisher's paper."
    """
    found: dict[str, None] = {}
    for load in (load_iris, load_wine, load_diabetes, load_breast_cancer, load_digits, load_linnerud):
        for part in re.split(r"(?<=[.])\s+", load().DESCR):
            text = " ".join(part.split())
            if len(text) in SENTENCE and not re.search(r"[:*=_|]", text):
                found[text] = None
    return list(found)


def crops(count: int = SHOWN, seed: int = 0) -> list[Image.Image]:
    """Square crops of scikit-learn's two photographs, of random size and place."""
    draws = np.random.default_rng(seed)
    photographs = load_sample_images().images
    found = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        side = int(draws.integers(CROP.start, CROP.stop))
        top, left = (int(draws.integers(0, edge - side)) for edge in photograph.shape[:2])
        found.append(Image.fromarray(photograph[top : top + side, left : left + side]))
    return found


def shrink_untrained(image_model: str, text_model: str, console: Console) -> list[dict[str, Any]]:
    """Shrinks both encoders without data, each beside weight selection, and shows how far they order similarities alike."""
    tokenizer = AutoTokenizer.from_pretrained(text_model, trust_remote_code=False)
    text = TransformersAutoModel.from_pretrained(text_model, dtype=torch.float32, trust_remote_code=False).eval()
    read = tokenizer(sentences(), padding=True, truncation=True, max_length=64, return_tensors="pt")
    image, processor, seen = vision_encoder(image_model)
    found = [
        *_shrunk("sentence encoder", text, tokenizer, {"intermediate_size": text.config.intermediate_size // 4}, read),
        *_shrunk("vision encoder", image, processor, third(image), seen),
    ]
    console.print(_table(found))
    return found


def vision_encoder(image_model: str) -> tuple[PreTrainedModel, Any, Mapping[str, Tensor]]:
    """The vision encoder at as many pixels as a demo has time for, its image processor, and the images that it is shown."""
    processor = AutoImageProcessor.from_pretrained(image_model, backend="pil", trust_remote_code=False)
    side = PATCHES_PER_SIDE * AutoConfig.from_pretrained(image_model, trust_remote_code=False).patch_size
    image = AutoModel.from_pretrained_resized(image_model, image_size=side, dtype=torch.float32)
    seen = processor(crops(), size={"height": side, "width": side}, do_center_crop=False, return_tensors="pt")
    return image, processor, seen


def third(model: PreTrainedModel) -> dict[str, Any]:
    """About a third of a ViT: half of the width and of the ffn, all heads and layers."""
    config = model.config
    return {
        "hidden_size": config.hidden_size // 2,
        "intermediate_size": config.intermediate_size // 2,
        "num_attention_heads": config.num_attention_heads,
        "head_dim": config.hidden_size // config.num_attention_heads,
    }


def _shrunk(
    kind: str, source: PreTrainedModel, processor: Any, sizes: Mapping[str, Any], shown: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    wanted = similarities(source, shown)
    found = []
    for method, examples in METHODS.items():
        began = time.perf_counter()
        options = {"layer_selection": "uniform"} if method == "weight_selection" else {"processing_class": processor}
        small = resize(source, method=method, **options, **sizes)
        found.append(
            {
                "model": kind,
                "start": examples,
                "sizes": dict(sizes),
                "encoder_share": round(_encoder(small) / _encoder(source), 3),
                "seconds": round(time.perf_counter() - began, 1),
                "rank_correlation": round(rank_correlation(wanted, similarities(small, shown)), 4),
            }
        )
    return found


def _encoder(model: PreTrainedModel) -> int:
    """Parameters of the layers."""
    return sum(p.numel() for name, p in model.named_parameters() if re.search(r"\blayers?\.\d", name))


@torch.no_grad()
def similarities(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Cosines of every pair of examples, of the means over their tokens, (pairs,)."""
    return cosines_of_pairs(pooled(model(**inputs).last_hidden_state, inputs.get("attention_mask")))


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="shrunk without data or training: do they order similarities as their source does?")
    for name in ("", "start", "encoder", "rank correlation", "seconds"):
        table.add_column(name, justify="left" if name in ("", "start") else "right")
    for row in rows:
        table.add_row(
            row["model"],
            row["start"],
            f"{row['encoder_share']:.0%}",
            f"{row['rank_correlation']:.3f}",
            f"{row['seconds']:.0f}",
        )
    return table
