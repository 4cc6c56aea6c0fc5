"""Time and peak memory of `from_pretrained_resized`, against loading the source and writing the target once.

    python benchmarks/resize.py             # or: make bench

Writes results/resize.json and results/resize.md. Sources are ViT-base and BERT-base with random weights, made here; every
measurement runs in a fresh process, with the file cache warm.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
MEGA = 1_000_000
RATIO, PROBING, IMPORTING = 1.3, 0.2, 0.3  # what is aimed at

MODELS = {"vit-base": "ViTForImageClassification", "bert-base": "BertForMaskedLM"}
# (name, source, sizes)
CASES: list[tuple[str, str, dict[str, int]]] = [
    ("ViT-base → width 384", "vit-base", {"hidden_size": 384}),
    ("ViT-base → 6 layers", "vit-base", {"num_hidden_layers": 6}),
    ("ViT-base → width 1024", "vit-base", {"hidden_size": 1024}),
    ("BERT-base → width 384", "bert-base", {"hidden_size": 384}),
    ("BERT-base → 6 layers", "bert-base", {"num_hidden_layers": 6}),
    ("BERT-base → width 1536", "bert-base", {"hidden_size": 1536}),
    ("BERT-base → 24 layers", "bert-base", {"num_hidden_layers": 24}),
]
AUTO = (
    "AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForMaskedLM, AutoModelForSequenceClassification"
)


# ---- in a fresh process: each returns what it measured


def child_load(folder: str, model: str) -> dict[str, float]:
    """Plain `from_pretrained` of the source, and reading all of it once: until then the file is only mapped."""
    cls = _ready(model)
    loaded = []
    found = _measured(lambda: loaded.append(cls.from_pretrained(folder)))
    return found | {"read_s": _seconds(lambda: [p.detach().sum() for p in loaded[0].parameters()])}


def child_resize(folder: str, model: str, sizes: dict[str, int]) -> dict[str, float]:
    """`from_pretrained_resized`, with nothing cached."""
    from hf_learngene import ResizableMixin

    cls = type(model, (ResizableMixin, _ready(model)), {})
    return _measured(lambda: cls.from_pretrained_resized(folder, calibration=None, **sizes))


def child_write(folder: str, model: str, sizes: dict[str, int]) -> dict[str, float]:
    """Writes the target's bytes once: to memory (a clone of each tensor), and to a file of safetensors."""
    from safetensors.torch import save_file

    from hf_learngene import ResizableMixin

    cls = type(model, (ResizableMixin, _ready(model)), {})
    source = {n: p.detach() for n, p in _ready(model).from_pretrained(folder).named_parameters()}
    target = {
        n: p.detach() for n, p in cls.from_pretrained_resized(folder, calibration=None, **sizes).named_parameters()
    }
    faults, start = _faults(), time.perf_counter()
    clones = {name: tensor.clone() for name, tensor in target.items()}
    memory, faults = time.perf_counter() - start, _faults() - faults
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        save_file(clones, Path(out) / "model.safetensors")
        file = time.perf_counter() - start
    return {"memory_s": memory, "memory_faults": faults, "file_s": file, **_bytes(source, target)}


def child_anatomy(model: str) -> dict[str, float]:
    """Probing a config of base size, the first time in a process and again without the cache."""
    cls = _ready(model)
    from hf_learngene.anatomy import infer

    config = cls.config_class()
    first = _seconds(lambda: infer.anatomy_of(config, cls))
    infer._CACHE.clear()
    return {"first_s": first, "again_s": _seconds(lambda: infer.anatomy_of(config, cls))}


def child_import() -> dict[str, float]:
    """Importing the package, over transformers and its auto classes."""
    base = _seconds(lambda: exec(f"from transformers import {AUTO}"))
    return {"transformers_s": base, "over_s": _seconds(lambda: exec("import hf_learngene"))}


def child_import_own() -> dict[str, float]:
    """Loading every public name, where transformers has loaded what any first model needs."""
    exec(f"from transformers import {AUTO}, PreTrainedModel")
    return {"own_s": _seconds(lambda: exec("from hf_learngene import *"))}


def _ready(model: str) -> Any:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.zeros(8) @ torch.zeros(8)  # the first product starts the thread pool
    return getattr(transformers, model)


