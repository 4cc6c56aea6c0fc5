"""What the package does, shown on two real checkpoints in a few minutes on a CPU.

A sentence encoder and a vision encoder are shrunk without data or training; the text encoder is grown and compared with its
source, and a learngene is fitted to it; the vision encoder, shrunk further, is fine-tuned beside the same network from random
init. Nothing is downloaded: the images that it learns are the handwritten digits of scikit-learn.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import AutoConfig, AutoImageProcessor, PreTrainedConfig, PreTrainedModel, TrainingArguments
from transformers import AutoModel as TransformersAutoModel

from hf_learngene.comparing.demo_learngene import make_learngene
from hf_learngene.comparing.demo_untrained import shrink_untrained
from hf_learngene.comparing.result import Comparison
from hf_learngene.comparing.run import compare
from hf_learngene.comparing.spec import whole_number
from hf_learngene.resizing import AutoModel, AutoModelForImageClassification, verify
from hf_learngene.state import quiet, seeded


NUM_LABELS = 10
TEST_SHARE = 0.25
VALIDATION_SHARE = 0.2
# Eight-pixel digits hold no more detail than a 4 x 4 grid of patches can show.
PATCHES_PER_SIDE = 4
BATCH_SIZE = 32
EVALUATIONS = 6
WEIGHT_DECAY = 0.05
LEARNING_RATES = (1e-4, 3e-4)
# At 4 x 4 patches the source, trained on 37 x 37, does not work itself: there is no function that a refit could bring back.
STARTS: dict[str, str | Mapping[str, Any]] = {
    "resized": {"method": "weight_selection", "layer_selection": "uniform"},
    "random": "random",
}
SIZE_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")

Examples = list[dict[str, Any]]


@dataclass(frozen=True)
class Digits:
    """The handwritten digits as images of the size a model takes, split once and for all."""

    train: Examples
    validation: Examples
    test: Examples


def run_demo(
    image_model: str,
    text_model: str,
    output: str | Path,
    steps: int = 60,
    seeds: int = 3,
    console: Console | None = None,
) -> dict[str, Any]:
    """Runs the demo and leaves `learning_curves.png` and `results.json` behind.

    Args:
        image_model: A ViT-like checkpoint with an image processor: a Hub id or a folder.
        text_model: A BERT-like checkpoint.
        output: The folder to write to.
        steps: Fine-tuning steps of each run.
        seeds: Runs from each start; they differ in whatever is drawn at random, and in the order of the examples.
        console: Where to show tables. Left out: the terminal.

    Returns:
        What `results.json` holds.

    Raises:
        UnknownOptionError: `steps` or `seeds` is not positive.

    Example:
        >>> run_demo("vit-s14", "minilm-l6", "demo")  # doctest: +SKIP
    """
    steps, seeds = whole_number("steps", steps), whole_number("seeds", seeds)
    console = console or Console()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()

    with quiet():  # the same checkpoint is loaded many times here
        console.rule("[bold]Shrinking without data or training")
        untrained = shrink_untrained(image_model, text_model, console)
        console.rule("[bold]Growing a text encoder")
        text = grow_text_model(text_model, console)
        console.rule("[bold]A learngene of the vision encoder")
        learngene = make_learngene(image_model, console)
    console.rule("[bold]Fine-tuning a small vision encoder")
    training, found = compare_starts(image_model, steps, range(seeds))
    console.print(str(found), markup=False, highlight=False)

    results = {
        "untrained": untrained,
        "text_model": text,
        "learngene": learngene,
        "training": training,
        "torch_threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    found.plot(output / "learning_curves.png")
    console.print(f"Wrote {output / 'learning_curves.png'} and {output / 'results.json'}, {results['seconds']:.0f} s.")
    return results


def small_sizes(config: PreTrainedConfig) -> dict[str, Any]:
    """Two thirds of the heads and of the width, half of the layers, and as many pixels as the digits are worth."""
    heads = max(1, config.num_attention_heads * 2 // 3)
    return {
        "hidden_size": heads * (config.hidden_size // config.num_attention_heads),
        "num_hidden_layers": max(1, config.num_hidden_layers // 2),
        "image_size": config.patch_size * PATCHES_PER_SIDE,
    }


def grow_text_model(text_model: str, console: Console) -> dict[str, Any]:
    """Doubles the text encoder in width and depth, and checks that it still computes the same."""
    source = TransformersAutoModel.from_pretrained(text_model, dtype=torch.float32, trust_remote_code=False).eval()
    start = time.perf_counter()
    grown = AutoModel.from_pretrained_resized(
        text_model,
        hidden_size=2 * source.config.hidden_size,
        num_hidden_layers=2 * source.config.num_hidden_layers,
        method="lemon",
        dtype=torch.float32,
    )
    facts = describe_resize(source, grown, time.perf_counter() - start)
    report = verify(source, grown)
    facts["max_abs_difference"] = float(report.max_abs_logit_difference)
    facts["function_preserving"] = bool(report.function_preserving)
    console.print(resize_table(facts))
    console.print(str(report))
    return facts


def describe_resize(source: PreTrainedModel, model: PreTrainedModel, seconds: float) -> dict[str, Any]:
    """Sizes and parameters before and after."""

    def describe(one: PreTrainedModel) -> dict[str, int]:
        names = [name for name in (*SIZE_FIELDS, "image_size") if isinstance(getattr(one.config, name, None), int)]
        return {**{name: getattr(one.config, name) for name in names}, "parameters": one.num_parameters()}

    methods = [stage["method"] for stage in model.config.learngene["passes"]]
    return {
        "source": describe(source),
        "target": describe(model),
        "method": ", ".join(methods),
        "seconds": round(seconds, 2),
    }


def load_images(image_model: str, image_size: int) -> Digits:
    """Loads the digits through the preprocessing of the checkpoint.

    Args:
        image_model: The checkpoint whose image processor is used.
        image_size: The size in pixels to scale the images to.

    Returns:
        The images with labels, split in proportion to the classes.
    """
    processor = AutoImageProcessor.from_pretrained(image_model, backend="pil", trust_remote_code=False)
    raw = load_digits()
    images = [Image.fromarray((image * 255 / 16).astype(np.uint8)).convert("RGB") for image in raw.images]
    size = {"height": image_size, "width": image_size}
    pixels = processor(images, size=size, do_center_crop=False, return_tensors="pt")["pixel_values"]
    rest, test = train_test_split(
        np.arange(len(raw.target)), test_size=TEST_SHARE, random_state=0, stratify=raw.target
    )
    train, validation = train_test_split(rest, test_size=VALIDATION_SHARE, random_state=0, stratify=raw.target[rest])
    return Digits(
        *(
            [{"pixel_values": pixels[i], "labels": int(raw.target[i])} for i in part]
            for part in (train, validation, test)
        )
    )


def compare_starts(image_model: str, steps: int, seeds: Sequence[int]) -> tuple[dict[str, Any], Comparison]:
    """Fine-tunes the small classifier from both starts, each at the learning rate that suits it best.

    Args:
        image_model: The checkpoint that one of the starts is made from.
        steps: Steps of each run.
        seeds: One run of each start for each of them.

    Returns:
        Settings, learning rates tried, and test accuracy by step for each start and seed; and the comparison itself.
    """
    sizes = small_sizes(AutoConfig.from_pretrained(image_model, trust_remote_code=False))
    side = sizes.pop("image_size")
    digits = load_images(image_model, side)
    size = f"hidden_size={sizes['hidden_size']}, num_hidden_layers={sizes['num_hidden_layers']}"
    with quiet(), seeded(0):
        source = AutoModelForImageClassification.from_pretrained_resized(
            image_model, image_size=side, dtype=torch.float32
        )

    def compared(
        held_out: Examples, rates: float | Mapping[str, float], seeds: Sequence[int], every: int
    ) -> Comparison:
        with tempfile.TemporaryDirectory(prefix="learngene_demo_") as folder:
            return compare(
                source,
                {size: {**sizes, "num_labels": NUM_LABELS}},
                digits.train,
                held_out,
                output_dir=folder,
                methods=STARTS,
                steps=steps,
                eval_steps=every,
                seeds=seeds,
                learning_rate=rates,
                batch_size=BATCH_SIZE,
                args=TrainingArguments(folder, weight_decay=WEIGHT_DECAY),
            )

    # The test images stay out of every choice.
    tried = {rate: compared(digits.validation, rate, [0], steps) for rate in LEARNING_RATES}
    rates: dict[str, dict[str, Any]] = {}
    for start in STARTS:
        scores = {rate: found.row(size, start).mean[-1] for rate, found in tried.items()}
        rates[start] = {"validation_accuracy": scores, "chosen": max(scores, key=scores.__getitem__)}
    chosen = {start: rate["chosen"] for start, rate in rates.items()}
    found = compared(digits.test, chosen, list(seeds), max(1, steps // EVALUATIONS))
    training = {
        "data": "scikit-learn digits",
        "images": {name: len(getattr(digits, name)) for name in ("train", "validation", "test")},
        "batch_size": BATCH_SIZE,
        "learning_rates": rates,
        "steps": list(found.rows[0].steps),
        "seeds": list(seeds),
        "test_accuracy": {row.method: [list(curve) for curve in row.curves] for row in found.rows},
    }
    return training, found


def resize_table(facts: dict[str, Any]) -> Table:
    """Sizes before and after, as a table."""
    table = Table(title=f"method: {facts['method']}, {facts['seconds']:.1f} s", title_justify="left")
    table.add_column("")
    table.add_column("source", justify="right")
    table.add_column("target", justify="right")
    for name, value in facts["source"].items():
        table.add_row(name, f"{value:,}", f"{facts['target'][name]:,}")
    return table
