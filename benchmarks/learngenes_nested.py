"""Slices of a condensed learngene before training, and one nested training against n models distilled one by one.

    python benchmarks/learngenes.py --nested --task images     # of the ViT-S on CIFAR-10, official test split

Slices: the whole ancestry, sorted (`condensed`, stored_share=1, 512 unlabelled examples), and what its first parts give as they
are, beside evenly spread parts, and Taylor's choice of the dimensions of heads (with labels), which SKD (arXiv 2511.11683) sorts.

Training: a core of a third. *one*: distilled once for `--steps`, in each of them the core and one smaller size inside it, and
every size taken as a slice of it. *turns*: the same, but each step trains one drawn size alone. *n models*: each size made by a
calibrated shrink of the core, then distilled by itself for as many steps. All are taught by the ancestry alone. The rate of each
is the one of `--rates` that did best on 2,000 validation images: for *n models* with the first seed, each size by itself, and the
other seeds are trained at that rate alone; for *one* over all seeds and sizes, for *turns* over all sizes with the first seed,
once for the slices and once for what `initialize` makes of the trained core. Cores are kept in `benchmarks/.cache`, finished jobs
in the results, so that it can be stopped and started again.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

from jobs import SOURCE, Rows, cell, counted, heading, machine, name_of, parser_of, quiet, tabulate, timed  # noqa: E402
from learngene_task import CACHE, DATA, HERE, teacher_of, trained  # noqa: E402
from untrained_tasks import examples_of, task_of  # noqa: E402


SLICES: dict[str, list[dict[str, int]]] = {
    "images": [
        *({"num_attention_heads": 6, "head_dim": size} for size in (48, 32, 16)),
        *({"intermediate_size": units} for units in (1152, 768, 384)),
        *({"num_attention_heads": heads, "head_dim": 64} for heads in (4, 3, 2)),
        *({"hidden_size": 64 * heads, "num_attention_heads": 6, "head_dim": 64} for heads in (5, 4, 3)),
        *({"num_hidden_layers": layers} for layers in (9, 6)),
    ],
}  # fmt: skip
NAMES = {"nested": "first parts", "spread": "evenly spread", "taylor": "Taylor, of labels"}
DEPTHS, WIDTHS = (12, 9, 6), (192, 128)
SIZES: list[dict[str, int]] = [{"num_hidden_layers": d, "hidden_size": w} for w in WIDTHS for d in DEPTHS]
SHARE, BATCH, VALIDATED = 1 / 3, 32, 2000
ONCE = ("one", "turns")
TRAINED = ("start", "slices", "one", "one, calibrated", "turns", "turns, calibrated", "n models")


def work(job: dict[str, Any], options: Any) -> Rows:
    """The rows of one job: slices, the core's sizes before training, one nested training, or one size distilled alone."""
    import torch

    quiet()
    torch.manual_seed(job["seed"])
    from hf_learngene import AutoLearngene, resize

    task = task_of(options.task, options.data)
    source, seed, method = task.source, job["seed"], job["method"]

    def row(size: dict[str, int], model: Any, name: str = method, **more: Any) -> dict[str, Any]:
        valid = {"valid": task.score(model, "valid", VALIDATED)["accuracy"]} if name in TRAINED else {}
        found = task.score(model, options.split, options.limit)
        return job | {"method": name, "sizes": size} | counted(model) | valid | found | more

    if method == "source":
        return [row({}, source)]
    looks = {"calibration": task.real(seed), "processing_class": task.processor}
    if method in ("nested", "spread"):
        whole = AutoLearngene.from_ancestry(
            source, "condensed", stored_share=1, seed=seed, nested=method == "nested", **looks
        )
        return [row(size, whole.initialize(calibration=None, **size)) for size in SLICES[options.task]]
    if method == "taylor":
        labelled = examples_of(task.data, seed, labels=True)
        wanted = [size for size in SLICES[options.task] if size.keys() == {"num_attention_heads", "head_dim"}]
        return [row(size, resize(source, method="taylor", calibration=labelled, **size)) for size in wanted]

    core, made = _core(options.task, source, seed, looks)
    teacher = teacher_of(options.task, options.data)
    distil = {"steps": options.steps, "rate": job.get("rate"), "seed": seed, "batch": BATCH, "alpha": 1.0}
    if method == "start":
        rows = []
        for size in SIZES:
            shrunk, seconds = timed(core.initialize, seed=seed, **size, **looks)
            rows += [row(size, shrunk, "start", cpu_seconds=made + seconds)]
            rows += [row(size, core.initialize(calibration=None, **size), "slices", cpu_seconds=made)]
        return rows
    if method in ONCE:
        inside: dict[str, Any] = {"sandwich_weight": 1.0, "auxiliary_weight": 1.0 if method == "one" else 0.0}
        inside |= {
            "sandwich_min_layers": min(DEPTHS),
            "sandwich_max_layers": max(DEPTHS),
            "sandwich_widths": list(WIDTHS),
        }
        _, seconds = timed(trained, core, task.data, teacher, **distil, **inside)
        rows = [row(size, core.initialize(calibration=None, **size), cpu_seconds=seconds) for size in SIZES]
        again = [core.initialize(seed=seed, **size, **looks) for size in SIZES]
        return rows + [
            row(size, model, f"{method}, calibrated", cpu_seconds=seconds)
            for size, model in zip(SIZES, again, strict=True)
        ]
    size = job["sizes"]
    model = core.initialize(seed=seed, **size, **looks)
    _, seconds = timed(trained, model, task.data, teacher, **distil)
    return [row(size, model, cpu_seconds=seconds)]