def _bytes(source: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, float]:
    sizes = [{n: t.numel() * t.element_size() for n, t in tensors.items()} for tensors in (source, target)]
    largest = max(max(s.values()) for s in sizes)
    return {"source_bytes": sum(sizes[0].values()), "target_bytes": sum(sizes[1].values()), "largest_bytes": largest}


def _seconds(act: Callable[[], Any]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _measured(act: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor seconds, and the highest resident memory over what was resident before.

    No garbage is collected meanwhile, as `timeit` does it: a collection of all that was imported falls on whatever runs.
    """
    gc.collect()
    gc.disable()
    resident = _status("VmRSS")
    reset = _reset_peak()
    used, faults = _processor_seconds(), _faults()
    start = time.perf_counter()
    kept = act()
    wall = time.perf_counter() - start
    gc.enable()
    peak = _status("VmHWM") if reset else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    del kept
    used, faults = _processor_seconds() - used, _faults() - faults
    return {"wall_s": wall, "cpu_s": used, "faults": faults, "peak_bytes": peak - resident}


def _faults() -> int:
    """Pages that the system had to clear or to map so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _reset_peak() -> bool:
    """Linux forgets the highest resident memory so far; without that, what importing took stays in it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


# ---- here


def in_fresh_process(action: str, **arguments: Any) -> dict[str, float]:
    request = json.dumps({"action": action, **arguments})
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--child", request], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{action} {arguments} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def make_source(model: str, folder: Path) -> None:
    """A checkpoint of base size with random weights."""
    cls = _ready(model)
    cls(cls.config_class()).save_pretrained(folder)


def median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def measure_cases(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Sources, targets and both writes are measured in turn, so that a busy moment does not fall on one of them alone."""
    found = []
    for name, source, sizes in CASES:
        common = {"folder": str(folder / source), "model": MODELS[source]}
        loads, resizes, writes = [], [], []
        for _ in range(repeats):
            loads.append(in_fresh_process("load", **common))
            resizes.append(in_fresh_process("resize", **common, sizes=sizes))
            writes.append(in_fresh_process("write", **common, sizes=sizes))
        found.append(summary(name, sizes, loads, resizes, writes))
        print(f"{name}: {found[-1]['ratio_memory']:.2f} × load + clone", file=sys.stderr, flush=True)
    return found


def summary(name: str, sizes: Mapping[str, int], loads: list, resizes: list, writes: list) -> dict[str, Any]:
    load, resized, write = median(loads), median(resizes), median(writes)
    return {
        "case": name,
        "sizes": dict(sizes),
        "load": load,
        "resized": resized,
        "write": write,
        "ratio_load": resized["wall_s"] / load["wall_s"],
        "ratio_memory": resized["wall_s"] / (load["wall_s"] + write["memory_s"]),
        "ratio_read": resized["wall_s"] / (load["wall_s"] + load["read_s"] + write["memory_s"]),
        "ratio_file": resized["wall_s"] / (load["wall_s"] + write["file_s"]),
        "allowed_bytes": write["source_bytes"] + write["target_bytes"] + write["largest_bytes"],
        "repeats": {"load_s": [r["wall_s"] for r in loads], "resized_s": [r["wall_s"] for r in resizes]},
    }


def measure_start(repeats: int) -> dict[str, Any]:
    anatomy = {
        name: median([in_fresh_process("anatomy", model=m) for _ in range(repeats)]) for name, m in MODELS.items()
    }
    imports = median([in_fresh_process("import") | in_fresh_process("import_own") for _ in range(repeats)])
    return {"anatomy": anatomy, "import": imports}


def machine() -> dict[str, Any]:
    import torch
    import transformers

    model = next(
        (x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ": unknown"
    )
    return {
        "cpu": model.partition(":")[2].strip(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


# ---- the report


def report(results: Mapping[str, Any]) -> str:
    m = results["machine"]
    busy = max(results["load_average"])
    return (
        "\n".join(
            [
                "# Resizing, timed\n",
                f"`{results['command']}`: median of {results['repeats']}, each in a fresh process, file cache warm."
                " Written by the command; do not edit.\n",
                f"- {m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB; {m['threads']} threads",
                f"- Python {m['python']}, torch {m['torch']}, transformers {m['transformers']}",
                f"- load average before and after {results['load_average'][0]:.1f} and {results['load_average'][1]:.1f}"
                + (": other processes were running, so compare within a row only" if busy > m["cores"] else ""),
                "\n## Time\n",
                time_table(results["cases"]),
                "\n*load* is plain `from_pretrained` of the source, which maps the file and reads little of it; *read* goes over"
                " all of it once. *clone* writes the target's bytes once to memory, *save* to a safetensors file."
                f" Aim: at most {RATIO} × (load + clone), probing included. *faults*: pages that the system had to clear or to"
                " map; a clone has those of the target, as the resize must have.",
                "\n## Peak memory\n",
                memory_table(results["cases"]),
                "\nHighest resident memory over what was resident before the call (pages of the mapped checkpoint count). Aim: at"
                " most source + target + the one largest tensor.",
                "\n## Before the first weight\n",
                start_table(results),
            ]
        )
        + "\n"
    )


def table(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] + ["---:"] * (len(rows[0]) - 1), *rows[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def time_table(cases: list[dict[str, Any]]) -> str:
    sums = ["÷ load", "÷ (load + clone)", "÷ (load + read + clone)", "÷ (load + save)", f"load + clone ≤ {RATIO}"]
    sums += ["CPU s, load", "resized", "faults, load", "clone", "resized"]
    rows = [["", "load", "read", "clone", "save", "resized", *sums]]
    for c in cases:
        load, write = c["load"], c["write"]
        seconds = [load["wall_s"], load["read_s"], write["memory_s"], write["file_s"], c["resized"]["wall_s"]]
        ratios = [c["ratio_load"], c["ratio_memory"], c["ratio_read"], c["ratio_file"]]
        met = "yes" if c["ratio_memory"] <= RATIO else "no"
        rows.append([c["case"], *(f"{s:.2f} s" for s in seconds), *(f"{r:.2f}" for r in ratios), met])
        rows[-1] += [f"{c[k]['cpu_s']:.2f}" for k in ("load", "resized")]
        rows[-1] += [f"{n:,.0f}" for n in (load["faults"], write["memory_faults"], c["resized"]["faults"])]
    return table(rows)


def memory_table(cases: list[dict[str, Any]]) -> str:
    rows = [["", "source", "target", "largest tensor", "load source, peak", "resized, peak", "÷ allowed", "≤ 1"]]
    for c in cases:
        sizes = [c["write"][k] for k in ("source_bytes", "target_bytes", "largest_bytes")]
        sizes += [c["load"]["peak_bytes"], c["resized"]["peak_bytes"]]
        ratio = c["resized"]["peak_bytes"] / c["allowed_bytes"]
        rows.append([c["case"], *(f"{s / MEGA:.0f} MB" for s in sizes), f"{ratio:.2f}", "yes" if ratio <= 1 else "no"])
    return table(rows)


def start_table(results: Mapping[str, Any]) -> str:
    rows = [["", "seconds", "aim", "met"]]
    for name, found in results["anatomy"].items():
        for key, words in (("first_s", "first in a process"), ("again_s", "again, uncached")):
            met = "yes" if found[key] < PROBING else "no"
            rows.append([f"anatomy of {name}, {words}", f"{found[key]:.3f}", f"< {PROBING}", met])
    over = results["import"]
    rows.append(["import of transformers and its auto classes", f"{over['transformers_s']:.3f}", "", ""])
    met = "yes" if over["over_s"] < IMPORTING else "no"
    rows.append(["import of hf_learngene after it", f"{over['over_s']:.3f}", f"< {IMPORTING}", met])
    rows.append(
        [
            "all its names, `transformers.PreTrainedModel` loaded before",
            f"{over['own_s']:.3f}",
            "",
            "",
        ]
    )
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of resize.json and resize.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        request = json.loads(given.child)
        print(json.dumps(globals()[f"child_{request.pop('action')}"](**request)))
        return
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        for name, model in MODELS.items():
            make_source(model, Path(folder) / name)
        results = {"command": "python benchmarks/resize.py", "repeats": given.repeats, "machine": machine()}
        results |= measure_start(max(3, given.repeats))
        results["cases"] = measure_cases(Path(folder), given.repeats)
    results["load_average"] = [before, os.getloadavg()[0]]
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "resize.json").write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (given.output / "resize.md").write_text(report(results), encoding="utf-8")
    print(given.output / "resize.md", file=sys.stderr)


if __name__ == "__main__":
    main()
