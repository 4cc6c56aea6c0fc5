"""Learngenes after a distillation of equal steps and after a short fine-tune, with rates chosen for each start.

    python benchmarks/learngenes.py --trained --task images     # CIFAR-10, official test split

Teacher and ancestry are those of `learngene_task.py`. *dense* is a student of six layers that is distilled and stored whole; its
layers are picked or repeated, its width selected or grown (*calibrated*: both by `resize` on the same 512 unlabelled examples).
*condensed* is a core of a quarter of the ancestry, half of what *dense* stores, as it is made (*untrained*) and distilled for as
many steps; its descendants are made on 512 unlabelled examples. *sws*, *tleg* and *wave* store what `learngenes.py` gives them.
*each* is what they are to save: a model of each size, made of the ancestry's layers, distilled by itself for as many steps and
stored by itself. With *sandwich*, each step trains one other depth (or width) too. Every start is then fine-tuned on the labels.

Both rates are chosen for each start by 1,000 validation images with the first seed, the mean over all sizes; the other seeds are
trained at these alone. Finished jobs are kept and skipped, so that it can be stopped and started again.
"""

from __future__ import annotations

import os
import statistics
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

from jobs import SOURCE, Rows, counted, heading, machine, name_of, parser_of, quiet, tabulate, timed  # noqa: E402
from learngene_task import DATA, HERE, ancestry_of, teacher_of, trained  # noqa: E402
from untrained_tasks import task_of  # noqa: E402

from learngenes import DEPTH, DEPTHS, KINDS, WIDTHS, layers_of  # noqa: E402


SHARE = 0.25  # of the ancestry's parameters: half of a dense student of half its depth
BATCH, VALIDATED = 32, 1000
TUNE_RATES = (3e-4, 3e-5)
RATES = {"condensed": (1e-4, 3e-5)}  # it works before it is trained; the others are far from that
OTHER_RATES = (1e-3, 3e-4)
# name of the row -> (start, sandwich)
STARTS: dict[str, tuple[str, str]] = {
    "dense": ("dense", ""),
    "dense, calibrated": ("dense", ""),
    "condensed, untrained": ("condensed", ""),
    "condensed": ("condensed", ""),
    "each": ("each", ""),
    "condensed, sandwich": ("condensed", "depth"),
    "wave, sandwich": ("wave", "depth, width"),
    "sws, sandwich": ("sws", "depth"),
    "tleg, sandwich": ("tleg", "depth"),
    "dense, sandwich": ("dense", "depth"),
    "ancestry's layers": ("ancestry's layers", ""),
    "weight selection": ("weight selection", ""),
}
DISTILLED = [name for name, (start, _) in STARTS.items() if start not in ("weight selection", "ancestry's layers")
             and name != "condensed, untrained"]  # fmt: skip
SIZES: list[dict[str, int]] = [{"num_hidden_layers": d} for d in DEPTHS] + [
    {"num_hidden_layers": DEPTH, "hidden_size": w} for w in WIDTHS
]


def sizes_of(start: str) -> list[dict[str, int]]:
    return [s for s in SIZES if "hidden_size" not in s or start not in ("sws", "tleg")]


