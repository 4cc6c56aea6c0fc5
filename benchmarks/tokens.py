"""How many examples: what is kept against tokens for each input of the widest matrix, made-up images and training images.

    python benchmarks/tokens.py                        # ViT-S on CIFAR-10, 1,000 images carved from train
    python benchmarks/tokens.py --shares 2 6 --seeds 0 1

Needs `../shared/data`. Finished cells are kept and skipped.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

from calibrated import examples_of, source_of  # noqa: E402
from jobs import SOURCE, Rows, accuracies, counted, finish, machine, quiet, source_row, timed, write  # noqa: E402
from learngene_task import DATA, HERE, TASKS, Data  # noqa: E402


SIZES = {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768, "head_dim": 64}
KINDS = {"made up": "synthetic", "training images": "real"}
TOKENS = 17  # of an image


def count_for(source: Any, share: float) -> int:
    """Examples that give so many tokens for each input of the widest matrix."""
    return max(1, round(share * source.config.intermediate_size / TOKENS))


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    quiet()
    from transformers import AutoImageProcessor

    from hf_learngene import resize, synthetic_examples

    data, source = Data("images", options.data), source_of("images", options.data)
    row, model = dict(job), source
    if job["method"] != "source":
        count = count_for(source, job["share"])
        if job["method"] == "made up":
            given = synthetic_examples(
                source,
                AutoImageProcessor.from_pretrained(options.data / TASKS["images"]["teacher"]),
                count=count,
                seed=job["seed"],
            )
        else:
            given = examples_of(data, job["seed"], count)
        options_ = {"calibration": given, "calibration_size": count, "calibration_top_up": False}
        model, row["cpu_seconds"] = timed(resize, source, method="calibrated", seed=job["seed"], **SIZES, **options_)
        row["examples"] = count
    row |= counted(model)
    return [row | {"accuracy": data.accuracy(model, "valid", options.limit)}]


def report(rows: Rows, head: dict[str, Any]) -> str:
    source = source_row(rows)
    lines = ["# How many examples", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "command"]
    lines += [
        f"- source: {100 * source['accuracy']:.1f} %; shrunk to width 192, 6 heads of 64, ffn 768; images of {TOKENS} tokens",
        "",
        "Accuracy in %, mean over seeds. *Tokens*: for each of the 1,536 inputs of the widest matrix. *CPU s*: of the shrink.",
        "",
        "| tokens | examples | " + " | ".join(KINDS) + " | CPU s |",
        "| ---: | ---: |" + " ---: |" * (len(KINDS) + 1),
    ]
    for share in sorted({r["share"] for r in rows if "share" in r}):
        mine = [r for r in rows if r.get("share") == share]
        cells = []
        for kind in KINDS:
            found = accuracies(mine, kind)
            cells.append(f"{100 * sum(found) / len(found):.1f}" if found else "–")
        seconds = sum(r["cpu_seconds"] for r in mine) / len(mine)
        lines.append(f"| {share:g} | {mine[0]['examples']} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[2, 4, 6, 12, 24], help="tokens for each input")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=int, default=1000, help="images that accuracy is measured on")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA, help="teachers and data sets")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    jobs = [SOURCE] + [
        {"method": kind, "share": share, "seed": seed}
        for share in options.shares
        for kind in options.kinds
        for seed in options.seeds
    ]
    path = options.output / "tokens.json"
    head = {"command": "python benchmarks/tokens.py", "split": f"valid, {options.limit} images", **machine()}
    rows = finish(path, head, jobs, work, options)
    write(path.with_suffix(".md"), report(rows, head))
    print(report(rows, head))


if __name__ == "__main__":
    main()
