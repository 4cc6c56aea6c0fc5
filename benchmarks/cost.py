"""What a calibrated shrink costs, in forward passes of its source, by phase, by depth, and as the one-liner runs it.

    python benchmarks/cost.py               # every row
    python benchmarks/cost.py --rows ratio  # some of them: ratio, depth, default

Every row is a process of its own, so that it can be stopped and started again; finished rows are kept and skipped. The models
have random weights of the stated shape: what they hold changes nothing that is timed. One forward pass is timed before the shrink
and after it, over the same examples in the same batches, and the mean is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jobs import machine, write


HERE = Path(__file__).parent
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "head_dim": 64, "num_labels": 10}
THIRD = {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768, "head_dim": 64}
TINY_IMAGES = {"image_size": 56, "patch_size": 14}
# (group, name): model, layers, examples, sizes; None for made-up examples of the package's own choice
ROWS: dict[str, dict[str, Any]] = {
    "ratio: ViT-S, width 192, ffn 768": {"model": "vit-s", "layers": 12, "examples": 512, "sizes": THIRD},
    "ratio: ViT-S, ffn 768": {"model": "vit-s", "layers": 12, "examples": 512, "sizes": {"intermediate_size": 768}},
    "ratio: ViT-S, 6 of 12 layers": {
        "model": "vit-s", "layers": 12, "examples": 512, "sizes": {"num_hidden_layers": 6},
    },
    "ratio: BERT-base, width 384": {"model": "bert-base", "layers": 12, "examples": 96, "sizes": {"hidden_size": 384}},
    "ratio: BERT-base, 6 of 12 layers": {
        "model": "bert-base", "layers": 12, "examples": 96, "sizes": {"num_hidden_layers": 6},
    },
    **{f"depth: ViT-S of {n} layers, width 192, ffn 768": {
        "model": "vit-s", "layers": n, "examples": 512, "sizes": THIRD,
    } for n in (6, 12, 24)},
    **{f"depth: ViT-S of {n} layers, to {n // 2} layers": {
        "model": "vit-s", "layers": n, "examples": 512, "sizes": {"num_hidden_layers": n // 2},
    } for n in (6, 12, 24)},
    **{f"depth: BERT-base of {n} layers, to {n // 2} layers": {
        "model": "bert-base", "layers": n, "examples": 32, "sizes": {"num_hidden_layers": n // 2},
    } for n in (6, 12, 24)},
    "default: ViT-base at 224 px, width 384": {
        "model": "vit-base", "layers": 12, "examples": None, "sizes": {"hidden_size": 384},
    },
    "default: BERT-base, width 384": {
        "model": "bert-base", "layers": 12, "examples": None, "sizes": {"hidden_size": 384},
    },
}  # fmt: skip
PHASES = ("examples", "layers", "selection", "refit", "check")


def model_of(name: str, layers: int) -> Any:
    import transformers

    torch.manual_seed(0)
    if name == "vit-s":
        config = transformers.ViTConfig(**SMALL, **TINY_IMAGES, num_hidden_layers=layers)
        return transformers.ViTForImageClassification(config).eval()
    if name == "vit-base":
        return transformers.ViTForImageClassification(transformers.ViTConfig(num_hidden_layers=layers)).eval()
    return transformers.BertForSequenceClassification(transformers.BertConfig(num_hidden_layers=layers)).eval()


def examples_of(model: Any, count: int) -> list[dict[str, torch.Tensor]]:
    if model.main_input_name == "pixel_values":
        size = model.config.image_size
        return [{"pixel_values": image} for image in torch.randn(count, 3, size, size)]
    return [{"input_ids": ids} for ids in torch.randint(1000, model.config.vocab_size, (count, 128))]


class Clock:
    """Seconds of named phases: processor and wall. A phase inside another is taken out of it."""

    def __init__(self) -> None:
        self.cpu = dict.fromkeys(PHASES, 0.0)
        self.wall = dict.fromkeys(PHASES, 0.0)
        self.running: list[str] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        self.running.append(name)
        try:
            yield
        finally:
            self.running.pop()
            took = (self.cpu, time.process_time() - cpu), (self.wall, time.perf_counter() - wall)
            for sums, seconds in took:
                sums[name] += seconds
                if self.running:
                    sums[self.running[-1]] -= seconds

    def watch(self, holder: Any, function: str, name: str) -> None:
        plain: Callable[..., Any] = getattr(holder, function)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return plain(*args, **kwargs)

        setattr(holder, function, watched)


def forward(model: Any, batches: list[dict[str, torch.Tensor]]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    return time.process_time() - cpu, time.perf_counter() - wall


def one(name: str) -> dict[str, Any]:
    import transformers

    from hf_learngene import resize
    from hf_learngene.calibration.examples import Examples
    from hf_learngene.methods import calibrated
    from hf_learngene.pruning.refit import Refit
    from hf_learngene.pruning.refit_check import RefitCheck
    from hf_learngene.pruning.select import CalibratedSelection

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    row = ROWS[name]
    model = model_of(row["model"], row["layers"])
    clock, seen = Clock(), list[Examples]()
    made = Examples._keep

    def kept(self: Examples) -> Any:
        seen.append(self)
        with clock.phase("examples"):
            return made(self)

    Examples._keep = kept  # type: ignore[method-assign]
    clock.watch(calibrated, "joined_layers", "layers")
    clock.watch(calibrated, "kept_layers", "layers")
    clock.watch(CalibratedSelection, "run", "selection")
    clock.watch(Refit, "run", "refit")
    clock.watch(RefitCheck, "error", "check")
    given: dict[str, Any] = {}
    if row["examples"] is not None:
        given = {"calibration": examples_of(model, row["examples"]), "calibration_top_up": False}
    batches: list[dict[str, torch.Tensor]] = []
    closed = Examples.close

    def closing(self: Examples) -> None:
        batches.extend(self.batches())
        closed(self)

    Examples.close = closing  # type: ignore[method-assign]
    warm = examples_of(model, 2)
    with torch.no_grad():
        model(**{k: torch.stack([w[k] for w in warm]) for k in warm[0]})
    passes = []
    if given:
        with Examples(given["calibration"], model) as some:
            ready = list(some.batches())
        seen.clear(), batches.clear()
        clock.cpu["examples"] = clock.wall["examples"] = 0.0
        passes.append(forward(model, ready))
        del ready
    cpu, wall = time.process_time(), time.perf_counter()
    resize(model, **row["sizes"], **given)
    took = time.process_time() - cpu, time.perf_counter() - wall
    passes.append(forward(model, batches))
    one_pass = [sum(p[i] for p in passes) / len(passes) for i in (0, 1)]
    return {
        "name": name,
        "examples": sum(len(next(iter(b.values()))) for b in batches),
        "threads": torch.get_num_threads(),
        "forward": {"cpu": one_pass[0], "wall": one_pass[1]},
        "shrink": {"cpu": took[0], "wall": took[1]},
        "phases": {"cpu": clock.cpu, "wall": clock.wall},
        "load": os.getloadavg()[0],
    }


def report(rows: list[dict[str, Any]], head: dict[str, Any]) -> str:
    lines = ["# What a calibrated shrink costs", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "command"]
    lines += [
        "",
        "Random weights. *Ratio*: processor seconds of the shrink by those of one forward pass of the source over its examples.",
        "Phases in processor seconds; *rest*: probing, building, transferring. *Load*: of the machine, when the row was done;",
        "wall seconds say little where that is more than the number of cores.",
        "",
        "| | threads | examples | one pass, CPU s | shrink, CPU s | ratio | wall s | " + " | ".join(PHASES) + " | rest | load |",
        "| --- |" + " ---: |" * (8 + len(PHASES)),
    ]  # fmt: skip
    for row in sorted(rows, key=lambda r: list(ROWS).index(r["name"])):
        phases = row["phases"]["cpu"]
        cells = [
            row["threads"], row["examples"], f"{row['forward']['cpu']:.1f}", f"{row['shrink']['cpu']:.1f}",
            f"**{row['shrink']['cpu'] / row['forward']['cpu']:.1f}**", f"{row['shrink']['wall']:.0f}",
            *(f"{phases[p]:.1f}" for p in PHASES), f"{row['shrink']['cpu'] - sum(phases.values()):.1f}", f"{row['load']:.1f}",
        ]  # fmt: skip
        lines.append(f"| {row['name']} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=[""], help="rows whose name holds one of these")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are there")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one)))
        return
    path = options.output / "cost.json"
    head = {"command": "python benchmarks/cost.py", **machine()}
    saved = json.loads(path.read_text()) if path.exists() else {}
    rows = saved["rows"] if saved.get("head") == head else []
    for name in (n for n in ROWS if any(part in n for part in options.rows)):
        if not options.again and any(r["name"] == name for r in rows):
            continue
        threads = str(options.threads)
        command = [sys.executable, __file__, "--one", name]
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        rows = [r for r in rows if r["name"] != name] + [json.loads(done.stdout.splitlines()[-1])]
        write(path, json.dumps({"head": head, "rows": rows}, indent=1))
        write(path.with_suffix(".md"), report(rows, head))
    print(report(rows, head))


if __name__ == "__main__":
    main()
