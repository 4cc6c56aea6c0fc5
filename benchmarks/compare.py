"""After a short fine-tune: calibrated shrink beside weight selection, layer dropping and random init, by `hf_learngene.compare`.

    python benchmarks/compare.py --task images
    python benchmarks/compare.py --task text

First every method is tried at a few learning rates, with another seed, on validation examples carved out of train, and keeps the
one that ends best; then all are trained for the same steps and seeds and measured on the official split. All comparisons lie
in `benchmarks/.cache/compare` and go on where they were stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from calibrated import source_of  # noqa: E402
from jobs import machine, write  # noqa: E402
from learngene_task import CACHE, DATA, HERE, Data  # noqa: E402


RATES = (3e-5, 3e-4, 1e-3)
CHOICE_SEED = 100
METHODS: dict[str, Any] = {
    "random": {"method": "random"},
    "weight selection": {"method": "weight_selection", "layer_selection": "uniform"},
    "minitron": {"method": "minitron"},
    "calibrated": {"method": "calibrated"},
}
DROPPING: dict[str, Any] = {
    "first layers": {"method": "weight_selection", "layer_selection": "first"},
    "shortgpt": {"method": "shortgpt"},
}
SIZES: dict[str, dict[str, dict[str, int]]] = {
    "images": {
        "a quarter: width 192, 3 heads, ffn 768": {
            "hidden_size": 192, "num_attention_heads": 3, "head_dim": 64, "intermediate_size": 768,
        },
        "half: 6 of 12 layers": {"num_hidden_layers": 6},
    },
    "text": {
        "a quarter: 3 layers, ffn 384": {"num_hidden_layers": 3, "intermediate_size": 384},
        "half: 3 of 6 layers": {"num_hidden_layers": 3},
    },
}  # fmt: skip


class Examples(torch.utils.data.Dataset):
    """Some examples of a split, as the model reads them."""

    def __init__(self, data: Data, split: str, first: int, count: int) -> None:
        places = torch.arange(first, min(first + count, len(data.splits[split][1])))
        batch = data.batch(split, places, tokens=64)
        self.rows = [{k: v[i] for k, v in batch.items()} for i in range(len(places))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=SIZES, default="images")
    parser.add_argument("--data", type=Path, default=DATA, help="teachers and data sets")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--train", type=int, default=4000, help="training examples")
    parser.add_argument("--eval", type=int, default=1000, help="of the official split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    import transformers

    from hf_learngene import compare

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    data, source = Data(options.task, options.data), source_of(options.task, options.data)
    train = Examples(data, "train", 0, options.train)
    sizes, folder = SIZES[options.task], CACHE / "compare"
    quarter, half = sizes
    shared = {"steps": options.steps, "batch_size": options.batch}
    tried = {f"{name}, {rate:g}": (name, rate) for name in METHODS for rate in RATES}
    chosen = compare(
        source, {quarter: sizes[quarter]}, train, Examples(data, "valid", 0, 400), seeds=[CHOICE_SEED],
        methods={label: METHODS[name] for label, (name, _) in tried.items()},
        learning_rate={label: rate for label, (_, rate) in tried.items()},
        output_dir=folder / f"{options.task}_rates", eval_steps=options.steps, **shared,
    )  # fmt: skip
    rates: dict[str, float] = {}
    for name in METHODS:
        rates[name] = max(RATES, key=lambda r: chosen.row(quarter, f"{name}, {r:g}").after or 0.0)
    rates |= dict.fromkeys(DROPPING, rates["weight selection"])
    held = Examples(data, "test", 0, options.eval)
    found = []
    for name, methods in ((quarter, METHODS), (half, METHODS | DROPPING)):
        out = folder / f"{options.task}_{name.partition(':')[0].replace(' ', '_')}"
        found.append(
            compare(source, {name: sizes[name]}, train, held, seeds=options.seeds, methods=methods,
                    learning_rate={m: rates[m] for m in methods}, eval_steps=max(1, options.steps // 4), output_dir=out, **shared)
        )  # fmt: skip
        kind = "quarter" if name == quarter else "half"
        shutil.copy(out / "comparison.png", options.output / f"compare_{options.task}_{kind}.png")
    command = f"python benchmarks/compare.py --task {options.task} --steps {options.steps} --eval {options.eval}"
    head = {"command": command, "learning rates": rates, **machine()}
    lines = [f"# After a short fine-tune, {options.task}", "", f"`{command}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "command"]
    lines += [
        f"- {options.train:,} training examples, batches of {options.batch}; rates chosen on 400 others, seed {CHOICE_SEED}",
        "",
    ]
    for one, kind in zip(found, ("quarter", "half"), strict=True):
        page = one.to_markdown().replace("comparison.png", f"compare_{options.task}_{kind}.png")
        lines += [re.sub("^#", "##", page, flags=re.MULTILINE), ""]
    write(
        options.output / f"compare_{options.task}.json",
        json.dumps({"head": head, "found": [f.to_dict() for f in found]}, indent=1),
    )
    write(options.output / f"compare_{options.task}.md", "\n".join(lines))
    print("\n".join(map(str, found)))


if __name__ == "__main__":
    main()
