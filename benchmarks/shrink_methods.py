"""Which data-free start is the best for a smaller model? The same short fine-tune from each.

A fine-tuned image classifier and a fine-tuned text classifier are shrunk to half their width and half their depth by each
method, then trained for a few steps. What `method="auto"` does when shrinking rests on this. The scores are on examples held
out of the training split; the test split is not touched.

    python benchmarks/shrink_methods.py --images DIR --image-data train.parquet --texts DIR --text-data train.jsonl
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import load_dataset
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoTokenizer

from hf_learngene import AutoModelForImageClassification, AutoModelForSequenceClassification


STARTS = {
    "random": {"method": "random"},
    "weight_selection": {"method": "weight_selection"},
    "weight_selection, uniform layers": {"method": "weight_selection", "layer_selection": "uniform"},
    "weight_selection, consecutive": {"method": "weight_selection", "element_selection": "consecutive"},
    "weight_selection, headwise": {"method": "weight_selection", "head_selection": "headwise"},
    "front": {"method": "front"},
}
RESULTS = Path(__file__).parent / "results"


def images(path: str, size: int, count: int) -> tuple[dict, torch.Tensor]:
    """Random images of a parquet file with columns image and label, normalised as ImageNet."""
    data = load_dataset("parquet", data_files=path, split="train").shuffle(seed=0).select(range(count))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    arrays = [(np.asarray(r["image"].convert("RGB").resize((size, size), 3)) / 255 - mean) / std for r in data]
    pixels = torch.tensor(np.stack(arrays), dtype=torch.float32).permute(0, 3, 1, 2)
    return {"pixel_values": pixels}, torch.tensor(data["label"])


def texts(path: str, tokenizer: str, count: int) -> tuple[dict, torch.Tensor]:
    """Random sentences of a jsonl file with columns sentence and label."""
    data = load_dataset("json", data_files=path, split="train").shuffle(seed=0).select(range(count))
    encoded = AutoTokenizer.from_pretrained(tokenizer)(
        list(data["sentence"]), padding="max_length", truncation=True, max_length=40, return_tensors="pt"
    )
    return {k: encoded[k] for k in ("input_ids", "attention_mask")}, torch.tensor(data["label"])


def accuracy(model, inputs, labels) -> float:
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(labels), 250):
            part = {k: v[start : start + 250] for k, v in inputs.items()}
            right += int((model(**part).logits.argmax(-1) == labels[start : start + 250]).sum())
    return right / len(labels)


def fine_tune(model, inputs, labels, held: int, steps: int, batch: int, lr: float, seed: int) -> tuple[float, float]:
    """(accuracy before, after) on the last `held` examples, trained on the others."""
    test = {k: v[-held:] for k, v in inputs.items()}, labels[-held:]
    before = accuracy(model, *test)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        picked = torch.randint(0, len(labels) - held, (batch,), generator=generator)
        loss = model(**{k: v[picked] for k, v in inputs.items()}, labels=labels[picked]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return before, accuracy(model, *test)


def measure(auto, source, sizes, inputs, labels, arguments) -> list[dict]:
    rows = []
    for name, start in track(STARTS.items(), description=str(sizes)):
        scores = {lr: [] for lr in arguments.learning_rates}
        before, seconds = [], []
        for lr in arguments.learning_rates:
            for seed in range(arguments.seeds):
                began = time.perf_counter()
                model = auto.from_pretrained_resized(source, seed=seed, dtype=torch.float32, **start, **sizes)
                seconds.append(time.perf_counter() - began)
                first, last = fine_tune(
                    model, inputs, labels, arguments.held, arguments.steps, arguments.batch, lr, seed
                )
                before.append(first)
                scores[lr].append(last)
        best = max(scores, key=lambda lr: statistics.mean(scores[lr]))
        rows.append(
            {
                "start": name,
                "before": statistics.mean(before),
                "learning_rate": best,
                "after": scores[best],
                "seconds_to_initialise": statistics.median(seconds),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("images", "image-data", "texts", "text-data"):
        parser.add_argument(f"--{name}", required=True)
    for name, value in (("steps", 150), ("seeds", 3), ("batch", 48), ("held", 1000), ("examples", 6000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[3e-4, 1e-3])
    arguments = parser.parse_args()
    results = {
        "images, hidden 384 → 192, layers 12 → 6": measure(
            AutoModelForImageClassification, arguments.images, {"hidden_size": 192, "num_hidden_layers": 6},
            *images(arguments.image_data, 56, arguments.examples), arguments),
        "texts, hidden 384 → 192, layers 6 → 3": measure(
            AutoModelForSequenceClassification, arguments.texts, {"hidden_size": 192, "num_hidden_layers": 3},
            *texts(arguments.text_data, arguments.texts, arguments.examples), arguments),
    }  # fmt: skip
    console = Console(record=True, width=110)
    for title, rows in results.items():
        table = Table("start", "before", "after (mean)", "min", "max", "learning rate", title=title)
        for row in rows:
            after = row["after"]
            table.add_row(row["start"], f"{row['before']:.3f}", f"{statistics.mean(after):.3f}", f"{min(after):.3f}",
                          f"{max(after):.3f}", f"{row['learning_rate']:g}")  # fmt: skip
        console.print(table)
    RESULTS.mkdir(exist_ok=True)
    record = {
        "command": "python benchmarks/shrink_methods.py "
        + " ".join(f"--{k.replace('_', '-')} {v}" for k, v in vars(arguments).items() if isinstance(v, int)),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "machine": f"{torch.get_num_threads()} threads, {platform.machine()}",
        "results": results,
    }
    (RESULTS / "shrink_methods.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