def _core(task: str, source: Any, seed: int, looks: dict[str, Any]) -> tuple[Any, float]:
    """The core of a seed, and the processor seconds that it once took."""
    from hf_learngene import AutoLearngene

    path = CACHE / "nested" / f"{task}-{seed}"
    if not path.exists():
        core, seconds = timed(AutoLearngene.from_ancestry, source, "condensed", stored_share=SHARE, seed=seed, **looks)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        core.save_pretrained(partial)
        (partial / "seconds").write_text(str(seconds))
        with contextlib.suppress(OSError):  # another worker was first
            os.replace(partial, path)
    return AutoLearngene.from_pretrained(path).eval(), float((path / "seconds").read_text())


def starts(options: Any) -> Rows:
    """What is looked at untrained, by which the cores are made."""
    return [SOURCE, *({"method": "start", "seed": s} for s in options.seeds)] + [
        {"method": m, "seed": options.seeds[0]} for m in NAMES
    ]


def trainings(options: Any, seeds: list[int], found: Rows) -> Rows:
    """All sizes in one training, and each by itself: at every rate or, but for *one*, where rows are `found`, at the best."""
    first = options.seeds[0]
    kept = {r["rate"] for name in ("turns", "turns, calibrated") for r in best(found, name, first)}
    jobs: Rows = [{"method": "one", "seed": s, "rate": rate} for s in seeds for rate in options.rates]
    jobs += [{"method": "turns", "seed": s, "rate": rate} for s in seeds for rate in sorted(kept) or options.rates]
    for size in SIZES:
        mine = best([r for r in found if r["sizes"] == size], "n models", first)
        rates = sorted({r["rate"] for r in mine}) or options.rates
        jobs += [{"method": "n models", "seed": s, "rate": rate, "sizes": size} for s in seeds for rate in rates]
    return jobs


def best(rows: Rows, method: str, first: int) -> Rows:
    """Rows of the rate that did best on validation data: for each size, with the first seed; for all sizes of one training."""
    mine = [r for r in rows if r["method"] == method]
    if not mine or "rate" not in mine[0]:
        return mine
    rates = sorted({r["rate"] for r in mine})
    alone, by_first = method == "n models", not method.startswith("one")
    chosen: Rows = []
    for group in [[size] for size in SIZES] if alone else [SIZES]:
        here = [r for r in mine if r["sizes"] in group]

        def valid(rate: float, here: Rows = here) -> float:
            return statistics.mean(
                [r["valid"] for r in here if r["rate"] == rate and (not by_first or r["seed"] == first)] or [0.0]
            )

        chosen += [r for r in here if r["rate"] == max(rates, key=valid)]
    return chosen


