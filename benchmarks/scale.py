"""Resizing a checkpoint to a folder, tensor by tensor: peak memory and time, at shapes up to larger than memory.

    python benchmarks/scale.py                     # every row; 25 GB of disk
    python benchmarks/scale.py --rows ViT BERT     # some of them

Sources have random weights in half precision, written here tensor by tensor. Every measurement is a process of its own:
`hf-learngene resize` as the command line runs it, an import of all that it imports, and a copy of the bytes that it wrote,
through to the disk. Finished rows are kept and skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs import machine, write


HERE = Path(__file__).parent
SLACK, RATIO, BLOCK = 300e6, 1.3, 16 << 20
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT-base": ("BertForMaskedLM", {}),
    "BERT-large": ("BertForMaskedLM", {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    }),
    "ViT-base": ("ViTForImageClassification", {}),
    "ViT-huge": ("ViTForImageClassification", {
        "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120, "patch_size": 14,
    }),
    "ESM-2 3B": ("EsmForMaskedLM", {
        "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 40, "intermediate_size": 10240, "vocab_size": 33,
        "pad_token_id": 1, "mask_token_id": 32, "max_position_embeddings": 1026, "position_embedding_type": "rotary",
        "token_dropout": True, "emb_layer_norm_before": False,
    }),
}  # fmt: skip
# (model, what changes, arguments of the command line)
ROWS: list[tuple[str, str, list[str]]] = [
    ("BERT-base", "width 384", ["--hidden-size", "384"]),
    ("BERT-base", "24 layers", ["--num-hidden-layers", "24"]),
    ("BERT-large", "12 of 24 layers", ["--num-hidden-layers", "12"]),
    ("BERT-large", "width 512", ["--hidden-size", "512"]),
    ("BERT-large", "width 2048", ["--hidden-size", "2048"]),
    ("ViT-base", "width 384", ["--hidden-size", "384"]),
    ("ViT-huge", "16 of 32 layers", ["--num-hidden-layers", "16"]),
    ("ViT-huge", "width 640", ["--hidden-size", "640"]),
    ("ViT-huge", "48 layers", ["--num-hidden-layers", "48"]),
    ("ESM-2 3B", "18 of 36 layers", ["--num-hidden-layers", "18"]),
    ("ESM-2 3B", "width 1280", ["--hidden-size", "1280"]),
    ("ESM-2 3B", "48 layers", ["--num-hidden-layers", "48"]),
]


# ---- in a process of its own


def child_make(folder: str, model: str) -> dict[str, float]:
    """A checkpoint with random weights, written tensor by tensor."""
    import torch
    import transformers

    from hf_learngene.hub.shards import Shards

    name, sizes = MODELS[model]
    cls = getattr(transformers, name)
    with torch.device("meta"):
        made = cls(cls.config_class(**sizes)).to(torch.bfloat16)
    shards = Shards.of(made, "5GB")
    made.save_pretrained(folder, state_dict={})
    shards.write(Path(folder), lambda n: torch.randn(shards.tensors[n].shape, dtype=torch.bfloat16) * 0.02)
    largest = max(t.nbytes for t in shards.tensors.values())
    return {"bytes": sum(t.nbytes for t in shards.tensors.values()), "largest": largest}


def child_import() -> dict[str, float]:
    """What importing alone takes: the command line's own modules, torch, and transformers with the model classes."""
    import transformers

    import hf_learngene.cli.resize  # noqa: F401
    import hf_learngene.resizing.to_folder  # noqa: F401

    for name, _ in MODELS.values():
        getattr(transformers, name)
    return {}


def child_resize(folder: str, output: str, arguments: list[str]) -> dict[str, float]:
    from hf_learngene.cli.app import app

    try:
        app(["resize", folder, output, "--calibration", "none", *arguments], standalone_mode=False)
    except SystemExit as end:
        if end.code:
            raise
    return {}


def child_copy(output: str, copy: str) -> dict[str, float]:
    """Copies all files, and writes them through to the disk, as the command does."""
    os.makedirs(copy)
    for path in Path(output).iterdir():
        with path.open("rb") as source, (Path(copy) / path.name).open("wb") as target:
            while block := source.read(BLOCK):
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
    return {}


def child_read(folder: str) -> dict[str, float]:
    """Reads the source once: a copy of the result does not, and the result may be made of four times its bytes."""
    for path in Path(folder).glob("*.safetensors"):
        with path.open("rb") as source:
            while source.read(BLOCK):
                pass
    return {}


