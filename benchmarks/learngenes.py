"""Learngenes against what they must match: accuracy of their descendants at load and after a short fine-tune.

    python benchmarks/learngenes.py --task images --data ../shared/data
    python benchmarks/learngenes.py --task text --data ../shared/data

From one teacher, each learngene is fitted in closed form, distilled for `--steps`, and asked for models of several depths;
each is fine-tuned for `--tune-steps`. Beside them: random init, layers picked from the teacher, and layers picked from a dense
student distilled with the same budget (stages = layers, so that nothing is shared). All with and without sandwich training.
Where `--rates` names several learning rates of the fine-tune, validation examples choose; test figures are the mean of `--seeds`.
Finished jobs are kept and skipped, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402


# name -> (learngene type, options); `dense` shares nothing: its layers are picked or repeated, as the pilot's control
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("sws", {"num_stages": None}),
    "sws": ("sws", {"num_stages": 3}),
    "tleg": ("tleg", {}),
    "fine": ("fine", {}),
    "wave 0.25": ("wave", {"template_share": 0.25}),
    "wave 0.5": ("wave", {"template_share": 0.5}),
}
TASKS: dict[str, dict[str, Any]] = {
    "images": {"teacher": "vit-small-p14-56-cifar10", "depth": 6, "depths": [3, 6, 9, 12], "widths": [192, 384]},
    "text": {"teacher": "minilm-l6-sst2", "depth": 6, "depths": [3, 6, 9, 12], "widths": [192, 384]},
}
RANDOM = 3.0  # times the learning rate of the others, which start from something


class Data:
    """Everything in memory, on the device; a batch is made from places."""

    def __init__(self, task: str, folder: Path, limit: int, test_limit: int, device: str) -> None:
        self.task, self.device, self.test_limit = task, device, test_limit
        make = self._images if task == "images" else self._texts
        self.train, self.valid, self.test = make(folder, limit)

    def _images(self, folder: Path, limit: int):
        import io

        import numpy as np
        import pyarrow.parquet as pq
        from PIL import Image

        def read(name: str, count: int | None):
            table = pq.read_table(folder / "cifar10" / name).to_pydict()
            order = torch.randperm(len(table["label"]), generator=torch.Generator().manual_seed(0)).tolist()[:count]
            pixels = [np.array(Image.open(io.BytesIO(table["image"][i]["bytes"]))) for i in order]
            return torch.from_numpy(np.stack(pixels)), torch.tensor([table["label"][i] for i in order])

        x, y = (t.to(self.device) for t in read("cifar10_train.parquet", limit))
        held = len(y) // 10
        test = tuple(t.to(self.device) for t in read("cifar10_test.parquet", self.test_limit))
        return (x[held:], y[held:]), (x[:held], y[:held]), test

    def _texts(self, folder: Path, limit: int):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder / TASKS["text"]["teacher"])

        def read(name: str, count: int | None):
            rows = [json.loads(line) for line in (folder / "sst2" / name).read_text().splitlines()]
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()[:count]
            ids = [tokenizer(rows[i]["sentence"], truncation=True, max_length=64)["input_ids"] for i in order]
            table = torch.zeros(len(ids), 64, dtype=torch.long)
            for row, tokens in zip(table, ids, strict=True):
                row[: len(tokens)] = torch.tensor(tokens)
            return table.to(self.device), torch.tensor([rows[i]["label"] for i in order]).to(self.device)

        x, y = read("train.jsonl", limit)
        held = min(2000, len(y) // 10)
        return (x[held:], y[held:]), (x[:held], y[:held]), read("validation.jsonl", self.test_limit)

    def batch(self, split: tuple[torch.Tensor, torch.Tensor], places: torch.Tensor, augment: bool) -> dict[str, Any]:
        x, y = (t[places.to(self.device)] for t in split)
        if self.task == "text":
            x = x[:, : int((x != 0).sum(1).max())]
            return {"input_ids": x, "attention_mask": (x != 0).long(), "labels": y}
        pixels = x.permute(0, 3, 1, 2).float() / 255
        if augment:
            shift = torch.randint(0, 9, (2,))
            padded = torch.nn.functional.pad(pixels, (4, 4, 4, 4), mode="reflect")
            pixels = padded[:, :, shift[0] : shift[0] + 32, shift[1] : shift[1] + 32]
            flip = torch.rand(len(pixels)) < 0.5
            pixels = torch.where(flip.to(self.device)[:, None, None, None], pixels.flip(-1), pixels)
        pixels = torch.nn.functional.interpolate(pixels, (56, 56), mode="bicubic", antialias=True)
        mean, std = (
            torch.tensor(v, device=self.device)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        )
        return {"pixel_values": (pixels - mean) / std, "labels": y}

    def accuracy(self, model: Any, split: tuple[torch.Tensor, torch.Tensor]) -> float:
        model.eval().to(self.device)
        right = 0
        with torch.no_grad():
            for places in torch.arange(len(split[1])).split(1000):
                batch = self.batch(split, places, augment=False)
                labels = batch.pop("labels")
                right += int((model(**batch).logits.argmax(-1) == labels).sum())
        return right / len(split[1])


class Places(torch.utils.data.Dataset):
    """The examples' places: the collator makes the batch on the device."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


