"""Shrinking a hierarchy without training: what `calibrated` leaves of a small Swin or ConvNeXt, beside weight selection.

    python benchmarks/hierarchies.py --task swin
    python benchmarks/hierarchies.py --task convnext

`../shared/data` holds no hierarchy, so one is trained here on CIFAR-10 for a few minutes of a core, and kept in the cache. It is
far from what its family can do, and easier to shrink: after so short a training the units of its ffn are nearly linear, and most
of them are combinations of the others. What is measured is how much of what a model does is left. Nothing is trained afterwards.
The seeds differ in the 512 training images that are looked at; `made up` looks at none. *Agreement*: share of the test images
that get the source's class.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from jobs import SOURCE, Rows, counted, heading, machine, parser_of, quiet, source_row, tabulate, timed  # noqa: E402
from learngene_task import CACHE, DATA, HERE  # noqa: E402


SEEN, EXAMPLES, BATCH = 24000, 512, 48
TASKS: dict[str, dict[str, Any]] = {
    "swin": {
        "config": {"image_size": 32, "patch_size": 4, "embed_dim": 48, "depths": [2, 4, 2], "num_heads": [2, 4, 8],
                   "window_size": 2},
        "shapes": [
            {"mlp_ratio": 2},
            {"depths": [2, 2, 2]},
            {"mlp_ratio": 2, "depths": [2, 2, 2]},
            {"embed_dim": 36, "num_heads": [2, 4, 8]},
        ],
    },
    "convnext": {
        "config": {"image_size": 32, "patch_size": 4, "hidden_sizes": [48, 96, 192], "depths": [2, 4, 2], "num_stages": 3,
                   "layer_scale_init_value": 0.1},
        "shapes": [{"depths": [2, 2, 2]}, {"hidden_sizes": [36, 72, 144]}],
    },
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "calibrated": {"method": "calibrated"},
    "made up": {"method": "calibrated", "calibration": "synthetic"},
    "weight selection": {"method": "weight_selection", "layer_selection": "uniform"},
}


def images_of(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Normalised images and labels of both splits: the training images that are used, the first of them held out."""
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    path = CACHE / "hierarchies" / "data.pt"
    if not path.exists():
        found = {}
        for split, count in (("train", SEEN + 2000), ("test", 10000)):
            table = pq.read_table(next((folder / "cifar10").glob(f"*{split}.parquet"))).to_pydict()
            order = torch.randperm(len(table["label"]), generator=torch.Generator().manual_seed(0)).tolist()[:count]
            pixels = np.stack([np.array(Image.open(io.BytesIO(table["image"][i]["bytes"]))) for i in order])
            found[split] = (
                torch.from_numpy(pixels).permute(0, 3, 1, 2),
                torch.tensor([table["label"][i] for i in order]),
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, path)
    found = torch.load(path, weights_only=True)
    found["valid"] = tuple(t[:2000] for t in found["train"])
    found["train"] = tuple(t[2000:] for t in found["train"])
    return {split: ((x.float() / 255 - 0.5) / 0.25, y) for split, (x, y) in found.items()}


def source_of(task: str, data: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """The hierarchy, trained here once: an epoch of the images that are used, mirrored at random."""
    import transformers

    kind = {"swin": "Swin", "convnext": "ConvNext"}[task]
    cls = getattr(transformers, f"{kind}ForImageClassification")
    path = CACHE / "hierarchies" / task
    if not path.exists():
        torch.manual_seed(0)
        model = cls(getattr(transformers, f"{kind}Config")(**TASKS[task]["config"], num_labels=10)).train()
        x, y = data["train"]
        steps = len(x) // BATCH
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        for places in torch.randperm(len(x))[: steps * BATCH].split(BATCH):
            images = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, x[places], x[places].flip(-1))
            model(pixel_values=images, labels=y[places]).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        model.save_pretrained(path)
    return cls.from_pretrained(path).eval()


