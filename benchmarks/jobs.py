"""Cells of a table, each a model shrunk and measured in a worker process; results are written as they come, so that a
benchmark can be stopped and started again.

A cell's job is a method, sizes and a seed; its row holds the same and what was measured. The job "source" is the model as it is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any


HEAD_SIZE = 64  # of the ViTs here
SOURCE: dict[str, Any] = {"method": "source", "sizes": {}, "seed": 0}
Rows = list[dict[str, Any]]


def write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)


def machine() -> dict[str, str]:
    import torch
    import transformers

    return {
        "machine": f"{platform.processor() or platform.machine()}, cpu, {os.cpu_count()} cores",
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}",
    }


def finish(
    path: Path,
    head: dict[str, Any],
    jobs: Rows,
    work: Callable[..., Rows],
    options: Any,
) -> Rows:
    """Rows of all jobs: what lies at `path` under the same head stays, the rest is worked out, `options.workers` at a time.

    A row holds its job's entries. A job that fails is named and left out; run again for it.
    """
    saved = json.loads(path.read_text()) if path.exists() else {}
    rows: Rows = saved["rows"] if saved.get("head") == head else []
    todo = [job for job in jobs if not any(all(row.get(k) == v for k, v in job.items()) for row in rows)]
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(work, job, options): job for job in todo}
        for number, future in enumerate(as_completed(running), 1):
            try:
                rows += future.result()
            except Exception as error:
                print(f"{running[future]}: {error!r}", flush=True)
                continue
            write(path, json.dumps({"head": head, "rows": rows}, indent=1))
            print(f"{number} of {len(todo)}: {running[future]}", flush=True)
    return rows


def parser_of(
    about: str | None, tasks: Iterable[str], methods: Iterable[str], data: Path, output: Path
) -> argparse.ArgumentParser:
    """The options that every table of cells has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=tuple(tasks), default="images")
    parser.add_argument("--data", type=Path, default=data, help="teachers and data sets")
    parser.add_argument("--methods", nargs="+", choices=tuple(methods), help="some of the methods")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="calibration sets")
    parser.add_argument(
        "--split", choices=("valid", "test"), default="test", help="what is measured; valid to choose by"
    )
    parser.add_argument("--limit", type=int, help="examples of it; default: all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="only write the table of the cells that are there")
    parser.add_argument("--output", type=Path, default=output)
    return parser


def command_of(script: str, options: argparse.Namespace) -> str:
    seeds = " ".join(map(str, options.seeds))
    limit = f" --limit {options.limit}" if options.limit else ""
    return f"python benchmarks/{script} --task {options.task} --seeds {seeds} --split {options.split}{limit}"


def tabulate(
    name: str,
    head: dict[str, Any],
    jobs: Rows,
    work: Callable[..., Rows],
    report: Callable[[Rows, dict[str, Any]], str],
    options: argparse.Namespace,
) -> tuple[Rows, dict[str, Any]]:
    """Works out every job, or with `--report` reads what is there, and writes the table beside the rows."""
    path = options.output / f"{name}_{options.task}.json"
    options.output.mkdir(parents=True, exist_ok=True)
    if options.report:
        saved = json.loads(path.read_text())
        head, rows = saved["head"], saved["rows"]
    else:
        jobs = [j for j in jobs if not options.methods or j["method"] in ("source", *options.methods)]
        rows = finish(path, head, jobs, work, options)
    if not any(r["method"] == "source" for r in rows):
        raise SystemExit(f"{path.name} has no row of the source yet; run again.")
    write(path.with_suffix(".md"), report(rows, head))
    print(report(rows, head))
    return rows, head


# ---- in a worker


def quiet() -> None:
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def timed(make: Callable[..., Any], *given: Any, **named: Any) -> tuple[Any, float]:
    """What is made, and the processor seconds that it took."""
    began = time.process_time()
    made = make(*given, **named)
    return made, round(time.process_time() - began, 1)


def counted(model: Any) -> dict[str, int]:
    """Parameters of a model, and those of its layers."""
    from hf_learngene.anatomy import anatomy_of

    layers = (t.numel for t in anatomy_of(model.config, type(model)).tensors.values() if t.layer is not None)
    return {"parameters": sum(p.numel() for p in model.parameters()), "encoder": sum(layers)}


# ---- in a report


def heading(title: str, rows: Rows, head: dict[str, Any], seen: str, unit: str = " %") -> list[str]:
    """What stands above the table; `seen` says how many seeds there are of what."""
    source = source_row(rows)
    lines = [f"# {title}, {head['task']}", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k not in ("command", "task")]
    size = f"encoder {source['encoder'] / 1e6:.1f} M, all {source['parameters'] / 1e6:.1f} M parameters"
    return [*lines, f"- {seen}", f"- source: {100 * source['accuracy']:.1f}{unit}, {size}"]


def source_row(rows: Rows) -> dict[str, Any]:
    return next(r for r in rows if r["method"] == "source")


def by_size(rows: Rows, shapes: Sequence[dict[str, int]]) -> list[tuple[dict[str, int], Rows]]:
    """Shapes that have rows, the largest first, each with its rows."""
    found = [(sizes, [r for r in rows if r["sizes"] == sizes and r["method"] != "source"]) for sizes in shapes]
    return sorted(((s, mine) for s, mine in found if mine), key=lambda one: -max(r["encoder"] for r in one[1]))


def name_of(sizes: dict[str, int]) -> str:
    short = {
        "hidden_size": "width",
        "num_attention_heads": "heads",
        "intermediate_size": "ffn",
        "num_hidden_layers": "layers",
    }
    if sizes.get("head_dim") != HEAD_SIZE:
        short["head_dim"] = "head size"
    return ", ".join(f"{short[k]} {v}" for k, v in sizes.items() if k in short)


def accuracies(rows: Rows, method: str) -> list[float]:
    return [r["accuracy"] for r in rows if r["method"] == method]


def cell(rows: Rows, method: str) -> str:
    """A method's accuracy in %, mean ± standard deviation."""
    values = [100 * a for a in accuracies(rows, method)]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}" if values else "–"


def kept(rows: Rows, method: str, source: dict[str, Any], chance: float) -> str:
    """The share of the source's gap over chance."""
    values = accuracies(rows, method)
    return f"{(statistics.mean(values) - chance) / (source['accuracy'] - chance):.1%}" if values else "–"


def size_of(rows: Rows, source: dict[str, Any]) -> str:
    encoder = rows[0]["encoder"]
    return f"{encoder / 1e6:.1f} M | {encoder / source['encoder']:.0%}"
