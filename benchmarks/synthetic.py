"""Shrinking with no data at all: what `calibrated` keeps on made-up examples, beside real ones and weight selection.

    python benchmarks/synthetic.py --task images       # ViT-S on CIFAR-10, official test split
    python benchmarks/synthetic.py --task text         # MiniLM on SST-2, official validation split
    python benchmarks/synthetic.py --task trec         # another MiniLM, fine-tuned here on TREC, official test split
    python benchmarks/synthetic.py --task sentences    # a sentence encoder: pairwise cosines of SST-2 and TREC sentences
    python benchmarks/synthetic.py --task fashion      # the ViT-S, fine-tuned here on Fashion-MNIST, official test split
    python benchmarks/synthetic.py --task proteins     # AntiBERTy, a masked LM of antibodies, on human germline genes

No example of the task is seen and nothing is trained. The seeds are those of the made-up examples, whose number is the package's
own choice; `real` looks at 512 training examples, without their labels. Finished cells are kept and skipped, so that it can be
stopped and started again.
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
    kept,
    machine,
    name_of,
    parser_of,
    quiet,
    size_of,
    source_row,
    tabulate,
    timed,
)  # fmt: skip
from learngene_task import DATA, HERE  # noqa: E402
from untrained_tasks import task_of  # noqa: E402


VIT = {"head_dim": 64}
SHAPES: dict[str, list[dict[str, int]]] = {
    "images": [
        {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768, **VIT},
        {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, **VIT},
        {"hidden_size": 192, "num_attention_heads": 6, "head_dim": 32, "intermediate_size": 768},
        {"hidden_size": 192, "num_attention_heads": 2, "intermediate_size": 320, **VIT},
        {"hidden_size": 192, "num_attention_heads": 6, "head_dim": 21, "intermediate_size": 320},
        {"num_hidden_layers": 6},
    ],
    "text": [
        {"intermediate_size": 384},
        {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768},
        {"num_hidden_layers": 3},
    ],
}
SHAPES["trec"] = SHAPES["text"]
SHAPES |= {"sentences": [{"intermediate_size": 768}, *SHAPES["text"]], "fashion": SHAPES["images"]}
SHAPES["proteins"] = [
    {"intermediate_size": 512},
    {"num_hidden_layers": 4},
    {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
]
METHODS: dict[str, dict[str, Any]] = {
    "synthetic": {"method": "calibrated", "calibration": "synthetic"},
    "weight selection": {"method": "weight_selection", "layer_selection": "uniform", "head_selection": "headwise"},
    "real": {"method": "calibrated"},
}


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    quiet()
    from hf_learngene import resize

    task = task_of(options.task, options.data)
    row, model, given = dict(job), task.source, METHODS.get(job["method"], {}) | job["sizes"]
    if job["method"] == "synthetic":
        given["processing_class"] = task.processor
    elif job["method"] == "real":
        given["calibration"] = task.real(job["seed"])
    if job["method"] != "source":
        model, row["cpu_seconds"] = timed(resize, task.source, seed=job["seed"], **given)
        row["examples"] = model.config.learngene.get("calibration", {}).get("count", 0)
    return [row | counted(model) | task.score(model, options.split, options.limit)]


def jobs(options: argparse.Namespace) -> Rows:
    found = [SOURCE]
    for seed in options.seeds:
        for method in METHODS if seed == options.seeds[0] else ("synthetic", "real"):
            found += [{"method": method, "sizes": sizes, "seed": seed} for sizes in SHAPES[options.task]]
    order = ["source", *METHODS]
    return sorted(found, key=lambda j: order.index(j["method"]))  # what the table is about comes first


def report(rows: Rows, head: dict[str, Any]) -> str:
    source, seeds = source_row(rows), len({r["seed"] for r in rows if r["method"] == "synthetic"})
    lines = heading("Shrinking with no data", rows, head, f"seeds: {seeds}", unit="")
    lines += [
        "",
        f"{head['measure'].capitalize()}, mean ± standard deviation over seeds; *kept*: share of the source's gap over chance;",
        "*made up*: how many examples the package makes by itself; *CPU s*: processor seconds, making them included.",
        "",
        "| shape | encoder | share | no data | kept | weight selection | 512 real examples | kept | made up | CPU s |",
        "| --- | ---: | ---: | --- | ---: | --- | --- | ---: | ---: | ---: |",
    ]
    for sizes, mine in by_size(rows, SHAPES[head["task"]]):
        ours = [r for r in mine if r["method"] == "synthetic"]
        if not ours:
            continue
        share = {m: kept(mine, m, source, head["chance"]) for m in METHODS}
        lines.append(
            f"| {name_of(sizes)} | {size_of(mine, source)} | {cell(mine, 'synthetic')} | {share['synthetic']} | "
            f"{cell(mine, 'weight selection')} | {cell(mine, 'real')} | {share['real']} | {ours[0]['examples']} | "
            f"{statistics.mean(r['cpu_seconds'] for r in ours):.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parser_of(__doc__, SHAPES, METHODS, DATA, HERE / "results").parse_args()
    task = task_of(options.task, options.data)  # made once, before the workers read it
    head = {
        "command": command_of("synthetic.py", options), "task": options.task, "chance": task.chance,
        "measure": task.measure, **machine(),
    }  # fmt: skip
    tabulate("synthetic", head, jobs(options), work, report, options)


if __name__ == "__main__":
    main()