def run(action: str, **arguments: Any) -> dict[str, float]:
    """A child's own figures, its seconds from start to end, and the highest memory that it had."""
    command = [sys.executable, __file__, "--child", json.dumps({"action": action, **arguments})]
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(request: dict[str, Any]) -> None:
    start = time.perf_counter()
    found = globals()[f"child_{request.pop('action')}"](**request)
    found["seconds"] = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found["cpu"], found["peak"] = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    print(json.dumps(found))


# ---- here


def measure(model: str, change: str, arguments: list[str], scratch: Path, made: dict[str, float]) -> dict[str, Any]:
    from safetensors import safe_open

    source, output, copy = (scratch / name for name in ("source", "output", "copy"))
    imported = run("import")
    resized = run("resize", folder=str(source), output=str(output), arguments=arguments)
    copied = run("copy", output=str(output), copy=str(copy))
    read = run("read", folder=str(source))
    largest = total = 0
    for file in output.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                largest = max(largest, 2 * torch_size(tensors.get_slice(name).get_shape()))
        total += file.stat().st_size
    for folder in (output, copy):
        shutil.rmtree(folder)
    return {
        "row": f"{model}, {change}",
        "source_bytes": made["bytes"],
        "target_bytes": total,
        "largest_bytes": max(largest, made["largest"]),
        "peak_over_import": resized["peak"] - imported["peak"],
        "seconds": resized["seconds"] - imported["seconds"],
        "cpu": resized["cpu"] - imported["cpu"],
        "copy_seconds": copied["seconds"],
        "copy_cpu": copied["cpu"],
        "read_seconds": read["seconds"],
        "load": os.getloadavg()[0],
    }


def torch_size(shape: list[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def report(rows: list[dict[str, Any]], head: dict[str, Any]) -> str:
    lines = ["# Resizing to a folder, tensor by tensor", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "command"]
    lines += [
        "",
        "Random weights in bfloat16. *Peak*: highest resident memory of the process, less that of one that only imports;",
        f"*allowed*: two of the largest tensors and {SLACK / 1e6:.0f} MB. *Seconds*: less those of importing; *copy*: reading",
        f"and writing the result's bytes, through to the disk. Aim: at most the allowed memory, and {RATIO} × the copy. What a",
        "copy does not do stands beside it: *read*, of all the source's bytes, which a narrower model is made of (the file cache",
        "may hold some of them); and planning, which takes about a second of *CPU s* whatever the size. *Load*: of the machine,",
        "when the row was done; where it is more than its cores, compare within a row only.",
        "",
        "| | source | result | largest tensor | peak | allowed | ≤ 1 | seconds | copy | ÷ copy | read | ÷ (copy + read) | CPU s "
        "| load |",
        "| --- |" + " ---: |" * 13,
    ]  # fmt: skip
    for r in rows:
        allowed = 2 * r["largest_bytes"] + SLACK
        cells = [
            f"{r['source_bytes'] / 1e6:,.0f} MB", f"{r['target_bytes'] / 1e6:,.0f} MB", f"{r['largest_bytes'] / 1e6:,.0f} MB",
            f"{r['peak_over_import'] / 1e6:,.0f} MB", f"{allowed / 1e6:,.0f} MB", f"{r['peak_over_import'] / allowed:.2f}",
            f"{r['seconds']:.1f}", f"{r['copy_seconds']:.1f}", f"**{r['seconds'] / r['copy_seconds']:.2f}**",
            f"{r['read_seconds']:.1f}", f"{r['seconds'] / (r['copy_seconds'] + r['read_seconds']):.2f}", f"{r['cpu']:.1f}",
            f"{r['load']:.1f}",
        ]  # fmt: skip
        lines.append(f"| {r['row']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=[""], help="rows whose name holds one of these")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are there")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "scale.json"
    head = {"command": "python benchmarks/scale.py", **machine()}
    saved = json.loads(path.read_text()) if path.exists() else {}
    rows = [r for r in saved["rows"] if "read_seconds" in r] if saved.get("head") == head else []
    names = [f"{model}, {change}" for model, change, _ in ROWS]
    for model in MODELS:
        wanted = [
            row for row in ROWS
            if row[0] == model
            and any(part in f"{model}, {row[1]}" for part in options.rows)
            and (options.again or not any(r["row"] == f"{model}, {row[1]}" for r in rows))
        ]  # fmt: skip
        if not wanted:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            made = run("make", folder=str(Path(scratch) / "source"), model=model)
            for row in wanted:
                found = measure(*row, Path(scratch), made)
                rows = [*(r for r in rows if r["row"] != found["row"]), found]
                rows.sort(key=lambda r: names.index(r["row"]))
                write(path, json.dumps({"head": head, "rows": rows}, indent=1))
                write(path.with_suffix(".md"), report(rows, head))
    print(report(rows, head))


if __name__ == "__main__":
    main()
