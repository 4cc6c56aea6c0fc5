"""What a search for sizes found: `Trial` and `Allocation`."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from hf_learngene.budget.meter import QUANTITIES
from hf_learngene.tables import html, render


Sizes = dict[str, int]


@dataclass(frozen=True)
class Trial:
    """One pruned model, and its error on held-out examples.

    Attributes:
        sizes: its sizes, by canonical name.
        parameters: its parameter count.
        amount: how much it has of what the budget counts: parameters, FLOPs or seconds.
        error: mean squared distance of its output to the source's, as a share of the output's variance, on examples that it was
            not fitted on. Without a head: of what a linear readout makes of its output.
    """

    sizes: Sizes
    parameters: int
    amount: float
    error: float


@dataclass(frozen=True)
class Allocation:
    """Sizes for a budget, and the measurements that led to them. `print` shows both.

    Attributes:
        sizes: the chosen sizes.
        full: the same with the sizes that follow from them (heads that follow the width, their size), as keywords for `resize`.
        axes: sensitivity of each size: trials that prune it alone.
        tried: trials of combinations within the budget, best first.
        source: the source's sizes and what it has.
        quantity: what the budget counts: `params`, `flops` or `latency`.
    """

    sizes: Sizes
    full: Sizes
    axes: tuple[Trial, ...]
    tried: tuple[Trial, ...]
    source: Trial
    quantity: str = "params"

    def __str__(self) -> str:
        return "\n\n".join(map(render, self._tables()))

    def _repr_html_(self) -> str:
        return "\n".join(map(html, self._tables()))

    def _tables(self) -> tuple[Table, Table]:
        unit, one = QUANTITIES[self.quantity].per
        short = {"million": "M", "GFLOP": "GFLOPs"}.get(one, one)
        alone = Table(box=None, pad_edge=False, title="each size pruned alone", title_justify="left")
        for name in ("size", "saves", "error", f"error per {one} saved"):
            alone.add_column(name, justify="left" if name == "size" else "right")
        for trial in self.axes:
            saved = (self.source.amount - trial.amount) / unit
            each = f"{trial.error / saved:.4f}" if saved > 0 else "–"  # fewer units need not be faster
            alone.add_row(self._said(trial), f"{saved:.2f} {short}", f"{trial.error:.4f}", each)
        whole = Table(box=None, pad_edge=False, title="combinations within the budget", title_justify="left")
        for name in ("sizes", QUANTITIES[self.quantity].said, "error", ""):
            whole.add_column(name, justify="left" if name in ("sizes", "") else "right")
        for trial in self.tried:
            chosen = "chosen" if trial.sizes == self.sizes else ""
            whole.add_row(self._said(trial), f"{trial.amount / unit:.2f} {short}", f"{trial.error:.4f}", chosen)
        return alone, whole

    def _said(self, trial: Trial) -> str:
        old = self.source.sizes
        changed = [f"{n} {old[n]} → {v}" for n, v in trial.sizes.items() if v != old.get(n, v)]
        return ", ".join(changed) or "unchanged"


__all__ = ["Allocation", "Sizes", "Trial"]
