"""Learngenes against what they must match: accuracy of their descendants at load and after a short fine-tune.

    python benchmarks/learngenes.py --task images
    python benchmarks/learngenes.py --task text
    python benchmarks/learngenes.py --untrained --task images    # before any training, see `learngenes_untrained.py`
    python benchmarks/learngenes.py --nested --task images       # one nested training against n, see `learngenes_nested.py`
    python benchmarks/learngenes.py --trained --task images      # `condensed` among them, see `learngenes_trained.py`

Teacher and ancestry are those of `learngene_task.py`. Each learngene is fitted to the ancestry in closed form, distilled from the
teacher for `--steps`, and asked for models of several depths (WAVE of several widths too); each is fine-tuned for `--tune-steps`
on the labels. Beside them, at the same steps: random init, weight selection from the teacher, the ancestry's layers, and the
layers of a dense student distilled with the same budget (stages = layers, so that nothing is shared; widths by `resize`). With
and without sandwich training. Finished jobs are kept and skipped, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from jobs import finish, machine, write  # noqa: E402
from learngene_task import CACHE, DATA, HERE, TASKS, Data, ancestry_of, teacher_of, trained  # noqa: E402


DEPTH, DEPTHS = 6, [3, 6, 9]
WIDTHS = [128, 256]
# name -> (learngene type, options); `dense` shares nothing: its layers are picked or repeated
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("sws", {"num_stages": DEPTH}),
    "sws": ("sws", {"num_stages": 3}),
    "tleg": ("tleg", {}),
    "fine": ("fine", {}),
    "fine, 2 groups": ("fine", {"num_groups": 2}),
    "wave": ("wave", {"template_share": 0.5, "template_size": 64}),  # 64 divides every width asked for
}
# only where --starts names them
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{name}, all": (KINDS[name][0], {**KINDS[name][1], "fit_layers": "all"}) for name in ("sws", "tleg", "wave")
} | {"wave 0.25": ("wave", {"template_share": 0.25, "template_size": 64}), "lets": ("lets", {})}
CONTROLS = ("random", "weight selection", "ancestry's layers")
ADAPTED = ("fine", "fine, 2 groups", "wave")  # what has scalers


def sizes_of(start: str) -> list[dict[str, int]]:
    wide = [{"num_hidden_layers": DEPTH, "hidden_size": w} for w in WIDTHS]
    return [{"num_hidden_layers": d} for d in DEPTHS] + (
        wide if start in ("random", "weight selection", "dense") or start.startswith("wave") else []
    )


class Start:
    """One way to start, with one seed: what it stores, and a model of each size."""

    def __init__(self, job: dict[str, Any], data: Data, options: argparse.Namespace) -> None:
        from hf_learngene import AutoLearngene

        self.job, self.data, self.options = job, data, options
        self.stored, self.stored_layers = 1.0, 1.0
        self.teacher = teacher_of(options.task, options.data)
        self.ancestry = ancestry_of(options.task)
        self.learngene: Any = None
        name = job["start"]
        if name not in CONTROLS:
            kind, given = {**KINDS, **VARIANTS}[name]
            self.learngene = AutoLearngene.from_ancestry(self.ancestry, kind, num_hidden_layers=DEPTH, **given)
            sandwich: dict[str, Any] = {}
            if job["sandwich"]:
                least, most = min(DEPTHS), max(DEPTHS)
                sandwich = {"sandwich_weight": 1.0, "sandwich_min_layers": least, "sandwich_max_layers": most}
                if job["sandwich"] == "depth, width":
                    sandwich |= {"sandwich_widths": [*WIDTHS, self.ancestry.config.hidden_size]}
            trained(
                self.learngene, data, self.teacher, options.steps, options.rate, job["seed"], options.batch, **sandwich
            )
            self.stored = self.learngene.stored_share
            kept = sum(p.numel() for p in self.learngene.shared.parameters())
            layers = sum(t.numel for t in self.learngene.anatomy.tensors.values() if t.layer is not None)
            self.stored_layers = kept / layers

    def make(self, size: dict[str, int]) -> Any:
        from hf_learngene import resize

        name, seed = self.job["start"], self.job["seed"]
        if name == "random":
            return resize(self.ancestry, method="random", seed=seed, **size)
        if name == "weight selection":
            size = {"hidden_size": self.ancestry.config.hidden_size, **size}
            deeper = size["num_hidden_layers"] > self.teacher.config.num_hidden_layers
            if deeper:  # selection only shrinks: the teacher's width first, then its layers repeated
                small = resize(self.teacher, method="weight_selection", hidden_size=size["hidden_size"])
                return layers_of(small).initialize(num_hidden_layers=size["num_hidden_layers"])
            return resize(self.teacher, method="weight_selection", layer_selection="uniform", **size)
        if name == "ancestry's layers":
            return layers_of(self.ancestry).initialize(**size)
        if name == "dense" and "hidden_size" in size:
            model, width = self.learngene.initialize(), size["hidden_size"]
            if width > model.config.hidden_size:  # post-norm widths that are no multiple grow with a small loss only
                return resize(model, method="lemon", hidden_size=width, seed=seed, allow_lossy=True)
            return resize(model, hidden_size=width, seed=seed)
        return self.learngene.initialize(seed=seed, **size)

    def adapted(self, size: dict[str, int], steps: int) -> Any:
        """The scalers of this size learnt for so many steps, then collapsed."""
        from learngene_task import Places, collator

        made = self.learngene.adapt(
            Places(self.data.task, len(self.data.splits["train"][1])), teacher=self.teacher, steps=steps,
            seed=self.job["seed"], per_device_train_batch_size=self.options.batch, use_cpu=True, disable_tqdm=True,
            remove_unused_columns=False, dataloader_pin_memory=False, cache_teacher=True, per_device_eval_batch_size=250,
            output_dir=str(CACHE / self.data.task), data_collator=collator(self.data), **size,
        )  # fmt: skip
        return made.initialize()


def layers_of(model: Any) -> Any:
    """A learngene that shares nothing: it picks or repeats the model's own layers."""
    from hf_learngene import AutoLearngene

    return AutoLearngene.from_ancestry(model, "sws", num_stages=model.config.num_hidden_layers)


