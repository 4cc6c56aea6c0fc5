"""What a comparison found: numbers, table, JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from hf_learngene.comparing.plot import Curve, Panel, draw
from hf_learngene.comparing.saved import FORMAT, check_comparison, number, value_of
from hf_learngene.errors import CheckpointError
from hf_learngene.tables import html, paragraphs, render


MARGIN = 0.01  # a model within one point of its source is as good as it for most uses
RANDOM = "random"
NONE = "–"
_ROUNDING = 1e-9  # 0.75 - 0.01 is not quite 0.74


@dataclass(frozen=True)
class Row:
    """One method at one size.

    Attributes:
        size, method: their names.
        parameters: of the model.
        steps: at which it was measured.
        curves: the metric at those steps, a curve for each seed.
        seconds: to initialise, for each seed.
        cannot: why the method cannot make the size; then there are no curves.
        same_task: whether images and labels are the source's, so that both metrics mean the same.

    Example:
        >>> row = Row("half", "random", 100, (0, 5, 10), ((0.1, 0.4, 0.6), (0.1, 0.2, 0.6)), (1.0, 3.0))
        >>> [round(value, 6) for value in row.mean], row.steps_until(0.3)
        ([0.1, 0.3, 0.6], 5)
    """

    size: str
    method: str
    parameters: int | None
    steps: tuple[int, ...] = ()
    curves: tuple[tuple[float, ...], ...] = ()
    seconds: tuple[float, ...] = ()
    cannot: str | None = None
    same_task: bool = True

    @property
    def mean(self) -> tuple[float, ...]:
        """Over the seeds, at each step."""
        return tuple(fmean(values) for values in zip(*self.curves, strict=True))

    @property
    def before(self) -> float | None:
        """The mean before the first step."""
        return self.mean[0] if self.curves else None

    @property
    def after(self) -> float | None:
        """The mean after the last."""
        return self.mean[-1] if self.curves else None

    def steps_until(self, threshold: float | None) -> int | None:
        """The first measured step whose mean reaches a threshold, or None."""
        if threshold is None:
            return None
        reached = (s for s, value in zip(self.steps, self.mean, strict=True) if value >= threshold - _ROUNDING)
        return next(reached, None)


@dataclass(frozen=True)
class Comparison:
    """Methods side by side. `print` shows a table; `plot` draws the curves.

    Attributes:
        rows: one `Row` for each size and method.
        settings: what was asked for, as plain data.
        source_metric: of the source; None where it was not measured.
        source_parameters: how many it has.
        versions: of the packages that made it.
    """

    rows: tuple[Row, ...]
    settings: Mapping[str, Any]
    source_metric: float | None = None
    source_parameters: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        return str(self.settings.get("metric", "accuracy"))

    @property
    def sizes(self) -> list[str]:
        return list(dict.fromkeys(row.size for row in self.rows))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(row.method for row in self.rows))

    def row(self, size: str, method: str) -> Row:
        """The row of a size and a method.

        Raises:
            KeyError: there is none.
        """
        found = next((r for r in self.rows if (r.size, r.method) == (size, method)), None)
        if found is None:
            raise KeyError(f"There is no row {(size, method)}; sizes are {self.sizes}, methods {self.methods}.")
        return found

    def source_of(self, row: Row) -> float | None:
        """The source's metric, where it means the same for a row."""
        return self.source_metric if row.same_task else None

    def steps_until_random(self, row: Row) -> int | None:
        """The first measured step at which a row is as good as random init at its end, or None."""
        specs = self.settings.get("methods", {})
        control = (r for r in self.rows if r.size == row.size and specs.get(r.method, {}).get("method") == RANDOM)
        return row.steps_until(next((r.after for r in control), None))

    def steps_until_source(self, row: Row) -> int | None:
        """The first measured step at which a row is as good as the source less a point (0.01), or None."""
        source = self.source_of(row)
        return row.steps_until(source - MARGIN if source is not None else None)

    def __str__(self) -> str:
        return "\n".join([self._head(), "", render(self._table(None)), *self._refused()])

    def _repr_html_(self) -> str:
        refused = [paragraphs(line.strip()) for line in self._refused()]
        return "\n".join([paragraphs(self._head()), html(self._table(box.MARKDOWN)), *refused])

    def to_markdown(self) -> str:
        """The tables as a page; the picture is expected beside it."""
        parts = [f"# {self.settings.get('source', {}).get('name') or 'Comparison'}", self._head()]
        parts += [render(self._table(box.MARKDOWN), width=1000).strip(), "\n".join(self._refused())]
        for size in self.sizes:
            parts += [f"## {size}", render(self._curves(size), width=1000).strip()]
        return "\n\n".join(p for p in [*parts, "![learning curves](comparison.png)"] if p) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data; what is no number (NaN) is None."""
        return {
            "format": FORMAT,
            "versions": dict(self.versions),
            "settings": dict(self.settings),
            "source": {"metric": number(self.source_metric), "parameters": self.source_parameters},
            "rows": [
                {
                    "size": row.size,
                    "method": row.method,
                    "parameters": row.parameters,
                    "cannot": row.cannot,
                    "same_task": row.same_task,
                    "before": number(row.before),
                    "after": number(row.after),
                    "steps_until_random": self.steps_until_random(row),
                    "steps_until_source": self.steps_until_source(row),
                    "seconds": list(row.seconds),
                    "steps": list(row.steps),
                    "mean": [number(v) for v in row.mean],
                    "curves": [[number(v) for v in curve] for curve in row.curves],
                }
                for row in self.rows
            ],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Comparison:
        """What `to_dict` gave, as an object.

        Raises:
            CheckpointError: it is something else; says what.
        """
        check_comparison(content)
        source = content["source"]
        rows = tuple(
            Row(
                row["size"],
                row["method"],
                row["parameters"],
                tuple(row["steps"]),
                tuple(tuple(map(value_of, curve)) for curve in row["curves"]),
                tuple(row["seconds"]),
                row["cannot"],
                row["same_task"],
            )
            for row in content["rows"]
        )
        return cls(rows, content["settings"], source["metric"], source["parameters"], content["versions"])

    @classmethod
    def load(cls, output_dir: str | os.PathLike[str]) -> Comparison:
        """The comparison that was left in a folder.

        Raises:
            CheckpointError: there is none, it is not finished, or damaged.
        """
        path = Path(output_dir) / "comparison.json"
        try:
            if not path.is_file():
                raise FileNotFoundError(path)
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # a ValueError where it is neither UTF-8 nor JSON
            begun = (Path(output_dir) / "jobs" / "settings.json").exists()
            hint = " The comparison there is not finished: run it again, and it goes on." if begun else ""
            raise CheckpointError(f"`{output_dir}` holds no readable comparison.json.{hint}") from error
        try:
            return cls.from_dict(content)
        except CheckpointError as error:
            raise CheckpointError(f"`{path}` cannot be read. {error} Compare again with overwrite=True.") from error

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the curves, a panel for each size."""
        panels = [self._panel(size) for size in self.sizes]
        draw(panels, self.methods, self.metric, len(self.settings.get("seeds", ())), Path(path))

    def _panel(self, size: str) -> Panel:
        rows = [row for row in self.rows if row.size == size]
        counts = sorted({row.parameters for row in rows if row.curves and row.parameters})
        below = f"{_count(counts[0])} parameters" if counts else ""
        missing = [row.method for row in rows if row.cannot is not None]
        if missing:
            names = ", ".join(missing)
            below += f"; not by {names if len(names) < 30 else f'{len(missing)} of the methods'}"
        known = (self.source_of(row) for row in rows if row.curves)
        return Panel(
            size,
            below,
            [Curve(row.method, row.steps, row.curves) for row in rows if row.curves],
            next((value for value in known if value is not None), None),
        )

    # ---- tables

    def _head(self) -> str:
        settings, source = self.settings, self.settings.get("source", {})
        what = " ".join(str(source[k]) for k in ("class", "name") if source.get(k)) or "source"
        size = f", {self.source_parameters:,} parameters" if self.source_parameters else ""
        found = f", {self.metric} {self.source_metric:.3f}" if self.source_metric is not None else ""
        seeds = len(settings.get("seeds", ()))
        runs = f"{settings.get('steps')} steps of {settings.get('batch_size')} examples"
        spread = f"mean (range) of {seeds} seeds" if seeds > 1 else "one seed"
        return (
            f"{what}{size}{found}\n{self.metric} before and after {runs}, {spread}; steps until the {self.metric} of random\n"
            f"init's end, and until the source's less {MARGIN}"
        )

    def _table(self, style: box.Box | None) -> Table:
        table = Table(box=style, pad_edge=style is not None)
        table.add_column("size", overflow="fold")
        table.add_column("method", overflow="fold")
        gap = "\n" if style is None else " "
        for title in (
            "parameters",
            "before",
            "after",
            f"steps to{gap}random",
            f"steps to{gap}source",
            f"seconds{gap}to start",
        ):
            table.add_column(title, justify="right", no_wrap=True)
        for size in self.sizes:
            for place, row in enumerate(r for r in self.rows if r.size == size):
                name = size if place == 0 or style is not None else ""
                table.add_row(*map(_cell, (name, row.method)), *self._numbers(row))
        return table

    def _numbers(self, row: Row) -> list[str]:
        if row.cannot is not None:
            return [NONE, "cannot", *[NONE] * 4]
        steps = [_steps(count) for count in (self.steps_until_random(row), self.steps_until_source(row))]
        after = _spread([curve[-1] for curve in row.curves])
        return [f"{row.parameters:,}", f"{row.before:.3f}", after, *steps, f"{fmean(row.seconds):.2f}"]

    def _curves(self, size: str) -> Table:
        rows = [r for r in self.rows if r.size == size and r.curves]
        table = Table(box=box.MARKDOWN)
        table.add_column(f"{self.metric} at step")
        for step in rows[0].steps if rows else ():
            table.add_column(str(step), justify="right")
        for row in rows:
            table.add_row(_cell(row.method), *(_spread(values) for values in zip(*row.curves, strict=True)))
        return table

    def _refused(self) -> list[str]:
        return [f"\n{row.method} cannot make {row.size}: {row.cannot}" for row in self.rows if row.cannot is not None]


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M" if parameters >= 1e6 else f"{parameters:,}"


def _cell(text: str) -> str:
    return escape(text.replace("|", "¦"))  # a bar would end the cell


def _steps(count: int | None) -> str:
    return NONE if count is None else str(count)


def _spread(values: Sequence[float]) -> str:
    """The mean, and the range where there is one."""
    mean = f"{fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}–{max(values):.3f})"
