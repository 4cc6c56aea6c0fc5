"""What the figures of the pages share: their size, style and colours, and the boxes and matrices in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import torch


matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402


ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"

KEPT, OTHER, THIRD, GONE, INK = "#0072B2", "#E69F00", "#009E73", "#CCCCCC", "#222222"  # told apart by all eyes
DIVERGING = "PuOr"
WIDTH, DPI = 6.0, 150  # 900 pixels
STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "figure.edgecolor": "#BBBBBB",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}


def canvas(height: float, **grid: Any) -> tuple[Figure, Any]:
    figure, axes = plt.subplots(figsize=(WIDTH, height), linewidth=2, **grid)
    return figure, axes


def save(figure: Figure, name: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"method_{name}.png"
    figure.savefig(path, dpi=DPI, edgecolor=figure.get_edgecolor(), metadata={"Software": None})
    plt.close(figure)
    print(path.relative_to(ROOT))


def matrix(axis: Axes, values: torch.Tensor, title: str, across: str, down: str, limit: float) -> None:
    axis.imshow(values.numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit)
    axis.set_title(title)
    axis.set_xlabel(across)
    axis.set_ylabel(down)
    axis.set_xticks(range(values.shape[1]))
    axis.set_yticks(range(values.shape[0]))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def box(axis: Axes, column: float, row: float, width: float = 1, height: float = 1, **given: Any) -> None:
    axis.add_patch(
        Rectangle((column - 0.5, row - 0.5), width, height, **{"fill": False, "ec": INK, "lw": 1.2, **given})
    )