def trained(
    model: Any, data: Data, teacher: Any, steps: int, rate: float, seed: int, batch: int, **arguments: Any
) -> Any:
    """`model`, after so many steps of LearngeneTrainer."""
    from hf_learngene import LearngeneTrainer, LearngeneTrainingArguments

    args = LearngeneTrainingArguments(
        output_dir=str(HERE / ".cache"), max_steps=steps, learning_rate=rate, per_device_train_batch_size=batch, seed=seed,
        weight_decay=0.05, warmup_steps=min(50, steps // 10), lr_scheduler_type="cosine", report_to="none", disable_tqdm=True,
        save_strategy="no", logging_strategy="no", bf16=True, remove_unused_columns=False,
        dataloader_pin_memory=False, use_cpu=data.device == "cpu", **arguments,
    )  # fmt: skip

    def collate(places: list[int]) -> dict[str, Any]:
        return data.batch(data.train, torch.tensor(places), augment=True)

    LearngeneTrainer(
        model.train(), args, teacher, train_dataset=Places(len(data.train[1])), data_collator=collate
    ).train()
    return model.eval()


def teacher_model(task: str, folder: Path) -> Any:
    import transformers

    path = folder / TASKS[task]["teacher"]
    name = json.loads((path / "config.json").read_text())["architectures"][0]
    return getattr(transformers, name).from_pretrained(path, dtype=torch.float32)


def descendants(job: dict[str, Any], data: Data, teacher: Any, options: argparse.Namespace):
    """(name of the size, a function that makes the model anew) for every size of this start."""
    from hf_learngene import AutoLearngene, resize

    spec = TASKS[options.task]
    kind, seed = job["start"], job["seed"]
    sizes = [{"num_hidden_layers": d} for d in spec["depths"]]
    if kind in ("random", "teacher's layers", "weight selection"):
        method = {
            "random": {"method": "random"},
            "weight selection": {"method": "weight_selection", "layer_selection": "uniform"},
        }
        if kind == "weight selection":
            sizes = [
                {"num_hidden_layers": spec["depth"], "hidden_size": w}
                for w in spec["widths"]
                if w != teacher.config.hidden_size
            ]
        if kind == "random":
            sizes += [
                {"num_hidden_layers": spec["depth"], "hidden_size": w}
                for w in spec["widths"]
                if w != teacher.config.hidden_size
            ]

        def make(size):
            if kind == "teacher's layers":
                whole = AutoLearngene.from_ancestry(teacher, "sws", num_stages=teacher.config.num_hidden_layers)
                return whole.initialize(**size)
            return resize(teacher, seed=seed, **method[kind], **size)

        return 0.0, 1.0, [(size, lambda size=size: make(size)) for size in sizes]
    learngene_type, given = KINDS[kind]
    given = {k: v if v is not None else spec["depth"] for k, v in given.items()}
    learngene = AutoLearngene.from_ancestry(teacher, learngene_type, num_hidden_layers=spec["depth"], **given)
    sandwich: dict[str, Any] = {}
    if job["sandwich"]:
        sandwich = {
            "sandwich_weight": 1.0,
            "sandwich_min_layers": min(spec["depths"]),
            "sandwich_max_layers": max(spec["depths"]),
        }
        if job["sandwich"] == "width":
            sandwich |= {"sandwich_widths": spec["widths"]}
    if learngene_type == "wave":
        sizes += [
            {"num_hidden_layers": spec["depth"], "hidden_size": w}
            for w in spec["widths"]
            if w != teacher.config.hidden_size
        ]
    learngene.to(data.device)
    began = time.perf_counter()
    trained(learngene, data, teacher, options.steps, 5e-4, seed, options.batch, alpha=0.5, **sandwich)
    seconds = time.perf_counter() - began
    return (
        seconds,
        learngene.stored_share,
        [(size, lambda size=size: learngene.initialize(seed=seed, **size)) for size in sizes],
    )


def work(job: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One start with one seed: distilled, then every size at load and fine-tuned."""
    torch.set_num_threads(1 if options.device == "cuda" else max(1, (os.cpu_count() or 2) // options.workers))
    torch.manual_seed(job["seed"])
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    data = Data(options.task, options.data, options.limit, options.test_limit, options.device)
    teacher = teacher_model(options.task, options.data)
    seconds, share, made = descendants(job, data, teacher, options)
    rows = []
    for size, make in made:
        row = {**job, **size, "stored": share, "distil_s": seconds, "load": data.accuracy(make(), data.test)}
        rates = [rate * (RANDOM if job["start"] == "random" else 1) for rate in options.rates]
        tuned = {}
        for rate in rates:
            model = trained(
                make().to(data.device), data, None, options.tune_steps, rate, job["seed"], options.tune_batch
            )
            tuned[rate] = (
                data.accuracy(model, data.valid) if len(rates) > 1 else 0.0,
                data.accuracy(model, data.test),
            )
        best = max(tuned, key=lambda r: tuned[r][0])
        rows.append({**row, "rate": best, "tuned": tuned[best][1]})
    return rows


def jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    starts = [(k, "") for k in ("random", "teacher's layers", "weight selection")]
    starts += [(k, s) for k in KINDS for s in ("", "depth")] + [("wave 0.25", "width"), ("wave 0.5", "width")]
    return [
        {"start": k, "sandwich": s, "seed": seed} for seed, (k, s) in itertools.product(range(options.seeds), starts)
    ]


# ---- the report


def summary(rows: list[dict[str, Any]], size: tuple) -> dict[tuple[str, str], dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if (row["num_hidden_layers"], row.get("hidden_size")) == size:
            entry = found.setdefault(
                (row["start"], row["sandwich"]), {"load": [], "tuned": [], "stored": row["stored"]}
            )
            entry["load"].append(row["load"])
            entry["tuned"].append(row["tuned"])
    return found


def cell(values: list[float] | None) -> str:
    if not values:
        return "–"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def report(rows: list[dict[str, Any]], head: dict[str, Any], options: argparse.Namespace) -> str:
    sizes = sorted({(r["num_hidden_layers"], r.get("hidden_size")) for r in rows}, key=lambda s: (s[1] is not None, s))
    starts = list(dict.fromkeys((r["start"], r["sandwich"]) for r in sorted(rows, key=lambda r: r["sandwich"] != "")))
    named = [f"{d} layers" if w is None else f"{d} layers, width {w}" for d, w in sizes]
    lines = [f"# Learngenes, {options.task}", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "command"]
    lines += [
        "",
        "Test accuracy in %, at load → after the fine-tune; mean ± standard deviation over seeds. *stored*: parameters",
        "kept, as a share of the dense auxiliary model's, embeddings and head included.",
        "",
    ]
    lines += [
        "| start | sandwich | stored | " + " | ".join(named) + " |",
        "| --- | --- | ---: |" + " --- |" * len(sizes),
    ]
    tables = {s: summary(rows, s) for s in sizes}
    for start in starts:
        cells, share = [], 1.0
        for size in sizes:
            entry = tables[size].get(start)
            share = entry["stored"] if entry else share
            cells.append(f"{cell(entry['load'])} → {cell(entry['tuned'])}" if entry else "–")
        stored = "–" if start[0] in ("random", "weight selection", "teacher's layers") else f"{share:.0%}"
        lines.append(f"| {start[0]} | {start[1] or '–'} | {stored} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    depths = sorted({r["num_hidden_layers"] for r in rows if not r.get("hidden_size")})
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, constrained_layout=True)
    starts = list(dict.fromkeys((r["start"], r["sandwich"]) for r in rows if r["start"] != "weight selection"))
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(s for s, _ in starts))}
    for axis, what, title in zip(axes, ("load", "tuned"), ("at load", "after the fine-tune"), strict=True):
        for start, sandwich in starts:
            if sandwich == "width":
                continue
            means = []
            for depth in depths:
                entry = summary(rows, (depth, None)).get((start, sandwich))
                means.append(100 * statistics.mean(entry[what]) if entry else float("nan"))
            label = f"{start}{', sandwich' if sandwich else ''}"
            axis.plot(depths, means, "-" if sandwich else "--", marker="o", ms=3.5, color=colours[start], label=label)
        axis.set_title(title)
        axis.set_xlabel("layers")
        axis.set_xticks(depths)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("test accuracy, %")
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=TASKS, default="images")
    parser.add_argument(
        "--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="teachers and data sets"
    )
    parser.add_argument("--steps", type=int, default=1000, help="of distillation")
    parser.add_argument("--tune-steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=256, help="of distillation")
    parser.add_argument("--limit", type=int, default=30000, help="training examples, a tenth of them held out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tune-batch", type=int, default=128)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4], help="learning rates of the fine-tune")
    parser.add_argument("--test-limit", type=int, default=10000, help="test examples")
    parser.add_argument("--starts", nargs="+", help="some of the starts (`random`, `sws`, ...)")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    path = options.output / f"learngenes_{options.task}.json"
    options.output.mkdir(parents=True, exist_ok=True)
    import transformers

    machine = (
        torch.cuda.get_device_name(0) if options.device == "cuda" else f"{platform.processor() or platform.machine()}"
    )
    head = {
        "command": f"python benchmarks/learngenes.py --task {options.task} --steps {options.steps} --tune-steps "
        f"{options.tune_steps} --batch {options.batch} --tune-batch {options.tune_batch} --limit {options.limit} --test-limit "
        f"{options.test_limit} --rates {' '.join(map(str, options.rates))} --seeds {options.seeds}",
        "machine": f"{machine}, {options.device}",
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}",
    }  # fmt: skip
    saved = json.loads(path.read_text()) if path.exists() else {}
    rows = saved["rows"] if saved.get("head") == head else []
    done = {(r["start"], r["sandwich"], r["seed"]) for r in rows}
    todo = [
        j
        for j in jobs(options)
        if (j["start"], j["sandwich"], j["seed"]) not in done and (not options.starts or j["start"] in options.starts)
    ]

    def save() -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"head": head, "rows": rows}, indent=1))
        os.replace(partial, path)
        path.with_suffix(".md").write_text(report(rows, head, options))

    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(work, job, options): job for job in todo}
        for number, future in enumerate(as_completed(running), 1):
            rows += future.result()
            save()
            print(f"{number} of {len(todo)}: {running[future]}", flush=True)
    plot(rows, path.with_suffix(".png"))
    print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
