"""What a start from a larger model's weights is worth in training: weight selection and FRONT beside random init.

    python benchmarks/selection.py --seeds 0 1 2

The ViT-S of the benchmarks is shrunk to a quarter (width 192, three heads), and trained on CIFAR-10's labels, with and without
its source's logits (distillation). As in the paper, every start has the recipe that suits random init: its rate is chosen on
validation images, with another seed. *Steps to random* is the first step at which a start is where random init ends, on
validation images. Finished cells are kept and skipped.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

from jobs import Rows, machine, parser_of, quiet, tabulate  # noqa: E402
from learngene_task import CACHE, DATA, HERE  # noqa: E402


STEPS, BATCH, EVERY, SCORED = 300, 32, 20, 1000
RATES = (1e-4, 3e-4, 1e-3)
CHOICE_SEED = 100
SIZES = {"hidden_size": 192, "num_attention_heads": 3, "head_dim": 64, "intermediate_size": 768}
STARTS: dict[str, dict[str, Any]] = {
    "random": {"method": "random"},
    "weight selection": {"method": "weight_selection"},
    "weight selection, consecutive": {"method": "weight_selection", "element_selection": "consecutive"},
    "weight selection, without consistency": {
        "method": "weight_selection", "element_selection": "random_inconsistent",
    },
    "front": {"method": "front"},
    "front, constant": {"method": "front", "scaling": "constant"},
}  # fmt: skip
DISTILLED = ("random", "weight selection")


def said_by_teacher(task: str, teacher: Any, data: Any) -> Any:
    """The source's logits of the training images, worked out once and kept."""
    import torch

    path = CACHE / task / "teacher_logits.pt"
    if not path.exists():
        with torch.inference_mode():
            places = torch.arange(STEPS * BATCH).split(250)
            logits = torch.cat([teacher(pixel_values=data.batch("train", p)["pixel_values"]).logits for p in places])
        torch.save(logits, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)
    return torch.load(path, weights_only=True)


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    quiet()
    import torch
    from learngene_task import Data, teacher_of

    from hf_learngene import resize

    data, source = Data(options.task, options.data), teacher_of(options.task, options.data)
    if job["method"] == "source":
        return [job | {"accuracy": data.accuracy(source, "test", options.limit)}]
    model = resize(source, seed=job["seed"], **STARTS[job["method"]], **SIZES)
    wanted = said_by_teacher(options.task, source, data) if job["distilled"] else None
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=job["rate"], fused=True)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, job["rate"], STEPS, pct_start=0.1)
    order = torch.randperm(STEPS * BATCH, generator=torch.Generator().manual_seed(job["seed"]))
    curve = [[0, data.accuracy(model, "valid", SCORED)]]
    for step, places in enumerate(order.split(BATCH), 1):
        batch = data.batch("train", places)
        logits = model.train()(pixel_values=batch["pixel_values"]).logits
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
        if wanted is not None:
            soft = wanted[places].softmax(-1)
            loss = 0.5 * loss + 0.5 * torch.nn.functional.cross_entropy(logits, soft)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        one_cycle.step()
        if step % EVERY == 0:
            curve.append([step, data.accuracy(model, "valid", SCORED)])
    return [job | {"curve": curve, "accuracy": data.accuracy(model, "test", options.limit)}]


def choices() -> Rows:
    shared = {"method": "random", "seed": CHOICE_SEED, "distilled": False}
    return [{"method": "source"}, *(shared | {"rate": rate} for rate in RATES)]


def races(rows: Rows, options: argparse.Namespace) -> Rows:
    tried = {r["rate"]: r["curve"][-1][1] for r in rows if r.get("seed") == CHOICE_SEED}
    rate = max(tried, key=lambda r: tried[r])
    wanted = [(m, False) for m in STARTS] + [(m, True) for m in DISTILLED]
    return [{"method": m, "seed": s, "distilled": d, "rate": rate} for s in options.seeds for m, d in wanted]


# ---- the report


def of(rows: Rows, method: str, distilled: bool = False) -> Rows:
    return [r for r in rows if r["method"] == method and r["distilled"] == distilled and r["seed"] != CHOICE_SEED]


def steps_to_random(rows: Rows, method: str, distilled: bool = False) -> list[int | None]:
    """For each seed the step at which random init's end is reached; None where it is not."""
    ends = {r["seed"]: r["curve"][-1][1] for r in of(rows, "random", distilled)}
    return [
        next((step for step, accuracy in r["curve"] if accuracy >= ends[r["seed"]]), None)
        for r in of(rows, method, distilled)
    ]


def told(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def report(rows: Rows, head: dict[str, Any]) -> str:
    source = next(r for r in rows if r["method"] == "source")
    rows = [r for r in rows if r["method"] != "source"]
    lines = ["# What a start is worth in training, images", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k not in ("command", "task")]
    rate = next((r["rate"] for r in rows if r["seed"] != CHOICE_SEED), None)
    lines += [
        f"- source: {100 * source['accuracy']:.1f} %; {STEPS} steps of {BATCH} images, peak rate {rate:g}",
        "",
        "Accuracy in % on test images, mean ± standard deviation over seeds. *Steps to random*: until random init's end on",
        f"validation images, for each seed; measured every {EVERY}.",
        "",
        "| start | distilled | untrained | trained | steps to random |",
        "| --- | :---: | ---: | ---: | ---: |",
    ]
    for distilled in (False, True):
        for method in STARTS:
            if mine := of(rows, method, distilled):
                steps = ", ".join("never" if s is None else str(s) for s in steps_to_random(rows, method, distilled))
                loads = told([100 * r["curve"][0][1] for r in mine])
                ends = told([100 * r["accuracy"] for r in mine])
                lines.append(f"| {method} | {'✔' if distilled else ''} | {loads} | {ends} | {steps} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, ("images",), STARTS, DATA, HERE / "results")
    options = parser.parse_args()
    seeds = " ".join(map(str, options.seeds))
    limit = f" --limit {options.limit}" if options.limit else ""
    head = {"command": f"python benchmarks/selection.py --seeds {seeds}{limit}", "task": "images", **machine()}
    rows, _ = tabulate("selection", head, choices(), work, report_choices, options)
    if not options.report:
        rows, _ = tabulate("selection", head, races(rows, options), work, report, options)


def report_choices(rows: Rows, head: dict[str, Any]) -> str:
    return report(rows, head) if any(r.get("seed", CHOICE_SEED) != CHOICE_SEED for r in rows) else ""


if __name__ == "__main__":
    main()
