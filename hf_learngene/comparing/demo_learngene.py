"""One learngene, and models of several sizes that work before any training: a part of the demo."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.table import Table

from hf_learngene.comparing.demo_untrained import similarities, third, vision_encoder
from hf_learngene.learngenes import AutoLearngene
from hf_learngene.pruning.similarity import rank_correlation
from hf_learngene.resizing import verify


def make_learngene(image_model: str, console: Console) -> dict[str, Any]:
    """Condenses the vision encoder to a third without data, and makes models of several sizes from it.

    Args:
        image_model: a ViT-like checkpoint with an image processor.
        console: where to show the table.

    Returns:
        What was stored, and of each model its sizes and how far it orders similarities of images as the vision encoder does.
    """
    source, processor, seen = vision_encoder(image_model)
    wanted = similarities(source, seen)
    began = time.perf_counter()
    learngene = AutoLearngene.from_ancestry(source, "condensed", processing_class=processor, **third(source))
    facts: dict[str, Any] = {
        "type": learngene.config.learngene_type,
        "stored_share": round(learngene.stored_share, 4),
        "fit_seconds": round(time.perf_counter() - began, 2),
        "models": [],
    }
    share = f"{facts['stored_share']:.0%} of the encoder's parameters"
    table = Table(title=f"one {facts['type']} learngene, {share}: models of every size, untrained")
    for column in ("layers", "parameters", "rank correlation", "seconds"):
        table.add_column(column, justify="right")
    depth = learngene.base.num_hidden_layers
    for layers in (max(1, depth // 2), max(1, depth * 3 // 4), depth, 2 * depth):
        began = time.perf_counter()
        model = learngene.initialize(num_hidden_layers=layers)
        made = {
            "layers": layers,
            "parameters": model.num_parameters(),
            "rank_correlation": round(rank_correlation(wanted, similarities(model, seen)), 4),
            "seconds": round(time.perf_counter() - began, 2),
        }
        facts["models"].append(made)
        table.add_row(
            str(layers),
            f"{made['parameters']:,}",
            f"{made['rank_correlation']:.3f}",
            f"{made['seconds']:.0f}",
        )
    report = verify(learngene.initialize(), model)
    facts["the_largest_is_the_same_function"] = bool(report.function_preserving)
    console.print(table)
    console.print(f"the largest beside what is stored: {report}")
    return facts


__all__ = ["make_learngene"]
