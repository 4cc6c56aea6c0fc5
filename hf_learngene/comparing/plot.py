"""The curves of a comparison as a picture."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from hf_learngene.comparing.result import Comparison


COLUMNS = 3
PANEL = (5.0, 3.6)  # inches
COLORS = ("#e8590c", "#0b7285", "#6741d9", "#2b8a3e", "#c2255c", "#1971c2", "#a08500", "#495057")
MARKERS = "os^DvX*P<"  # one more than colours, so that the pairs go on differing
SOURCE = "0.45"


def draw(comparison: Comparison, path: Path) -> None:
    """A panel for each size: the mean of the seeds, and the range they span; dashed: the source."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = comparison.sizes
    columns = min(COLUMNS, len(sizes))
    lines = -(-len(sizes) // columns)
    # Not through pyplot, which would set up a window and keep the figure for as long as the process lives.
    figure = Figure(figsize=(PANEL[0] * columns + 2.4, PANEL[1] * lines + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for number, panel in enumerate(panels.flat):
        if number < len(sizes):
            _panel(panel, comparison, sizes[number])
            panel.tick_params(labelbottom=True, labelleft=True)
        else:
            panel.set_visible(False)
    for panel in panels[:, 0]:
        panel.set_ylabel(comparison.metric)
    handles = {
        label: handle
        for panel in panels.flat
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    order = [n for n in (*comparison.methods, "the source") if n in handles]
    seeds = len(comparison.settings.get("seeds", ()))
    band = f"mean and range of {seeds} seeds" if seeds > 1 else "one seed"
    figure.legend(
        [handles[n] for n in order],
        ["\n".join(textwrap.wrap(_text(n), 28)) for n in order],
        title=band,
        loc="outside right upper",
        alignment="left",
        frameon=False,
    )
    figure.savefig(path, dpi=150)


def _panel(panel: Any, comparison: Comparison, size: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    rows = [row for row in comparison.rows if row.size == size and row.curves]
    for row in rows:
        style = comparison.methods.index(row.method)  # the same in every panel
        color, marker = COLORS[style % len(COLORS)], MARKERS[style % len(MARKERS)]
        curves = np.asarray(row.curves)
        panel.fill_between(row.steps, curves.min(0), curves.max(0), color=color, alpha=0.15, linewidth=0)
        panel.plot(
            row.steps, row.mean, color=color, marker=marker, markersize=4, linewidth=1.8, label=_text(row.method)
        )
    known = next((s for s in map(comparison.source_of, rows) if s is not None), None)
    if known is not None:
        panel.axhline(known, color=SOURCE, linewidth=1.2, linestyle="--", label="the source")
    counts = sorted({row.parameters for row in rows if row.parameters})
    below = f"{_count(counts[0])} parameters" if counts else ""
    missing = [row.method for row in comparison.rows if row.size == size and row.cannot is not None]
    if missing:
        names = ", ".join(missing)
        below += f"; not by {names if len(names) < 30 else f'{len(missing)} of the methods'}"
    panel.set_title("\n".join(textwrap.wrap(_text(size), 44)), loc="left", fontsize=11, fontweight="bold", pad=20)
    panel.text(0, 1.02, _text(below), transform=panel.transAxes, color="0.35", fontsize=9)
    panel.set_xlabel("training step")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    if comparison.metric == "accuracy":
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.margins(x=0.02)
    panel.grid(axis="y", color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M" if parameters >= 1e6 else f"{parameters:,}"


def _text(words: str) -> str:
    return words.replace("$", r"\$")  # two of them would be read as a formula
