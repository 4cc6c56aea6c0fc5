"""What a model costs before and after a resize: parameters, bytes, FLOPs and, where it was measured, time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from rich.table import Table
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.budget.flops import TOKENS, flops
from hf_learngene.budget.latency import stopwatch
from hf_learngene.errors import LearngeneError


@dataclass(frozen=True)
class Cost:
    """One quantity of the source and of the result.

    Attributes:
        name: what it is.
        source: how much the source has, and `target` how much the result.
        unit: what both are told in -> how much of it one is; nothing for plain numbers.
        note: what a reader must know of it.
    """

    name: str
    source: float
    target: float
    unit: tuple[str, float] | None = None
    note: str = ""

    @property
    def share(self) -> float:
        return self.target / self.source

    def told(self, amount: float) -> str:
        """An amount with its unit.

        Example:
            >>> Cost("FLOPs", 35.1e9, 4e9, ("G", 1e9)).told(35.1e9), Cost("parameters", 3e6, 1).told(3e6)
            ('35.1 G', '3,000,000')
        """
        if self.unit is None:
            return f"{amount:,.0f}"
        name, size = self.unit
        number = amount / size
        return f"{number:,.0f} {name}" if number >= 100 else f"{number:.3g} {name}"

    def __str__(self) -> str:
        note = f", {self.note}" if self.note else ""
        return f"{self.name} {self.told(self.source)} → {self.told(self.target)} ({self.share:.1%}){note}"


def storage(source: Anatomy, target: Anatomy, config: PreTrainedConfig) -> list[Cost]:
    """Parameters and bytes, in the dtype that the config names."""
    named = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    each = named.itemsize
    note = "" if named == torch.float32 else f"in {str(named).removeprefix('torch.')}"
    before, after = source.num_parameters, target.num_parameters
    return [Cost("parameters", before, after), Cost("bytes", each * before, each * after, ("MB", 1e6), note)]


def computation(source: PreTrainedConfig, target: PreTrainedConfig, model_class: type[PreTrainedModel]) -> list[Cost]:
    """FLOPs of a forward pass; nothing for a family that cannot be counted without weights."""
    try:
        before, after = (flops(config, model_class, devices=("meta",)) for config in (source, target))
    except LearngeneError:
        return []
    of = "for an image" if model_class.main_input_name == "pixel_values" else f"for {TOKENS} tokens"
    return [Cost("FLOPs", before, after, ("G", 1e9), of)] if before and after else []


def time(source: PreTrainedConfig, target: PreTrainedConfig, model_class: type[PreTrainedModel]) -> Cost:
    """The time of a forward pass on this CPU, measured with random weights in float32, source and target in turns.

    Raises:
        UnsupportedFamilyError: a family that runs on none of the inputs that are tried.
    """
    watch = stopwatch(source, model_class)
    note = f"measured on this CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    return Cost("latency", watch.seconds, watch.time(target), ("ms", 1e-3), note)


def cost_table(costs: Iterable[Cost]) -> Table:
    """A row for each quantity."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in ("source", "target", "share"):
        table.add_column(title, justify="right")
    table.add_column("")
    for cost in costs:
        table.add_row(cost.name, cost.told(cost.source), cost.told(cost.target), f"{cost.share:.1%}", cost.note)
    return table


__all__ = ["Cost", "computation", "cost_table", "storage", "time"]
