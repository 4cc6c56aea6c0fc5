"""What a plan says of the depth: which layers stay, and where they stand then; of a hierarchy stage by stage."""

from __future__ import annotations

from hf_learngene.maps.task import ResizeTask
from hf_learngene.resizing.origins import chooses_layers
from hf_learngene.resizing.passes import Pass
from hf_learngene.resizing.sizes import describe


def layer_lines(step: Pass) -> list[str]:
    """Lines for people: nothing where each layer stays in its place; of a hierarchy a line for each stage that changes."""
    if not step.task.stage_maps:
        words = _layers(step, step.task)
        return [f"layers: {words}"] if words else []
    found = []
    for stage, task in enumerate(step.task.parts):
        old = {name: size for name, size in task.source.sizes.items() if name != "num_labels"}
        changed = describe({name: task.target.sizes.get(name, size) for name, size in old.items()}, old)
        words = _layers(step, task)
        same = all(task.target.sizes.get(name, size) == size for name, size in old.items())
        said = "; ".join(filter(None, ("" if same else changed, f"layers {words}" if words else "")))
        if said:
            found.append(f"stage {stage}: {said}")
    return found


def _layers(step: Pass, task: ResizeTask) -> str:
    layer_map = task.layer_map
    if [layer.sources for layer in layer_map] == [((i, 1.0),) for i in range(task.source.num_layers)]:
        return ""
    if chooses_layers(step, task):
        by = "on calibration examples" if step.method.needs_examples else "by the weights, when these are read"
        return f"{len(layer_map)} of {task.source.num_layers}, chosen {by}"
    return layer_map.describe()


__all__ = ["layer_lines"]