def report(rows: Rows, head: dict[str, Any]) -> str:
    first = min((r["seed"] for r in rows if r["method"] in TRAINED), default=0)
    seeds = sorted({r["seed"] for r in rows if r["method"] == "one"})
    lines = heading("Slices of a condensed learngene", rows, head, f"seeds of the training: {len(seeds)}")
    lines += [
        "",
        "## Before any training",
        "",
        "Accuracy in % of what is left of the whole ancestry, its weights as they are.",
        "",
    ]
    lines += [f"| | {' | '.join(NAMES.values())} |", f"| --- | {' | '.join('---:' for _ in NAMES)} |"]
    for size in SLICES[head["task"]]:
        here = [r for r in rows if r["sizes"] == size]
        lines.append(f"| {name_of(size)} | {' | '.join(cell(here, m) for m in NAMES)} |")
    lines += ["", "## One training against n", ""]
    lines += [
        f"A core of a third; {head['steps']} steps of {BATCH} images. Accuracy in %, mean ± standard deviation over seeds.",
        "",
    ]
    lines += [
        "| | parameters | calibrated, untrained | slice, untrained | one training | the same, calibrated anew | one, a size each "
        "step | the same, calibrated anew | n trainings |"
    ]
    lines += [f"| --- | ---: | {' | '.join('---' for _ in TRAINED)} |"]
    chosen = [r for m in TRAINED for r in best(rows, m, first)]
    for size in SIZES:
        here = [r for r in chosen if r["sizes"] == size]
        if here:
            cells = " | ".join(cell(here, m) for m in TRAINED)
            lines.append(f"| {name_of(size)} | {here[0]['parameters'] / 1e6:.1f} M | {cells} |")
    lines += ["", *_totals(chosen)]
    return "\n".join(lines) + "\n"


def _totals(chosen: Rows) -> list[str]:
    """What all sizes together cost: processor seconds of training, and parameters that are stored."""
    once = {m: [r["cpu_seconds"] for r in chosen if r["method"] == m and r["sizes"] == SIZES[0]] for m in ONCE}
    each = [[r["cpu_seconds"] for r in chosen if r["method"] == "n models" and r["sizes"] == size] for size in SIZES]
    if not all(once.values()) or not all(each):
        return []
    many = sum(map(min, each))  # the first training of all makes the teacher's logits too
    lines = [f"Training of all sizes one by one: {many:.0f} processor seconds."]
    lines += [
        f"{m.capitalize()}: {min(found):.0f} processor seconds, {many / min(found):.1f} times less."
        for m, found in once.items()
    ]
    stored = [next(r["parameters"] for r in chosen if r["sizes"] == size) for size in SIZES]
    rates = [(m, sorted({r["rate"] for r in chosen if r["method"] == m})) for m in TRAINED[2:]]
    return [
        *lines,
        f"Stored: {stored[0] / 1e6:.1f} M parameters and {sum(stored) / 1e6:.1f} M, {sum(stored) / stored[0]:.1f} times as much.",
        f"Rates: {'; '.join(f'{method} {each}' for method, each in rates)}.",
    ]


def main(arguments: list[str]) -> None:
    parser = parser_of(__doc__, SLICES, [*NAMES, *TRAINED], DATA, HERE / "results")
    parser.add_argument("--steps", type=int, default=200, help="of each distillation")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[3e-6, 1e-5, 3e-5, 1e-4], help="of which the best is taken"
    )
    options = parser.parse_args(arguments)
    spelt = f"--steps {options.steps} --rates {' '.join(map(str, options.rates))} --seeds {' '.join(map(str, options.seeds))}"
    limit = f" --limit {options.limit}" if options.limit else ""
    head = {
        "command": f"python benchmarks/learngenes.py --nested --task {options.task} {spelt} --split {options.split}{limit}",
        "task": options.task,
        "steps": options.steps,
        **machine(),
    }
    for jobs in (starts, lambda o: trainings(o, o.seeds[:1], [])):
        rows, _ = tabulate("nested", head, jobs(options), work, report, options)
    if not options.report:
        tabulate("nested", head, trainings(options, options.seeds[1:], rows), work, report, options)
