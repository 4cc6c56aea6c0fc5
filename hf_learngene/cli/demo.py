"""`demo`: what the package does, shown on two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_learngene.cli.app import app, example_help


@app.command(
    "demo",
    help=example_help(
        "Grow a text encoder, shrink a vision encoder, and fine-tune it beside a random start.\n\n"
        "A few minutes on a CPU. It leaves learning_curves.png and results.json in OUTPUT.",
        "demo --image-model google/vit-base-patch16-224 --text-model google-bert/bert-base-uncased",
    ),
)
def demo_command(
    image_model: Annotated[str, typer.Option(help="A vision encoder with an image processor.", show_default=False)],
    text_model: Annotated[str, typer.Option(help="A text encoder.", show_default=False)],
    output: Annotated[Path, typer.Option(help="The folder for figure and numbers.")] = Path("demo"),
    steps: Annotated[int, typer.Option(min=1, help="Fine-tuning steps of each run.")] = 60,
    seeds: Annotated[int, typer.Option(min=1, help="Runs from each start.")] = 3,
) -> None:
    """Grow a text encoder, shrink a vision encoder, and fine-tune it beside a random start."""
    from rich.console import Console

    from hf_learngene.comparing.demo import run_demo

    run_demo(image_model, text_model, output, steps=steps, seeds=seeds, console=Console())
