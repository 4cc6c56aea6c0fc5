"""Compute saved by growing a trained model instead of training the larger one from scratch.

    python benchmarks/growth.py --task images --seeds 0 1 2   # a small ViT, CIFAR-10's labels
    python benchmarks/growth.py --task text --seeds 0 1 2     # a small BERT, masked words of SST-2

One source of each seed is trained until its loss stands still (`growth_task.py`) and grown to twice its width, twice its depth,
and both. Every start is then trained alike: same examples, same rate, same steps. What a start saves is the share of scratch's
steps that it does not need to come to scratch's last loss on held-back examples; *compute* counts what making the start took as
well (learning an operator), in steps of the target by processor time. A start that is there ends, and is scored on the official
test split. Finished cells are kept and skipped.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

from jobs import Rows, machine, parser_of, quiet, tabulate  # noqa: E402
from learngene_task import DATA, HERE  # noqa: E402


STEPS = 3000
OPERATOR_STEPS = 100
# name of the row -> what `resize` is given; an operator's peak rate is 1e-3 by default
METHODS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "stack": {"method": "stack"},
    "Net2Net (bert2bert, fpi)": {"method": "bert2bert", "expansion": "fpi"},
    "bert2bert (aki)": {"method": "bert2bert"},
    "lemon": {"method": "lemon"},
    "ligo": {"method": "ligo", "training": {}},
    "mango": {"method": "mango", "training": {}},
    "ligo, rate 3e-3": {"method": "ligo", "training": {"learning_rate": 3e-3}},
    "mango, rate 3e-3": {"method": "mango", "training": {"learning_rate": 3e-3}},
}
PAPERS = (
    "Published, at the papers' own scale and schedules: LEMON 56.7 % (ViT) and 33.2 % (BERT); Mango 76 % (DeiT-S to B) and "
    "39.2 % (BERT), 12.0 points above bert2BERT and 20.7 above LiGO on DeiT; bert2BERT 45 % (BERT)."
)


def grown(task: Any, job: dict[str, Any]) -> tuple[Any, float]:
    """The start of a row, and the processor seconds that it took to make."""
    from growth_task import BATCH, TARGETS, source_of

    from hf_learngene import resize

    sizes, given = TARGETS[job["target"]], dict(METHODS[job["method"]])
    if job["method"] == "scratch":
        return task.model(job["seed"] + 100, **sizes), 0.0
    source = source_of(task, job["seed"])
    if "training" in given:
        steps = {"max_steps": OPERATOR_STEPS, "per_device_train_batch_size": BATCH, "use_cpu": True}
        given["training"] = steps | given["training"]
        given["train_dataset"] = task.rows(job["seed"] + 500, BATCH * OPERATOR_STEPS)
    began = time.process_time()
    model = resize(source, seed=job["seed"], **given, **sizes)
    return model, time.process_time() - began


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    quiet()
    from growth_task import RATE, Task, source_of, train

    task = Task(options.task, options.data)
    if job["method"] == "source":
        model = source_of(task, job["seed"])
        score = task.score(model)
        return [
            job
            | _size(model)
            | {"curve": [[0, score["loss"], score["accuracy"]]], "test": task.score(model, "test", None)}
        ]
    model, made = grown(task, job)
    began = time.process_time()
    average, curve = train(task, model, STEPS, job["seed"], RATE, until=job.get("until"))
    spent = time.process_time() - began
    row = job | _size(model) | {"curve": curve, "made_s": round(made, 1), "step_s": round(spent / curve[-1][0], 4)}
    return [row | {"test": task.score(average, "test", None)}]


def _size(model: Any) -> dict[str, int]:
    return {"parameters": sum(p.numel() for p in model.parameters())}


def firsts(options: argparse.Namespace) -> Rows:
    """The sources, and the runs from scratch that set the mark."""
    marks = [{"method": "scratch", "target": t, "seed": s} for s in options.seeds for t in options.targets]
    return [{"method": "source", "target": "source", "seed": s} for s in options.seeds] + marks


def races(options: argparse.Namespace, rows: Rows) -> Rows:
    found = []
    for seed in options.seeds:
        for target in options.targets:
            mark = mark_of(rows, target, seed)
            if mark is not None:
                able = [
                    m for m in METHODS if m != "scratch" and (m != "stack" or target == "depth")
                ]  # it keeps widths
                found += [{"method": m, "target": target, "seed": seed, "until": mark} for m in able]
    return found


def mark_of(rows: Rows, target: str, seed: int) -> float | None:
    """Scratch's last loss."""
    return next((r["curve"][-1][1] for r in rows if _is(r, "scratch", target) and r["seed"] == seed), None)


# ---- the report


def _is(row: dict[str, Any], method: str, target: str) -> bool:
    return row["method"] == method and row["target"] == target


def needed(row: dict[str, Any], mark: float) -> float | None:
    """Steps to the mark, between two measurements by a straight line; none where it was not reached."""
    before = None
    for step, loss, _ in row["curve"]:
        if loss <= mark:
            if before is None:
                return 0.0
            last, above = before
            return last + (step - last) * (above - mark) / (above - loss)
        before = (step, loss)
    return None