def work(job: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One start with one seed: distilled, then every size at load and fine-tuned."""
    torch.set_num_threads(1)  # a core each: two threads that wait for one another are slower than two jobs
    torch.manual_seed(job["seed"])
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    data = Data(options.task, options.data)
    start = Start(job, data, options)
    rows = []
    rates = options.random_rates if job["start"] == "random" else options.rates
    for size in sizes_of(job["start"]):
        row = {**job, **size, "stored": start.stored, "stored_layers": start.stored_layers}
        row["load"] = data.accuracy(start.make(size), options.split, options.test_limit)

        def tuned(model: Any, steps: int) -> dict[str, float]:
            found = {}
            for rate in rates:
                torch.manual_seed(job["seed"])
                copy = type(model)(model.config)
                copy.load_state_dict(model.state_dict())
                trained(copy, data, None, steps, rate, job["seed"], options.batch)
                found[str(rate)] = data.accuracy(copy, options.split, options.test_limit)
            return found

        row["tuned"] = tuned(start.make(size), options.tune_steps)
        if job["start"] in ADAPTED and not job["sandwich"]:
            half = options.tune_steps // 2
            model = start.adapted(size, half)
            row["adapted"] = data.accuracy(model, options.split, options.test_limit)
            row["adapted, tuned"] = tuned(model, options.tune_steps - half)
        rows.append(row)
    return rows


def jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    starts = [(k, "") for k in CONTROLS]
    starts += [(k, s) for k in KINDS for s in ("", "depth")] + [("wave", "depth, width")]
    starts += [(k, "") for k in VARIANTS if k in (options.starts or ())]
    found = [{"start": k, "sandwich": s, "seed": seed} for seed, (k, s) in itertools.product(options.seeds, starts)]
    return sorted(found, key=lambda job: bool(job["sandwich"]))  # the plain comparison is whole first


# ---- the report


Key = tuple[str, str, bool]  # start, sandwich, with scalers adapted first


def summary(rows: list[dict[str, Any]], size: tuple[int, int | None]) -> dict[Key, dict[str, list[float]]]:
    """For one size: start -> accuracies at load and tuned, over seeds."""
    found: dict[Key, dict[str, list[float]]] = {}
    for row in rows:
        if (row["num_hidden_layers"], row.get("hidden_size")) != size:
            continue
        for adapted, load, tuned in ((False, "load", "tuned"), (True, "adapted", "adapted, tuned")):
            if load in row:
                entry = found.setdefault((row["start"], row["sandwich"], adapted), {"load": [], "tuned": []})
                entry["load"].append(row[load])
                entry["tuned"].append(max(row[tuned].values()))
    return found


def cell(entry: dict[str, list[float]] | None) -> str:
    if not entry:
        return "–"
    parts = []
    for values in (entry["load"], entry["tuned"]):
        spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
        parts.append(f"{100 * statistics.mean(values):.1f}{spread}")
    return " → ".join(parts)


def report(rows: list[dict[str, Any]], head: dict[str, Any]) -> str:
    sizes = sorted({(r["num_hidden_layers"], r.get("hidden_size")) for r in rows}, key=lambda s: (s[1] is not None, s))
    named = [f"{d} layers" if w is None else f"{d} layers, width {w}" for d, w in sizes]
    lines = [f"# Learngenes, {head['task']}", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "command"]
    lines += [
        "",
        "Accuracy in %, at load → after the fine-tune; mean ± standard deviation over seeds. *stored*: parameters of the layers",
        "and of all that is kept, as shares of the dense auxiliary model's. *adapted*: scalers learnt for half the steps, with",
        "the teacher, before the fine-tune takes the other half.",
        "",
        "| start | sandwich | adapted | stored | " + " | ".join(named) + " |",
        "| --- | --- | --- | ---: |" + " --- |" * len(sizes),
    ]
    tables = {s: summary(rows, s) for s in sizes}
    order = {name: i for i, name in enumerate([*CONTROLS, *KINDS, *VARIANTS])}
    for key in sorted({k for t in tables.values() for k in t}, key=lambda k: (len(k[1]), order[k[0]], k[2])):
        mine = [r for r in rows if (r["start"], r["sandwich"]) == key[:2]]
        learnt = key[0] not in CONTROLS
        stored = f"{mine[0]['stored_layers']:.0%}, {mine[0]['stored']:.0%}" if learnt else "–"
        cells = " | ".join(cell(tables[s].get(key)) for s in sizes)
        lines.append(f"| {key[0]} | {key[1] or '–'} | {'yes' if key[2] else '–'} | {stored} | {cells} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], head: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    depths = sorted({r["num_hidden_layers"] for r in rows if not r.get("hidden_size")})
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 7), sharex=True, constrained_layout=True)
    names = [n for n in (*CONTROLS, *KINDS) if any(r["start"] == n for r in rows)]
    for column, sandwich in enumerate(("", "depth")):
        for row, what in enumerate(("load", "tuned")):
            axis = axes[row][column]
            for number, name in enumerate(names):
                key = (name, sandwich if name in KINDS else "", False)
                entries = [summary(rows, (depth, None)).get(key) for depth in depths]
                means = [100 * statistics.mean(e[what]) if e else float("nan") for e in entries]
                spread = [100 * statistics.stdev(e[what]) if e and len(e[what]) > 1 else 0.0 for e in entries]
                style = "--" if name in CONTROLS else "-"
                line = {"lw": 2.4, "color": "black"} if name == "dense" else {"lw": 1.3, "color": f"C{number}"}
                axis.errorbar(depths, means, spread, ls=style, marker="o", ms=3.5, capsize=2, label=name, **line)
            axis.grid(alpha=0.25)
            axis.set_xticks(depths)
            if not row:
                axis.set_title("with sandwich training" if sandwich else "distilled at 6 layers only")
            else:
                axis.set_xlabel("layers")
            if not column:
                axis.set_ylabel(f"accuracy {'at load' if what == 'load' else 'after the fine-tune'}, %")
        axes[0][column].sharey(axes[0][0])
        axes[1][column].sharey(axes[1][0])
    axes[0][1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.suptitle(f"{head['task']}: models of 3, 6 and 9 layers from one learngene")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=TASKS, default="images")
    parser.add_argument("--data", type=Path, default=DATA, help="teachers and data sets")
    parser.add_argument("--steps", type=int, default=150, help="of distillation")
    parser.add_argument("--tune-steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of the distillation")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[3e-4], help="of the fine-tune; of several, the best"
    )
    parser.add_argument("--random-rates", type=float, nargs="+", default=[1e-3], help="the same, from random init")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--split", choices=("valid", "test"), default="test", help="what is measured; valid to choose rates"
    )
    parser.add_argument("--test-limit", type=int, default=2000, help="examples of it")
    parser.add_argument("--starts", nargs="+", help="some of the starts (`random`, `sws`, ...)")
    parser.add_argument("--plain", action="store_true", help="without the starts' sandwich training")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if options.split == "test" and len(options.rates) + len(options.random_rates) > 2:
        parser.error("several rates are for --split valid: the test split chooses nothing.")
    path = options.output / f"learngenes_{options.task}.json"
    options.output.mkdir(parents=True, exist_ok=True)

    said = {k: getattr(options, k.replace("-", "_")) for k in
            ("steps", "tune-steps", "batch", "rate", "rates", "random-rates", "seeds", "split", "test-limit")}  # fmt: skip
    spelt = " ".join(f"--{k} {' '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in said.items())
    head = {
        "command": f"python benchmarks/learngenes.py --task {options.task} {spelt}",
        "task": options.task,
        "ancestry": json.loads((CACHE / options.task / "ancestry" / "made.json").read_text()),
        **machine(),
    }
    wanted = [
        j
        for j in jobs(options)
        if (not options.starts or j["start"] in options.starts) and not (options.plain and j["sandwich"])
    ]
    rows = finish(path, head, wanted, work, options)
    write(path.with_suffix(".md"), report(rows, head))
    plot(rows, head, path.with_suffix(".png"))
    print(report(rows, head))


if __name__ == "__main__":
    if "--untrained" in sys.argv:
        from learngenes_untrained import main as untrained

        untrained([given for given in sys.argv[1:] if given != "--untrained"])
    elif "--nested" in sys.argv:
        from learngenes_nested import main as nested

        nested([given for given in sys.argv[1:] if given != "--nested"])
    elif "--trained" in sys.argv:
        from learngenes_trained import main as trained_starts

        trained_starts([given for given in sys.argv[1:] if given != "--trained"])
    else:
        main()
