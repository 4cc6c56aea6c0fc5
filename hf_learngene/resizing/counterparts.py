"""Which output of a grown model stands for which of its source's, and the first that differs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hf_learngene.resizing.layer_fields import successor
from hf_learngene.resizing.outputs import difference
from hf_learngene.resizing.passes import Pass


EXACT = 1e-10  # relative, in float64; what adds up to more is no rounding


def differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor], made: Pass) -> str:
    """The first output that differs, in words; nothing where none does."""
    # in a hierarchy a vector is one of a later stage, not several of the first
    widths = made.task.source.sizes.get("hidden_size", 0), made.task.target.sizes.get("hidden_size", 0)
    deep = _states(first, made.task.source.num_layers) & _states(second, made.task.target.num_layers)
    behind: dict[str, int] = {}
    for name, a in first.items():
        if "attentions" in name:  # a way to look into the model, with new heads and layers in it
            continue
        other = _counterpart(name, made, deep)
        if made.task.stage_maps:
            other = _next_alike(name, a, second, behind, len(_group(name, first)))
        b = second.get(other)
        if b is None:
            return f"the grown model gives no `{other}`, where the source gives `{name}`."
        found = difference(name, a, b, widths)
        if found is None:
            return f"`{name}` of shape {tuple(a.shape)} becomes {tuple(b.shape)}."
        if not found.relative <= EXACT:
            return f"in a miniature with random weights `{name}` moves by {found.relative:.1e}, where {EXACT:.0e} is rounding."
    return ""


def _states(outputs: Mapping[str, Tensor], depth: int) -> set[str]:
    """The outputs that hold one hidden state for each layer and one before (`vision_model_output.hidden_states`)."""
    kinds = [name.rpartition(".")[0] for name in outputs]
    return {kind for kind in kinds if kind.endswith("hidden_states") and kinds.count(kind) == depth + 1}


def _counterpart(name: str, made: Pass, deep: set[str]) -> str:
    """The grown model's name of an output: hidden states are counted by layers, and 0 is what the first layer reads."""
    kind, _, number = name.rpartition(".")
    depth = made.task.source.num_layers
    if kind not in deep or not 1 <= int(number) <= depth:
        return name
    return f"{kind}.{1 + successor(int(number) - 1, [layer.index for layer in made.task.layer_map], depth)}"


def _group(name: str, outputs: Mapping[str, Tensor]) -> list[str]:
    """The outputs that are entries of the same tuple."""
    group = name.rpartition(".")[0]
    return [other for other in outputs if other.rpartition(".")[0] == group] if group else [name]


def _next_alike(name: str, given: Tensor, second: Mapping[str, Tensor], behind: dict[str, int], count: int) -> str:
    """The grown hierarchy's name of an output.

    Where it hands out the state behind every block, it has more of them: new blocks repeat one. Then all of the source's have to
    come in the same order, each behind the one before.
    """
    others = _group(name, second)
    if len(others) <= count:
        return name
    group = name.rpartition(".")[0]
    for place in range(behind.get(group, 0), len(others)):
        found = difference(name, given, second[others[place]])
        if found is not None and found.relative <= EXACT:
            behind[group] = place + 1
            return others[place]
    return name


__all__ = ["EXACT", "differing"]
