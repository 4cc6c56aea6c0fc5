"""Learning curves as a picture: a panel for each size."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from hf_learngene.comparing.folder import write_bytes


COLUMNS = 3
PANEL = (5.0, 3.6)  # inches
COLORS = ("#e8590c", "#0b7285", "#6741d9", "#2b8a3e", "#c2255c", "#1971c2", "#a08500", "#495057")
MARKERS = "os^DvX*P<"  # one more than colours, so that the pairs go on differing
SOURCE = "0.45"
SOURCE_LABEL = "the source"


@dataclass(frozen=True)
class Curve:
    """The metric of one method at each step, for every seed.

    Attributes:
        label: the method's.
        steps: at which it was measured.
        values: a row for each seed, an entry for each step.
    """

    label: str
    steps: Sequence[int]
    values: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """The curves of one size.

    Attributes:
        title, subtitle: what stands above the panel.
        curves: one for each method.
        source: the source's metric, drawn as a line.
    """

    title: str
    subtitle: str
    curves: Sequence[Curve]
    source: float | None = None


def draw(panels: Sequence[Panel], labels: Sequence[str], metric: str, seeds: int, path: Path) -> None:
    """Draws the mean of the seeds and the range they span, a panel for each size.

    Args:
        panels: what to draw.
        labels: every curve's label; a label looks the same in every panel.
        metric: its name, for the axis.
        seeds: how many there are.
        path: the file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    # Not through pyplot, which would set up a window and keep the figure for as long as the process lives.
    figure = Figure(figsize=(PANEL[0] * columns + 2.4, PANEL[1] * lines + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for number, axes in enumerate(grid.flat):
        if number < len(panels):
            _draw_panel(axes, panels[number], labels, metric)
            axes.tick_params(labelbottom=True, labelleft=True)
        else:
            axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(metric)
    handles = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    order = [n for n in (*map(_plain, labels), SOURCE_LABEL) if n in handles]
    figure.legend(
        [handles[n] for n in order],
        ["\n".join(textwrap.wrap(n, 28)) for n in order],
        title=f"mean and range of {seeds} seeds" if seeds > 1 else "one seed",
        loc="outside right upper",
        alignment="left",
        frameon=False,
    )
    drawn = BytesIO()
    figure.savefig(drawn, dpi=150, format=path.suffix.removeprefix(".") or "png")
    write_bytes(path, drawn.getvalue())


def _draw_panel(axes: Any, panel: Panel, labels: Sequence[str], metric: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    for curve in panel.curves:
        style = labels.index(curve.label)
        color, marker = COLORS[style % len(COLORS)], MARKERS[style % len(MARKERS)]
        values = np.asarray(curve.values)  # (seeds, steps)
        axes.fill_between(curve.steps, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
        look = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.8}
        axes.plot(curve.steps, values.mean(0), label=_plain(curve.label), **look)
    if panel.source is not None:
        axes.axhline(panel.source, color=SOURCE, linewidth=1.2, linestyle="--", label=SOURCE_LABEL)
    title = "\n".join(textwrap.wrap(_plain(panel.title), 44))
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=20)
    axes.text(0, 1.02, _plain(panel.subtitle), transform=axes.transAxes, color="0.35", fontsize=9)
    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(x=0.02)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _plain(words: str) -> str:
    return words.replace("$", r"\$")  # two of them would be read as a formula