def saved(rows: Rows, method: str, target: str, compute: bool) -> list[float | None]:
    """Of scratch's steps in %, one for each seed; none where scratch's loss was not reached."""
    found: list[float | None] = []
    for row in (r for r in rows if _is(r, method, target)):
        mark = mark_of(rows, target, row["seed"])
        steps = needed(row, mark) if mark is not None else None
        spent = row["made_s"] / row["step_s"] if compute else 0.0
        found.append(None if steps is None else 100 * (1 - (steps + spent) / STEPS))
    return found


def _mean(values: list[float], digits: int = 1) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def cell(values: list[float | None]) -> str:
    if not values:
        return "–"
    reached = [v for v in values if v is not None]
    missed = "" if len(reached) == len(values) else f" ({len(values) - len(reached)} of {len(values)} never)"
    return (_mean(reached) if reached else "") + missed


def _targets(rows: Rows) -> list[str]:
    return [t for t in ("width", "depth", "both") if any(_is(r, "scratch", t) for r in rows)]


def _titled(target: str) -> str:
    return f"Twice the {'width and depth' if target == 'both' else target}"


def report(rows: Rows, head: dict[str, Any]) -> str:
    lines = [f"# Compute saved by growth, {head['task']}", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k not in ("command", "task")]
    sources = [r for r in rows if r["method"] == "source"]
    lines += [
        f"- sources: {len(sources)}, {sources[0]['parameters'] / 1e6:.2f} M parameters, "
        f"held-back loss {_mean([r['curve'][0][1] for r in sources], 3)}, "
        f"test accuracy {_mean([100 * r['test']['accuracy'] for r in sources])} %",
        "",
        "Mean ± standard deviation over seeds. *at load*: held-back loss before any step. *steps saved*: in %, of "
        f"{STEPS} from scratch,",
        "to scratch's last held-back loss; *compute saved*: the same with what making the start took. *test*: accuracy in %",
        "when it was there (scratch: at the end).",
    ]
    for target in _targets(rows):
        scratch = [r for r in rows if _is(r, "scratch", target)]
        lines += [
            "",
            f"## {_titled(target)} ({scratch[0]['parameters'] / 1e6:.2f} M parameters)",
            "",
            f"Scratch: last held-back loss {_mean([r['curve'][-1][1] for r in scratch], 3)}.",
            "",
            "| start | seeds | at load | steps saved | compute saved | test |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for method in METHODS:
            mine = [r for r in rows if _is(r, method, target)]
            if not mine:
                continue
            pairs = (
                ("–", "–") if method == "scratch" else [cell(saved(rows, method, target, c)) for c in (False, True)]
            )
            tests = _mean([100 * r["test"]["accuracy"] for r in mine])
            loads = _mean([r["curve"][0][1] for r in mine], 3)
            lines.append(f"| {method} | {len(mine)} | {loads} | {pairs[0]} | {pairs[1]} | {tests} |")
    return "\n".join([*lines, "", PAPERS]) + "\n"


def plot(rows: Rows, path: Path) -> None:
    """Held-back loss by compute, in steps of the target, the first seed of each start."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    targets = _targets(rows)
    figure, axes = pyplot.subplots(1, len(targets), figsize=(4.5 * len(targets), 3.6), squeeze=False, sharey=True)
    for axis, target in zip(axes[0], targets, strict=True):
        for number, method in enumerate(METHODS):
            row = next((r for r in rows if _is(r, method, target)), None)
            if row is None:
                continue
            spent = row["made_s"] / row["step_s"]
            steps, losses = [spent + c[0] for c in row["curve"]], [c[1] for c in row["curve"]]
            axis.plot(steps, losses, label=method, color="black" if method == "scratch" else f"C{number - 1}")
        mark = mark_of(rows, target, min(r["seed"] for r in rows if _is(r, "scratch", target)))
        axis.axhline(mark, color="grey", linewidth=0.8, linestyle="--")
        axis.set_title(_titled(target))
        axis.set_xlabel("compute, in steps of the target")
    axes[0][0].set_ylabel("held-back loss")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = parser_of(__doc__, ("images", "text"), METHODS, DATA, HERE / "results")
    parser.add_argument("--targets", nargs="+", default=["width", "depth", "both"], help="what is doubled")
    options = parser.parse_args()
    head = {
        "command": f"python benchmarks/growth.py --task {options.task} --seeds 0 1 2",
        "task": options.task,
        **machine(),
    }
    methods, options.methods = options.methods, None
    rows, _ = tabulate("growth", head, firsts(options), work, report, options)
    if not options.report:
        chosen = [j for j in races(options, rows) if not methods or j["method"] in methods]
        rows, _ = tabulate("growth", head, chosen, work, report, options)
    plot(rows, options.output / f"growth_{options.task}.png")


if __name__ == "__main__":
    main()