def work(job: dict[str, Any], options: Any) -> Rows:
    """Every size of one start: at load, and where rates are given for it, fine-tuned."""
    quiet()
    import torch

    from hf_learngene import AutoLearngene, resize

    torch.manual_seed(job["seed"])
    task, teacher = task_of(options.task, options.data), teacher_of(options.task, options.data)
    ancestry, data, seed = ancestry_of(options.task), task.data, job["seed"]
    if job["method"] == "source":
        return [job | counted(ancestry) | task.score(ancestry, options.split, options.limit)]
    start, sandwich = STARTS[job["method"]]
    looks = {"calibration": task.real(seed), "processing_class": task.processor}

    def distilled(student: Any, **more: Any) -> float:
        if "distil" not in job:
            return 0.0
        return timed(trained, student, data, teacher, options.steps, job["distil"], seed, BATCH, **more)[1]

    def dense(model: Any, size: dict[str, int]) -> Any:
        width = size.get("hidden_size", model.config.hidden_size)
        return (
            resize(model, hidden_size=width, seed=seed, calibration=None)
            if width != model.config.hidden_size
            else model
        )

    learngene, seconds, made = None, 0.0, 0.0
    if start in ("dense", "condensed", "sws", "tleg", "wave"):
        if start == "condensed":
            learngene, made = timed(
                AutoLearngene.from_ancestry, ancestry, "condensed", stored_share=SHARE, seed=seed, **looks
            )
        else:
            kind, given = KINDS[start]
            learngene = AutoLearngene.from_ancestry(ancestry, kind, num_hidden_layers=DEPTH, **given)
        widths = [*WIDTHS, ancestry.config.hidden_size] if "width" in sandwich else None
        inside = {"sandwich_weight": 1.0, "sandwich_min_layers": min(DEPTHS), "sandwich_max_layers": max(DEPTHS)}
        seconds = distilled(learngene, **(inside | {"sandwich_widths": widths} if sandwich else {}))

    rows = []
    for size in sizes_of(start):
        if start == "weight selection":
            model = resize(teacher, method="weight_selection", layer_selection="uniform",
                           **{"hidden_size": ancestry.config.hidden_size, **size})  # fmt: skip
        elif start in ("ancestry's layers", "each"):
            depth = {"num_hidden_layers": size["num_hidden_layers"]}
            model = dense(layers_of(ancestry).initialize(**depth), size)
            seconds = distilled(model)
        elif job["method"] == "dense, calibrated":
            model = resize(learngene.initialize(), seed=seed, **size, **looks)
        elif start == "dense":
            model = dense(learngene.initialize(num_hidden_layers=size["num_hidden_layers"]), size)
        else:
            model = learngene.initialize(seed=seed, **size, **(looks if start == "condensed" else {}))
        row = job | {"sizes": size, "made_s": made, "train_s": seconds} | counted(model)
        row["stored"] = sum(p.numel() for p in learngene.parameters()) if learngene else row["parameters"]
        row["valid"] = task.score(model, "valid", VALIDATED)["accuracy"]
        row["load"] = task.score(model, options.split, options.limit)["accuracy"]
        row["tuned"] = {}
        for rate in job.get("tune", ()):
            copy = type(model)(model.config)
            copy.load_state_dict(model.state_dict())
            torch.manual_seed(seed)
            trained(copy, data, None, options.tune_steps, rate, seed, BATCH)
            row["tuned"][str(rate)] = [
                task.score(copy, "valid", VALIDATED)["accuracy"],
                task.score(copy, options.split, options.limit)["accuracy"],
            ]
        rows.append(row)
    return rows


# ---- which jobs: rates of the distillation first, then rates of the fine-tune, then the other seeds


def searches(options: Any) -> Rows:
    first = options.seeds[0]
    found: Rows = [SOURCE]
    for name in DISTILLED:
        found += [{"method": name, "seed": first, "distil": r} for r in RATES.get(STARTS[name][0], OTHER_RATES)]
    return found


def measurements(options: Any, rows: Rows, seeds: list[int]) -> Rows:
    found = []
    for name in STARTS:
        if name in DISTILLED and not any(r["method"] == name for r in rows):
            continue
        distil = {"distil": best_rate(rows, name)} if name in DISTILLED else {}
        tune = [best_tuning(rows, name)] if seeds[0] != options.seeds[0] else list(TUNE_RATES)
        found += [{"method": name, "seed": seed, "tune": tune} | distil for seed in seeds]
    return found


def best_rate(rows: Rows, name: str) -> float:
    """The distillation's rate that does best on validation images, mean over all sizes."""
    mine = [r for r in rows if r["method"] == name and "tune" not in r]
    rates = sorted({r["distil"] for r in mine})
    return max(rates, key=lambda rate: statistics.mean(r["valid"] for r in mine if r["distil"] == rate))


def best_tuning(rows: Rows, name: str) -> float:
    """The same of the fine-tune."""
    mine = [r["tuned"] for r in rows if r["method"] == name and len(r.get("tune", ())) > 1]
    return max(TUNE_RATES, key=lambda rate: statistics.mean([t[str(rate)][0] for t in mine] or [0.0]))


# ---- the report


def measured(rows: Rows, name: str, size: dict[str, int]) -> tuple[list[float], list[float]]:
    """Accuracies in %, at load and after the fine-tune, one for each seed."""
    mine = [r for r in rows if r["method"] == name and r["sizes"] == size and "tune" in r]
    rate = str(best_tuning(rows, name))
    return [100 * r["load"] for r in mine], [100 * r["tuned"][rate][1] for r in mine]