def classes_of(model: Any, x: torch.Tensor) -> torch.Tensor:
    """The class that a model gives each image."""
    with torch.inference_mode():
        return torch.cat([model.eval()(pixel_values=part).logits.argmax(-1) for part in x.split(250)])


def work(job: dict[str, Any], options: argparse.Namespace) -> Rows:
    quiet()
    from hf_learngene import resize

    data = images_of(options.data)
    model = source = source_of(options.task, data)
    row = dict(job)
    if job["method"] != "source":
        given = METHODS[job["method"]] | job["sizes"]
        if job["method"] == "calibrated":
            x = data["train"][0]
            places = torch.randperm(len(x), generator=torch.Generator().manual_seed(job["seed"]))[:EXAMPLES]
            given = given | {"calibration": [{"pixel_values": image} for image in x[places]]}
        model, row["cpu_seconds"] = timed(resize, source, seed=job["seed"], **given)
        row["layers"] = model.config.learngene["passes"][0]["options"].get("layers")
    x, y = (t[: options.limit] for t in data[options.split])
    found = classes_of(model, x)
    same = float((found == classes_of(source, x)).double().mean())
    return [row | counted(model) | {"accuracy": float((found == y).double().mean()), "agreement": same}]


def jobs(options: argparse.Namespace) -> Rows:
    found = [SOURCE]
    for seed in options.seeds:
        for sizes in TASKS[options.task]["shapes"]:
            known = [m for m in METHODS if seed == options.seeds[0] or m != "weight selection"]
            found += [{"method": method, "sizes": sizes, "seed": seed} for method in known]
    return found


def report(rows: Rows, head: dict[str, Any]) -> str:
    source = source_row(rows)
    lines = heading(
        "Shrinking a hierarchy without training", rows, head, f"calibration sets: {len({r['seed'] for r in rows})}"
    )
    shown = [m for m in METHODS if any(r["method"] == m for r in rows)]
    lines += [
        "",
        "Accuracy in % without any training / agreement with the source in %, means over the calibration sets; *CPU s*:",
        "processor seconds of `calibrated`. The source is trained for minutes, so that much of it is redundant: this says that",
        "the refit finds what is left of such a model, not what a well-trained one would keep.",
        "",
        "| sizes | parameters | share | " + " | ".join(shown) + " | CPU s |",
        "| --- | ---: | ---: | " + " ---: |" * (len(shown) + 1),
    ]
    for sizes in TASKS[head["task"]]["shapes"]:
        mine = [r for r in rows if r["sizes"] == sizes]
        if not mine:
            continue
        cells = []
        for method in shown:
            own = [r for r in mine if r["method"] == method]
            pair = (
                [f"{100 * statistics.mean(r[k] for r in own):.1f}" for k in ("accuracy", "agreement")]
                if own
                else ["–"]
            )
            cells.append(" / ".join(pair))
        size, seconds = mine[0]["parameters"], [r["cpu_seconds"] for r in mine if r["method"] == "calibrated"]
        name = ", ".join(f"{k} {v}" for k, v in sizes.items())
        took = f"{statistics.mean(seconds):.0f}" if seconds else "–"
        lines.append(
            f"| {name} | {size / 1e6:.2f} M | {size / source['parameters']:.0%} | {' | '.join(cells)} | {took} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parser_of(__doc__, TASKS, METHODS, DATA, HERE / "results").parse_args()
    if not options.report:
        source_of(options.task, images_of(options.data))  # once, and not in each worker
    seeds = " ".join(map(str, options.seeds))
    limit = f" --limit {options.limit}" if options.limit else ""
    command = f"python benchmarks/hierarchies.py --task {options.task} --seeds {seeds} --split {options.split}{limit}"
    head = {"command": command, "task": options.task, **machine()}
    tabulate("hierarchies", head, jobs(options), work, report, options)


if __name__ == "__main__":
    main()
