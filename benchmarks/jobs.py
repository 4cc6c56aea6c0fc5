"""Jobs in worker processes whose results are written as they come, so that a benchmark can be stopped and started again."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any


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
    jobs: list[dict[str, Any]],
    work: Callable[..., list[dict[str, Any]]],
    options: Any,
) -> list[dict[str, Any]]:
    """Rows of all jobs: what lies at `path` under the same head stays, the rest is worked out, `options.workers` at a time.

    A row holds its job's entries. A job that fails is named and left out; run again for it.
    """
    saved = json.loads(path.read_text()) if path.exists() else {}
    rows: list[dict[str, Any]] = saved["rows"] if saved.get("head") == head else []
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
