"""What learngenes give before any training: accuracy of their descendants at every depth, by what is stored.

    python benchmarks/learngenes.py --untrained --task images      # of the ViT-S on CIFAR-10, official test split
    python benchmarks/learngenes.py --untrained --task text        # of MiniLM on SST-2, official validation split

Each learngene is made from the teacher of `../shared/data` in closed form. `condensed` is made and taken to each depth on made-up
examples alone or on 512 training examples without labels; the seeds are those of the examples. Beside it: the ancestry itself
shrunk straight to each size, whose whole weights must be kept for that; every other kind, fitted to weights, and where it can be
fitted on examples, made and taken to each depth on these too; evenly picked layers of the ancestry; FRONT. Finished jobs are kept
and skipped, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

from jobs import SOURCE, Rows, counted, heading, machine, parser_of, quiet, source_row, tabulate, timed  # noqa: E402
from learngene_task import DATA, HERE  # noqa: E402
from untrained_tasks import task_of  # noqa: E402


EXAMPLES = {"no data": "synthetic", "512 examples": "real"}
# a third of the ViT: the core is the package's choice; of MiniLM, whose embeddings are half of it, half the encoder
CORES: dict[str, dict[str, Any]] = {"images": {"stored_share": 1 / 3}, "text": {"intermediate_size": 384}}
DEPTHS = {"images": [12, 9, 6, 4], "text": [6, 4, 3, 2]}
LARGER = {"images": {"hidden_size": 384, "num_hidden_layers": 18}, "text": {"num_hidden_layers": 9}}
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "images": {
        "sws": {"num_stages": 4},
        "tleg": {},
        "fine": {},
        "wave": {"template_share": 1 / 3, "template_size": 64},
        "lets": {},
    },
    "text": {
        "sws": {"num_stages": 3},
        "tleg": {},
        "fine": {"num_groups": 2},
        "wave": {"template_share": 0.5, "template_size": 64},
        "lets": {},
    },
}
SMALLER = {"condensed to an eighth": 1 / 8, "condensed to a sixteenth": 1 / 16}  # of the ViT
REFITTED = ("sws", "fine", "wave")
FRONTS: dict[str, dict[str, Any]] = {"front": {}, "front (constant)": {"scaling": "constant"}}
PLAIN = ("ancestry's layers", *FRONTS)
METHODS = [
    *(f"{kind}, {seen}" for kind in ("condensed", "straight") for seen in EXAMPLES),
    *(f"{name}, no data" for name in SMALLER),
    *(f"{kind}{seen}" for kind in KINDS["images"] for seen in ("", *(f", {s}" for s in EXAMPLES if kind in REFITTED))),
    *PLAIN,
]


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    """Every size of one learngene, or of what stands beside them."""
    quiet()
    from hf_learngene import AutoLearngene, resize
    from hf_learngene.anatomy import anatomy_of
    from hf_learngene.learngenes.condensed.core_sizes import core_sizes

    task = task_of(options.task, options.data)
    source, seed = task.source, job["seed"]
    if job["method"] == "source":
        return [job | counted(source) | task.score(source, options.split, options.limit)]
    name, _, seen = job["method"].partition(", ")
    looks = {"calibration": "synthetic" if EXAMPLES[seen] == "synthetic" else task.real(seed)} if seen else {}
    looks |= {"processing_class": task.processor} if seen else {}
    core = {"stored_share": SMALLER[name]} if name in SMALLER else CORES[options.task]
    name = "condensed" if name in SMALLER else name
    wanted: dict[str, Any] = dict(core)
    if "stored_share" in core:
        wanted = core_sizes(anatomy_of(source.config, type(source)), core["stored_share"], {})
    rows, stored, cost = [], 1.0, 0.0
    if name == "condensed":
        learngene, cost = timed(AutoLearngene.from_ancestry, source, "condensed", seed=seed, **core, **looks)
        stored = learngene.stored_share
    elif name in KINDS[options.task]:
        options_of = KINDS[options.task][name]
        learngene, cost = timed(AutoLearngene.from_ancestry, source, name, seed=seed, **options_of, **looks)
        stored = learngene.stored_share
    sizes = [{"num_hidden_layers": depth} for depth in DEPTHS[options.task]]
    for size in [*sizes, LARGER[options.task]] if name == "condensed" else sizes:
        if name == "condensed":
            given = {} if size == sizes[0] else size
            model, seconds = timed(learngene.initialize, seed=seed, **given, **(looks if size in sizes else {}))
        elif name == "straight":
            model, seconds = timed(resize, source, seed=seed, **wanted, **size, **looks)
        elif name in FRONTS:
            model, seconds = timed(resize, source, method="front", **FRONTS[name], **wanted, **size)
        elif name == "ancestry's layers":
            model, seconds = timed(resize, source, method="weight_selection", layer_selection="uniform", **size)
        else:
            given = {} if size == sizes[0] else size
            model, seconds = timed(learngene.initialize, seed=seed, **given, **looks)
        rows.append(
            job
            | {"sizes": size, "stored": stored, "made_s": cost, "cpu_seconds": seconds}
            | counted(model)
            | task.score(model, options.split, options.limit)
        )
    return rows


def jobs(options: argparse.Namespace) -> Rows:
    found = [SOURCE]
    for method in METHODS:
        if method.partition(", ")[0] in SMALLER and options.task != "images":
            continue
        seeds = options.seeds if method.startswith("condensed,") else options.seeds[:1]
        found += [{"method": method, "seed": seed} for seed in seeds]
    return found


def report(rows: Rows, head: dict[str, Any]) -> str:
    source, task = source_row(rows), head["task"]
    seeds = len({r["seed"] for r in rows if r["method"] == METHODS[0]})
    lines = heading("Learngenes before any training", rows, head, f"seeds of `condensed`: {seeds}")
    larger = ", ".join(f"{n} {v}" for n, v in LARGER[task].items())
    lines += [
        "",
        "Accuracy in % of descendants as initialised, mean ± standard deviation over seeds. *stored*: parameters kept, as",
        "a share of the ancestry's; *made*: processor seconds to make the learngene; *each*: to make the smallest size of it.",
        f"Larger: {larger}.",
        "",
        f"| | stored | {' | '.join(f'{d} layers' for d in DEPTHS[task])} | larger | made | each |",
        f"| --- | ---: | {' | '.join('---' for _ in DEPTHS[task])} | --- | ---: | ---: |",
        f"| the ancestry | 100 % | {100 * source['accuracy']:.1f} |{' |' * (len(DEPTHS[task]) + 2)}",
    ]
    for method in METHODS:
        mine = [r for r in rows if r["method"] == method]
        if not mine:
            continue
        cells = []
        for size in [*({"num_hidden_layers": d} for d in DEPTHS[task]), LARGER[task]]:
            found = [100 * r["accuracy"] for r in mine if r["sizes"] == size]
            spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.1f}{spread}" if found else "–")
        smallest = [r["cpu_seconds"] for r in mine if r["sizes"] == {"num_hidden_layers": DEPTHS[task][-1]}]
        made, each = statistics.mean(r["made_s"] for r in mine), statistics.mean(smallest)
        lines.append(f"| {method} | {100 * mine[0]['stored']:.0f} % | {' | '.join(cells)} | {made:.0f} | {each:.0f} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    options = parser_of(__doc__, CORES, METHODS, DATA, HERE / "results").parse_args(arguments)
    seeds = " ".join(map(str, options.seeds))
    limit = f" --limit {options.limit}" if options.limit else ""
    command = f"python benchmarks/learngenes.py --untrained --task {options.task} --seeds {seeds} --split {options.split}{limit}"
    head = {
        "command": command,
        "task": options.task,
        "chance": task_of(options.task, options.data).chance,
        **machine(),
    }
    tabulate("untrained", head, jobs(options), work, report, options)
