"""Growing in the middle of a training: 50 steps later, with the optimizer's moments taken along and without.

    python benchmarks/growth_states.py --task images   # a small ViT, CIFAR-10's labels
    python benchmarks/growth_states.py --task text     # a small BERT, masked words of SST-2

The small models of `growth_task.py` are trained at a constant rate and grown to twice their width and depth on the way; training
goes on with the next examples at the same rate, and is scored on held-back ones every ten steps. All of a seed see the same
examples, so what the moments do is a difference within each seed. Finished seeds are kept and skipped.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
from collections.abc import Iterator
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

from jobs import Rows, machine, parser_of, quiet, tabulate  # noqa: E402
from learngene_task import DATA, HERE  # noqa: E402


GROWN_AFTER = (300, 1000, 3000)
STEPS, EVERY, SCORED = 50, 10, 2000
STARTS: dict[str, str | None] = {
    "moments follow": None, "moments start anew": "all", "those of copies start anew": "copies",
}  # fmt: skip
NOT_GROWN = "not grown"


def trained(task: Any, model: Any, optimizer: Any, batches: Iterator[Any], steps: int, every: int = 0) -> list[float]:
    """Trains in place; held-back losses on the way, the first before any step."""
    import torch

    losses = [task.score(model, limit=SCORED)["loss"]] if every else []
    for step in range(1, steps + 1):
        model.train()
        loss = model(**next(batches)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if every and step % every == 0:
            losses.append(task.score(model, limit=SCORED)["loss"])
    return losses


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    quiet()
    import torch
    from growth_task import DECAY, RATE, TARGETS, WARMUP, Task

    from hf_learngene import resize_with_optimizer

    task, seed = Task(options.task, options.data), job["seed"]
    model = task.model(seed)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    batches, rows, done = task.batches(seed + 1000), [], 0
    for after in GROWN_AFTER:
        for _ in range(after - done):
            trained(task, model, optimizer, batches, 1)
            warm.step()
        done = after
        next_ones = [next(batches) for _ in range(STEPS)]
        for start in (NOT_GROWN, *STARTS):
            if start == NOT_GROWN:
                one, its = copy.deepcopy((model, optimizer))
            else:
                one, its = resize_with_optimizer(model, optimizer, seed=seed, reset=STARTS[start], **TARGETS["both"])
            losses = trained(task, one, its, iter(next_ones), STEPS, EVERY)
            rows.append({"method": start, "seed": seed, "after": after, "losses": losses})
    return [job, *rows]


def report(rows: Rows, head: dict[str, Any]) -> str:
    lines = [f"# Moments that follow a growth, {head['task']}", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k not in ("command", "task")]
    lines += [
        "",
        f"Loss on {SCORED:,} held-back examples, mean over seeds. *less than anew*: how much lower it is {STEPS} steps later",
        "than where the moments start anew, within each seed: mean ± standard error, and in how many seeds it is lower.",
    ]
    for after in GROWN_AFTER:
        mine = [r for r in rows if r.get("after") == after]
        anew = {r["seed"]: r["losses"][-1] for r in mine if r["method"] == "moments start anew"}
        lines += [
            "",
            f"## Grown after {after:,} steps ({len(anew)} seeds)",
            "",
            f"| | at growth | {EVERY} steps later | {STEPS} steps later | less than anew |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for start in (NOT_GROWN, *STARTS):
            found = [r for r in mine if r["method"] == start]
            means = [statistics.mean(r["losses"][place] for r in found) for place in (0, 1, -1)]
            less = [anew[r["seed"]] - r["losses"][-1] for r in found]
            said = _paired(less) if start not in (NOT_GROWN, "moments start anew") else "–"
            lines.append(f"| {start} | {' | '.join(f'{m:.3f}' for m in means)} | {said} |")
    return "\n".join(lines) + "\n"


def _paired(less: list[float]) -> str:
    error = f" ± {statistics.stdev(less) / len(less) ** 0.5:.3f}" if len(less) > 1 else ""
    return f"{statistics.mean(less):+.3f}{error}, {sum(x > 0 for x in less)} of {len(less)}"


def main() -> None:
    parser = parser_of(__doc__, ("images", "text"), (), DATA, HERE / "results")
    options = parser.parse_args()
    seeds = " ".join(map(str, options.seeds))
    command = f"python benchmarks/growth_states.py --task {options.task} --seeds {seeds}"
    jobs = [{"method": "source", "seed": seed} for seed in options.seeds]
    tabulate("growth_states", {"command": command, "task": options.task, **machine()}, jobs, work, report, options)


if __name__ == "__main__":
    main()