def cell(rows: Rows, name: str, size: dict[str, int]) -> str:
    def shown(values: list[float]) -> str:
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    load, tuned = measured(rows, name, size)
    return f"{shown(load)} → {shown(tuned)}" if load else "–"


def report(rows: Rows, head: dict[str, Any]) -> str:
    seeds = len({r["seed"] for r in rows if "tune" in r})
    lines = heading("Learngenes after training", rows, head, f"seeds: {seeds}")
    lines += [
        "",
        "Accuracy in %, at load → after the fine-tune, mean ± standard deviation over seeds. The source is the ancestry.",
        "*stored*: parameters; of *each*, of all sizes together. *training*: processor seconds of all distillations, the",
        "making of the core included; the teacher's logits, which all share, are not. *rates*: of distillation and fine-tune.",
        "",
        f"| start | stored | training | rates | {' | '.join(map(name_of, SIZES))} |",
        f"| --- | ---: | ---: | --- | {' | '.join('---' for _ in SIZES)} |",
    ]
    for name in STARTS:
        mine = [r for r in rows if r["method"] == name and "tune" in r]
        if not mine:
            continue
        stored, seconds = totals(mine, name)
        rates = (
            f"{mine[0]['distil']:g}, {best_tuning(rows, name):g}"
            if "distil" in mine[0]
            else f"{best_tuning(rows, name):g}"
        )
        cells = " | ".join(cell(rows, name, size) for size in SIZES)
        shown = f"{seconds:.0f}" if seconds else "–"
        lines.append(f"| {name} | {stored / 1e6:.2f} M | {shown} | {rates} | {cells} |")
    return "\n".join([*lines, "", *_ratios(rows)]) + "\n"


def totals(mine: Rows, name: str) -> tuple[int, float]:
    """Parameters stored and processor seconds of training, for all sizes of one start; the fewest seconds of all seeds."""
    seeds = {r["seed"] for r in mine}
    if STARTS[name][0] in ("each", "weight selection", "ancestry's layers"):
        stored = sum(r["stored"] for r in mine) // len(seeds)
        return stored, min(sum(r["train_s"] for r in mine if r["seed"] == s) for s in seeds)
    return mine[0]["stored"], min(r["train_s"] + r["made_s"] for r in mine)


def _ratios(rows: Rows) -> list[str]:
    """What n models cost and store against one learngene, as WAVE (2406.17503) and SWS (2404.16897) report it."""
    lines = ["Against a model of each size, distilled and stored by itself, for the sizes that a kind makes:", ""]
    for name in DISTILLED:
        mine = [r for r in rows if r["method"] == name and "tune" in r]
        sizes = [s for s in SIZES if any(r["sizes"] == s for r in mine)]
        each = [r for r in rows if r["method"] == "each" and "tune" in r and r["sizes"] in sizes]
        if name == "each" or not mine or not each:
            continue
        many, one = totals(each, "each"), totals(mine, name)
        gaps = [
            statistics.mean(measured(rows, name, s)[0]) - statistics.mean(measured(rows, "each", s)[0]) for s in sizes
        ]
        lines.append(
            f"- {name}: {len(sizes)} sizes, {many[1] / one[1]:.1f} × the training, {many[0] / one[0]:.1f} × the storage; "
            f"accuracy at load {min(gaps):+.1f} to {max(gaps):+.1f} points."
        )
    return lines


def main(arguments: list[str]) -> None:
    parser = parser_of(__doc__, ("images",), STARTS, DATA, HERE / "results")
    parser.add_argument("--steps", type=int, default=150, help="of each distillation")
    parser.add_argument("--tune-steps", type=int, default=40, help="of each fine-tune")
    options = parser.parse_args(arguments)
    spelt = f"--steps {options.steps} --tune-steps {options.tune_steps} --seeds {' '.join(map(str, options.seeds))}"
    limit = f" --limit {options.limit}" if options.limit else ""
    head = {
        "command": f"python benchmarks/learngenes.py --trained --task {options.task} {spelt} --split {options.split}{limit}",
        "task": options.task,
        **machine(),
    }
    rows, _ = tabulate("trained", head, searches(options), work, report, options)
    if options.report:
        return
    for seeds in ([options.seeds[0]], options.seeds[1:]):
        if seeds:
            rows, _ = tabulate("trained", head, measurements(options, rows, seeds), work, report, options)
