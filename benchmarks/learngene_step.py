"""Time and memory of a learngene's training step against the dense model's, and what each learngene stores.

    python benchmarks/learngene_step.py

ViT-S/16 at 224 px (12 layers, width 384) with random weights. What is compared runs in one process, in turn and in changing
order, and the fastest of its runs counts: others were slowed down by something else. Memory is measured in a process for
each. Writes results/learngene_step.json and results/learngene_step.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
STEP, MEMORY, DISTIL, SECOND = 1.10, 1.20, 1.05, 1.0  # what is aimed at

KINDS: dict[str, dict[str, Any]] = {
    "sws": {"num_stages": 5}, "tleg": {}, "fine": {}, "wave": {"template_share": 0.25}, "lets": {},
}  # fmt: skip
SLICE, NARROW = (
    "condensed, and a slice",
    {"num_hidden_layers": 9, "hidden_size": 256, "num_attention_heads": 4, "head_dim": 64},
)
DENSE_SLICE = f"dense of {SLICE}"
STEPS = (*KINDS, "condensed", SLICE)
LARGE, LARGE_REPEATS = 4, 3  # times the batch
# What the papers say of stored parameters.
PAPERS = {
    "sws": "20 × fewer than 10 sizes", "tleg": "19 × fewer", "fine": "about 35 %", "wave": "3.3 %",
    "lets": "37.7 M for 12 sizes of 758 M",
}  # fmt: skip
SIZES = {"small": (384, 6), "base": (768, 12)}


def model_of(size: str) -> Any:
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    width, heads = SIZES[size]
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width, num_labels=1000)
    )


def student_of(kind: str, size: str) -> Any:
    from hf_learngene import AutoLearngene

    model = model_of(size)
    if kind == "dense":
        return model.train()
    if kind == DENSE_SLICE:
        return student_of(SLICE, size).initialize(calibration=None, **NARROW).train()
    learngene = AutoLearngene.from_config(_config(kind, model))  # its values do not matter for time
    learngene.config.fitted = True
    return learngene.train()


def _config(kind: str, model: Any) -> Any:
    from hf_learngene import AutoLearngeneConfig

    order = {"order": {"layers": list(range(model.config.num_hidden_layers)), "stream": "directions"}}
    options = KINDS.get(kind, order)
    kind = "condensed" if kind == SLICE else kind
    return AutoLearngeneConfig.for_type(
        kind, base_config=model.config, base_architecture=type(model).__name__, **options
    )


def batch_of(count: int) -> dict[str, Any]:
    import torch

    return {"pixel_values": torch.randn(count, 3, 224, 224), "labels": torch.randint(0, 1000, (count,))}


def timed(action: Callable[[], Any], repeats: int) -> list[float]:
    action()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return found


def in_turn(actions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each action, one after the other and then in reverse, so that a slow minute falls on all."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(repeats + 1):
        for name in list(actions)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            actions[name]()
            found[name].append(time.perf_counter() - began)
    return {name: times[1:] for name, times in found.items()}


def step_of(kind: str, inputs: dict[str, Any]) -> Callable[[], None]:
    """A forward, backward and optimizer step; of a core with a slice of it, both of them, and one step of the optimizer."""
    import torch

    narrow = student_of(DENSE_SLICE, "small") if kind == DENSE_SLICE else None
    student = student_of("dense" if narrow is not None else kind, "small")
    target = student.target(student.config_at(NARROW)) if kind == SLICE else None
    optimizer = torch.optim.AdamW(student.parameters(), fused=True)

    def step() -> None:
        student(**inputs).loss.backward()
        if target is not None:
            student.run(target, **inputs).loss.backward()
        if narrow is not None:
            narrow(**inputs).loss.backward()
            narrow.zero_grad()
        optimizer.step()
        optimizer.zero_grad()

    return step


def child_step(kind: str, batch: int, repeats: int) -> dict[str, list[float]]:
    """The step of a learngene beside the dense model's."""
    inputs = batch_of(batch)
    dense = DENSE_SLICE if kind == SLICE else "dense"
    return in_turn({"dense": step_of(dense, inputs), "own": step_of(kind, inputs)}, repeats)


def child_memory(kind: str, batch: int) -> float:
    """MB that three steps take at most over what was resident before."""
    step = step_of(kind, batch_of(batch))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def child_distil(kind: str, batch: int, repeats: int) -> dict[str, Any]:
    """The trainer's distillation step, plain and with cached logits, against its parts."""
    import torch

    from hf_learngene import LearngeneTrainer, LearngeneTrainingArguments

    student, teacher, inputs = student_of(kind, "small"), model_of("small").eval(), batch_of(batch)
    pixels = inputs["pixel_values"]

    def plain() -> None:
        student(**inputs).loss.backward()
        student.zero_grad()

    def ask() -> None:
        with torch.no_grad():
            teacher(pixels)

    with tempfile.TemporaryDirectory() as folder:
        args = LearngeneTrainingArguments(folder, report_to="none", use_cpu=True, disable_tqdm=True)
        trainer = LearngeneTrainer(student, args, teacher)
        logits = teacher(pixels).logits.detach()

        def distil() -> None:
            student.train()
            trainer.compute_loss(student, dict(inputs)).backward()
            student.zero_grad()

        ask_teacher = trainer._ask_teacher

        def cached() -> None:
            trainer._ask_teacher = lambda *_: {"logits": logits}
            distil()
            trainer._ask_teacher = ask_teacher

        return in_turn({"step": plain, "teacher": ask, "distil": distil, "cached": cached}, repeats)


