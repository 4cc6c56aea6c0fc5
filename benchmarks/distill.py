"""`distill` behind a shrink without data: 300 steps from the source, on unlabelled training examples and on made-up ones.

    python benchmarks/distill.py --task images      # ViT-S at a third, on CIFAR-10
    python benchmarks/distill.py --task text        # MiniLM at a quarter, on SST-2
    python benchmarks/distill.py --task sentences   # the sentence encoder at half, by pairwise cosines

The start is `calibrated` on made-up examples; no label is seen at any time. Rates are compared on validation examples carved
out of train (`--split valid --seeds 0 --rates 1e-5 3e-5 1e-4 3e-4`); the table is of the default rate, on the official split.
Finished cells are kept and skipped.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

from jobs import (  # noqa: E402
    SOURCE,
    Rows,
    by_size,
    cell,
    command_of,
    counted,
    heading,
    machine,
    name_of,
    parser_of,
    quiet,
    size_of,
    source_row,
    tabulate,
    timed,
)  # fmt: skip
from learngene_task import CACHE, DATA, HERE  # noqa: E402
from untrained_tasks import task_of  # noqa: E402


SHAPES: dict[str, list[dict[str, int]]] = {
    "images": [
        {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768, "head_dim": 64},
        {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "head_dim": 64},
        {"num_hidden_layers": 6},
    ],
    "text": [{"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768}, {"num_hidden_layers": 3}],
    "sentences": [{"intermediate_size": 384}, {"num_hidden_layers": 3}],
}
METHODS = ("start", "unlabelled", "made up")
BATCH = 32


def start_of(task: Any, name: str, job: dict[str, Any]) -> Any:
    """The model before it is distilled, made once."""
    from hf_learngene import resize

    sizes = "-".join(map(str, job["sizes"].values()))
    path = CACHE / "distill" / f"{name}-{job['seed']}-{sizes}"
    if not path.exists():
        made = resize(
            task.source, seed=job["seed"], calibration="synthetic", processing_class=task.processor, **job["sizes"]
        )
        made.save_pretrained(path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)
    return type(task.source).from_pretrained(path).eval()


def unlabelled(task: Any, name: str, seed: int, count: int) -> Any:
    """So many training examples in an order of their own, without labels."""
    import torch
    from calibrated import examples_of
    from datasets import Dataset

    if name != "sentences":
        return examples_of(task.data, seed, count)
    order = torch.randperm(len(task.training), generator=torch.Generator().manual_seed(seed))[:count]
    return Dataset.from_dict({"sentence": [task.training[i] for i in order.tolist()]})


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    quiet()
    from hf_learngene import distill

    task = task_of(options.task, options.data)
    row, model = dict(job), task.source
    if job["method"] != "source":
        model = start_of(task, options.task, job)
    if job["method"] in ("unlabelled", "made up"):
        data: Any = "synthetic"
        if job["method"] == "unlabelled":
            data = unlabelled(task, options.task, job["seed"], BATCH * options.steps)
        more = {"pooling": "mean"} if options.task == "sentences" else {}
        model, row["cpu_seconds"] = timed(
            distill, model, task.source, data, processing_class=task.processor, learning_rate=job["rate"], seed=job["seed"],
            disable_tqdm=True, max_steps=options.steps, **more,
        )  # fmt: skip
        row["steps"] = model.config.learngene["distillation"]["steps"]
    return [row | counted(model) | task.score(model, options.split, options.limit)]


def jobs(options: argparse.Namespace) -> Rows:
    found = [SOURCE]
    for seed in options.seeds:
        for sizes in SHAPES[options.task]:
            found.append({"method": "start", "sizes": sizes, "seed": seed})
            for method in METHODS[1:]:
                found += [{"method": method, "sizes": sizes, "seed": seed, "rate": rate} for rate in options.rates]
    return found


def report(rows: Rows, head: dict[str, Any]) -> str:
    lines = heading(
        "Distilled behind a shrink without data", rows, head, f"seeds: {len({r['seed'] for r in rows})}", unit=""
    )
    lines += [
        "",
        f"{head['measure'].capitalize()}, mean ± standard deviation over seeds; *steps*: of {head['steps']}, those of the model",
        "that was kept; *CPU s*: processor seconds of distilling on unlabelled examples.",
        "",
        "| shape | encoder | share | at load | rate | unlabelled examples | steps | made-up examples | steps | CPU s |",
        "| --- | ---: | ---: | --- | ---: | --- | --- | --- | --- | ---: |",
    ]
    for sizes, mine in by_size(rows, SHAPES[head["task"]]):
        start = [r for r in mine if r["method"] == "start"]
        for rate in sorted({r["rate"] for r in mine if "rate" in r}):
            at = [r for r in mine if r.get("rate") == rate]
            real = [r for r in at if r["method"] == "unlabelled"]
            steps = {m: ", ".join(str(r["steps"]) for r in at if r["method"] == m) or "–" for m in METHODS[1:]}
            seconds = f"{statistics.mean(r['cpu_seconds'] for r in real):.0f}" if real else "–"
            lines.append(
                f"| {name_of(sizes)} | {size_of(mine, source_row(rows))} | {cell(start, 'start')} | {rate:g} | "
                f"{cell(at, 'unlabelled')} | {steps['unlabelled']} | {cell(at, 'made up')} | {steps['made up']} | {seconds} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, SHAPES, METHODS, DATA, HERE / "results")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5], help="peak learning rates")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    task = task_of(options.task, options.data)  # made once, before the workers read it
    head = {
        "command": command_of("distill.py", options), "task": options.task, "measure": task.measure,
        "steps": options.steps, **machine(),
    }  # fmt: skip
    name = "distilled" if options.split == "test" else "distilled_rates"
    if options.steps != 300:
        head["command"] += f" --steps {options.steps}"
        name += f"_{options.steps}"
    tabulate(name, head, jobs(options), work, report, options)


if __name__ == "__main__":
    main()
