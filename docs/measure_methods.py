"""Accuracy right after a shrink, for the methods that no benchmark measures: `front`, `taylor` and `random`.

    python docs/measure_methods.py
    python docs/measure_methods.py --methods front

It takes the ViT and CIFAR-10 of `../shared/data`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from make_figures import DATA, TASKS, pictures, teacher_of

from hf_learngene import resize


# the methods that no benchmark measures, with their options
MEASURED: dict[str, tuple[dict[str, Any], ...]] = {
    "front": ({}, {"scaling": "constant"}), "taylor": ({},), "random": ({},),
}  # fmt: skip


def measure(count: int, methods: Sequence[str]) -> None:
    """Accuracy right after the shrink on the images and with the calibration set of `benchmarks/calibrated.py`."""
    vit, rows, test = teacher_of("images"), pictures(512), pictures(count, "test")
    images, labels = torch.stack([r["pixel_values"] for r in test]), torch.stack([r["labels"] for r in test])

    def accuracy(model: Any) -> float:
        with torch.inference_mode():
            guesses = [model(pixel_values=x).logits.argmax(-1) for x in images.split(250)]
        return float((torch.cat(guesses) == labels).double().mean())

    print(f"{count} images of the test split; source {accuracy(vit):.1%}", flush=True)
    quarter = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    for sizes in ({"intermediate_size": 768}, {"num_hidden_layers": 6}, quarter):
        for method, options in [(m, o) for m in methods for o in MEASURED[m]]:
            looks = {"calibration": rows} if method == "taylor" else {}
            made = resize(vit, method=method, **sizes, **looks, **options)
            layers_kept = made.config.learngene["passes"][0]["options"].get("layers", "")
            print(f"{sizes} {method} {options}: {accuracy(made):.1%} {layers_kept}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000, help="how many of the test split")
    parser.add_argument("--methods", nargs="+", choices=MEASURED, default=list(MEASURED), help="which to measure")
    options = parser.parse_args()
    if not (DATA / TASKS["images"]["teacher"]).is_dir() or not (DATA / "cifar10").is_dir():
        raise SystemExit(f"This needs the ViT and CIFAR-10 of {DATA}")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    measure(options.images, options.methods)


if __name__ == "__main__":
    main()