def child_initialize(kind: str, repeats: int) -> dict[str, Any]:
    """`initialize` of a base-size descendant, two layers fewer."""
    learngene = student_of(kind, "base").eval()
    sizes = sum(p.numel() for t in (learngene.shared, learngene.outside) for p in t.parameters())
    blocks = sum(p.numel() for p in learngene.shared.parameters())
    dense = sum(t.numel for t in learngene.anatomy.tensors.values() if t.layer is not None)
    return {
        "seconds": timed(lambda: learngene.initialize(num_hidden_layers=10), repeats),
        "stored": sizes,
        "share": learngene.stored_share,
        "layers_share": blocks / dense,
        "scalers": sum(p.numel() for p in learngene.scalers.parameters()),
    }


def measured(function: str, *arguments: Any) -> Any:
    code = f"import json, sys; sys.path.insert(0, {str(HERE)!r}); import learngene_step as b; "
    code += f"print(json.dumps(b.{function}(*{arguments!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def report(found: dict[str, Any]) -> str:
    lines = [
        "# A learngene's training step",
        "",
        f"`{found['command']}`. Written by the command; do not edit.",
        "",
        *(f"- {k}: {v}" for k, v in found["machine"].items()),
        "",
        f"ViT-S/16 at 224 px, 12 layers, batch {found['batch']}, float32; best of {found['repeats']}, each beside the",
        "dense model's in the same process. Peak memory over what was resident before the first step, that of the dense model",
        f"{found['memory']['dense']:.0f} MB. Aims: step ≤ 1.10 × dense, memory ≤ 1.20 × dense. What is made of weights takes",
        f"as long whatever the batch; the last column is at batch {LARGE * found['batch']}. *And a slice*: the whole core and 9",
        "layers of width 256 of it, as nested training does, beside two dense models of these sizes; the larger is stepped.",
        "",
        "| | step | dense | ÷ dense | ≤ 1.10 | peak | ÷ dense | ≤ 1.20 | ÷ dense, large batch |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | --- | ---: |",
    ]
    for kind, entry in found["step"].items():
        own, dense, peak = min(entry["own"]), min(entry["dense"]), found["memory"][kind]
        more, large = peak / found["memory"]["dense"], found["large"][kind]
        lines.append(
            f"| {kind} | {own:.2f} s | {dense:.2f} s | {own / dense:.2f} | {_met(own / dense, STEP)} | "
            f"{peak:.0f} MB | {more:.2f} | {_met(more, MEMORY)} | {min(large['own']) / min(large['dense']):.2f} |"
        )
    lines += [
        "",
        "Distillation from a teacher of the same size: the trainer's loss and backward against a teacher forward plus a plain",
        "step, and with cached logits against the plain step. Aim: ≤ 1.05.",
        "",
        "| | plain step | teacher | distillation | ÷ (teacher + step) | ≤ 1.05 | cached | ÷ step | ≤ 1.05 |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    for kind, entry in found["distil"].items():
        step, teacher, distil, cached = (min(entry[k]) for k in ("step", "teacher", "distil", "cached"))
        live, kept = distil / (step + teacher), cached / step
        lines.append(
            f"| {kind} | {step:.2f} s | {teacher:.2f} s | {distil:.2f} s | {live:.2f} | {_met(live, DISTIL)} | {cached:.2f} s | "
            f"{kept:.2f} | {_met(kept, DISTIL)} |"
        )
    lines += [
        "",
        "What is stored, at ViT-B/16 (86.6 M dense parameters), and `initialize(num_hidden_layers=10)`. *layers*:",
        "shared parts as a share of the parameters in all layers of the dense model.",
        "",
        "| | stored | of dense | layers | scalers | the paper says | initialize | < 1 s |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for kind, entry in found["initialize"].items():
        seconds = min(entry["seconds"])
        lines.append(
            f"| {kind} | {entry['stored'] / 1e6:.1f} M | {entry['share']:.1%} | {entry['layers_share']:.1%} | "
            f"{entry['scalers']:,} | {PAPERS[kind]} | {seconds:.2f} s | {_met(seconds, SECOND)} |"
        )
    return "\n".join(lines) + "\n"


def _met(value: float, aim: float) -> str:
    return "yes" if value <= aim else "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    import torch
    import transformers

    found: dict[str, Any] = {
        "command": f"python benchmarks/learngene_step.py --batch {options.batch} --repeats {options.repeats}",
        "machine": {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
            "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}",
        },
        "batch": options.batch,
        "repeats": options.repeats,
    }
    found["step"] = {k: measured("child_step", k, options.batch, options.repeats) for k in STEPS}
    found["large"] = {k: measured("child_step", k, LARGE * options.batch, LARGE_REPEATS) for k in STEPS}
    found["memory"] = {k: measured("child_memory", k, options.batch) for k in ("dense", *STEPS)}
    found["distil"] = {k: measured("child_distil", k, options.batch, options.repeats) for k in ("dense", "wave")}
    found["initialize"] = {k: measured("child_initialize", k, 3) for k in KINDS}
    found["load"] = os.getloadavg()
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "learngene_step.json").write_text(json.dumps(found, indent=1))
    (options.output / "learngene_step.md").write_text(report(found))
    print(report(found))


if __name__ == "__main__":
    main()
