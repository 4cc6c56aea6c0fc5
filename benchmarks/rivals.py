"""Other shrinks without training at the same number of parameters, beside `calibrated`.

    python benchmarks/rivals.py --task images --limit 2000      # ViT-S on CIFAR-10, official test split
    python benchmarks/rivals.py --task text                     # MiniLM on SST-2, official validation split

Every method sees the same 512 training examples and is to leave the same share of the encoder's parameters. The rivals are
written from their papers and public code (`rival_rules`); their heads and ffn units may differ from layer to layer, which no
config of transformers can say, so that they are freer than `calibrated`. Where a rule leaves something open, each candidate is
tried and the one that is right most often on 500 examples carved out of train is taken. Finished cells are kept and skipped;
those of `calibrated` that `calibrated.py` has measured on the same examples are taken from its results.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

import torch  # noqa: E402
from calibrated import VIT, examples_of, source_of  # noqa: E402
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
    source_row,
    tabulate,
    timed,
    write,
)  # fmt: skip
from learngene_task import CACHE, DATA, HERE, Data  # noqa: E402
from rival_rules import corp, kprune, kwon, snapvit, textpruner  # noqa: E402
from rival_rules.masks import Masked, batched  # noqa: E402


SHARES = (0.67, 0.5, 0.33, 0.25)
VALID = 500
# Stock shapes of no more parameters: by all axes, and by heads and ffn alone, which is all that the rivals prune.
SHAPES: dict[str, dict[float, dict[str, dict[str, int]]]] = {
    "images": {
        0.67: {"calibrated": {"intermediate_size": 768}},
        0.5: {
            "calibrated": {"hidden_size": 256, "num_attention_heads": 6, "intermediate_size": 768, **VIT},
            "calibrated, heads and ffn": {"num_attention_heads": 6, "head_dim": 32, "intermediate_size": 768},
        },
        0.33: {
            "calibrated": {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768, **VIT},
            "calibrated, heads and ffn": {"num_attention_heads": 2, "intermediate_size": 512, **VIT},
        },
        0.25: {
            "calibrated": {"hidden_size": 192, "num_attention_heads": 6, "head_dim": 32, "intermediate_size": 768},
            "calibrated, heads and ffn": {"num_attention_heads": 2, "intermediate_size": 320, **VIT},
        },
    },
    "text": {
        0.67: {"calibrated": {"intermediate_size": 768}},
        0.5: {"calibrated": {"intermediate_size": 384}},
        0.33: {"calibrated": {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 1152}},
        0.25: {"calibrated": {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768}},
    },
}
METHODS = ("calibrated", "calibrated, heads and ffn", "K-prune", "Kwon", "CORP", "SnapViT", "TextPruner")
LABELLED = ("Kwon", "TextPruner")


def candidates(
    method: str, share: float, seed: int, source: Any, rows: list[dict[str, torch.Tensor]]
) -> Iterator[tuple[str, Masked]]:
    """What a rule may come to, where it leaves something open; else the one thing."""
    batches = batched(rows)
    if method == "Kwon":
        yield kwon.prune(made := Masked(source), batches, share, Masked(source)), made
    elif method == "K-prune":
        yield kprune.prune(made := Masked(source), batches, share, Masked(source)), made
    elif method == "TextPruner":
        for even in (True, False):
            yield textpruner.prune(made := Masked(source), batches, share, even), made
    elif method == "CORP":
        for values in (False, True):
            if values or share > 0.2:
                yield corp.prune(made := Masked(source), batches, share, Masked(source), values), made
    else:
        path = CACHE / "rivals" / f"snapvit_{seed}.pt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(snapvit.scores(Masked(source), batches, seed), path)
        scores = torch.load(path, weights_only=True)
        for more_heads in (0.0, 0.2):
            yield snapvit.prune(made := Masked(source), batches, share, scores, more_heads), made


def rival(job: dict[str, Any], source: Any, data: Data) -> tuple[str, Masked]:
    rows = examples_of(data, job["seed"], labels=job["method"] in LABELLED)
    found = list(candidates(job["method"], job["sizes"]["share"], job["seed"], source, rows))
    if len(found) == 1:
        return found[0]
    return max(found, key=lambda one: data.accuracy(one[1].model, "valid", VALID))


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    quiet()
    from hf_learngene import resize

    data = Data(options.task, options.data)
    model = source = source_of(options.task, options.data)
    row, method = dict(job), job["method"]
    row |= counted(source)
    if method.startswith("calibrated"):
        shape = SHAPES[options.task][job["sizes"]["share"]][method]
        given = shape | {"calibration": examples_of(data, job["seed"])}
        model, row["cpu_seconds"] = timed(resize, source, method="calibrated", seed=job["seed"], **given)
        row |= counted(model) | {"chosen": name_of(shape)}
    elif method != "source":
        (row["chosen"], masked), row["cpu_seconds"] = timed(rival, job, source, data)
        model, whole = masked.model, row["encoder"]
        row["encoder"] = masked.encoder()
        row["parameters"] -= whole - row["encoder"]
    return [row | {"accuracy": data.accuracy(model, options.split, options.limit)}]


def taken(options: argparse.Namespace, head: dict[str, Any]) -> None:
    """Copies what `calibrated.py` measured of the same shapes, sets and examples."""
    theirs, ours = (options.output / f"{name}_{options.task}.json" for name in ("calibrated", "rivals"))
    if not theirs.exists():
        return
    found = json.loads(theirs.read_text())
    if found["head"]["command"].partition("--split")[2] != head["command"].partition("--split")[2]:
        return
    saved = json.loads(ours.read_text()) if ours.exists() else {}
    rows = saved["rows"] if saved.get("head") == head else []
    have = [(r["method"], r["sizes"].get("share"), r["seed"]) for r in rows]
    for share, shapes in SHAPES[options.task].items():
        for method, shape in shapes.items():
            for row in found["rows"]:
                key = (method, share, row["seed"])
                if (
                    row["method"] == "calibrated"
                    and row["sizes"] == shape
                    and row["seed"] in options.seeds
                    and key not in have
                ):
                    rows.append(row | {"method": method, "sizes": {"share": share}, "chosen": name_of(shape)})
    write(ours, json.dumps({"head": head, "rows": rows}, indent=1))


def jobs(options: argparse.Namespace) -> Rows:
    found = [SOURCE]
    for seed in options.seeds:
        for method in METHODS:
            for share in options.shares:
                ours = SHAPES[options.task][share]
                if method.startswith("calibrated") and method not in ours:
                    continue
                if method != "SnapViT" or options.task == "images":
                    found.append({"method": method, "sizes": {"share": share}, "seed": seed})
    return found


def report(rows: Rows, head: dict[str, Any]) -> str:
    source, sets = source_row(rows), len({r["seed"] for r in rows})
    shown = [m for m in METHODS if accuracies(rows, m)]
    lines = heading("Rivals without training", rows, head, f"calibration sets measured: {sets}")
    lines += [
        "",
        "Accuracy in % without any training at the same share of the encoder's parameters, mean ± standard deviation over",
        f"calibration sets. {' and '.join(LABELLED)} look at labels too. *kept*: share of the source's gap over chance, by",
        f"`calibrated` and by the best rival. Those of `calibrated` are `calibrated_{head['task']}.json`'s where it has them.",
        "",
        "| share | " + " | ".join(shown) + " | kept | best rival |",
        "| ---: |" + " --- |" * len(shown) + " ---: | ---: |",
    ]
    for sizes, mine in by_size(rows, [{"share": s} for s in SHARES]):
        others = [m for m in shown if not m.startswith("calibrated") and accuracies(mine, m)]
        top = max(others, key=lambda m: statistics.mean(accuracies(mine, m)), default="")
        lines.append(
            f"| {sizes['share']:.0%} | {' | '.join(cell(mine, m) for m in shown)} | "
            f"{kept(mine, 'calibrated', source, head['chance'])} | {kept(mine, top, source, head['chance'])} |"
        )
    lines += ["", "What each came to on the first set:", "", "| share | method | encoder | shape or choice | CPU s |"]
    lines += ["| ---: | --- | ---: | --- | ---: |"]
    for sizes, mine in by_size(rows, [{"share": s} for s in SHARES]):
        for method in shown:
            for r in [r for r in mine if r["method"] == method][:1]:
                part = r["encoder"] / source["encoder"]
                lines.append(
                    f"| {sizes['share']:.0%} | {method} | {part:.1%} | {r['chosen'] or '–'} | {r['cpu_seconds']:.0f} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, SHAPES, METHODS, DATA, HERE / "results")
    parser.add_argument("--shares", type=float, nargs="+", choices=SHARES, default=SHARES, help="some of the shares")
    options = parser.parse_args()
    head = {
        "command": command_of("rivals.py", options), "task": options.task, "chance": {"images": 0.1, "text": 0.5}[options.task],
        "calibration": "512 training examples", **machine(),
    }  # fmt: skip
    if not options.report:
        Data(options.task, options.data)  # made once, before the workers read it
        options.output.mkdir(parents=True, exist_ok=True)
        taken(options, head)
    tabulate("rivals", head, jobs(options), work, report, options)


if __name__ == "__main__":
    main()
