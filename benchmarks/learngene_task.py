"""The two tasks of `learngenes.py`: their data, their teacher, and the ancestry model made from it.

    python benchmarks/learngene_task.py --task images
    python benchmarks/learngene_task.py --task text

The teachers of `../shared/data` are too large to distil dozens of learngenes from their size on a small CPU. Here each is shrunk
to half its width (weight selection) and distilled, once; the result is the ancestry that every learngene is fitted to. The
teacher goes on teaching: its logits of the training examples are kept on disk by the trainer's `cache_teacher`.
Everything lies in `benchmarks/.cache`; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
DATA = HERE.parent.parent / "shared" / "data"
sys.path.insert(0, str(HERE.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402


TASKS: dict[str, dict[str, Any]] = {
    "images": {
        "teacher": "vit-small-p14-56-cifar10",
        "sizes": {"hidden_size": 192},
        "train": 45000,
        "valid": 5000,
        "steps": 2000,
        "batch": 64,
        "rate": 1e-3,
    },
    "text": {
        "teacher": "minilm-l6-sst2",
        "sizes": {"hidden_size": 192},
        "train": 30000,
        "valid": 2000,
        "steps": 1200,
        "batch": 32,
        "rate": 3e-4,
    },
}


class Data:
    """A task's three splits in memory; a batch is made from places."""

    def __init__(self, task: str, folder: Path = DATA) -> None:
        self.task = task
        path = CACHE / task / "data.pt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            torch.save(_images(folder) if task == "images" else _texts(folder, task), partial)
            os.replace(partial, path)
        self.splits: dict[str, tuple[torch.Tensor, torch.Tensor]] = torch.load(path, mmap=True, weights_only=True)

    def batch(self, split: str, places: torch.Tensor, tokens: int | None = None) -> dict[str, Any]:
        x, y = (t[places] for t in self.splits[split])
        if self.task != "images":
            x = x[
                :, : tokens or (32 if split == "train" else 64)
            ]  # few are longer, and a batch is as long as its longest
            x = x[:, : int((x != 0).sum(1).max())].long()
            return {"input_ids": x, "attention_mask": (x != 0).long(), "labels": y}
        mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        return {"pixel_values": (x.float() / 255 - mean) / std, "labels": y}

    def accuracy(self, model: Any, split: str, limit: int | None = None) -> float:
        model.eval()
        count = min(limit or 10**9, len(self.splits[split][1]))
        right = 0
        with torch.inference_mode():
            for places in torch.arange(count).split(250):
                batch = self.batch(split, places)
                labels = batch.pop("labels")
                right += int((model(**batch).logits.argmax(-1) == labels).sum())
        return right / count


def _images(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    def read(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        table = pq.read_table(folder / "cifar10" / name).to_pydict()
        order = torch.randperm(len(table["label"]), generator=torch.Generator().manual_seed(0)).tolist()
        pixels = np.stack([np.array(Image.open(io.BytesIO(table["image"][i]["bytes"]))) for i in order])
        parts = []
        for part in torch.from_numpy(pixels).permute(0, 3, 1, 2).split(1000):
            bigger = torch.nn.functional.interpolate(part.float(), (56, 56), mode="bicubic", antialias=True)
            parts.append(bigger.round().clamp(0, 255).to(torch.uint8))
        return torch.cat(parts), torch.tensor([table["label"][i] for i in order])

    return _split(read("cifar10_train.parquet"), read("cifar10_test.parquet"), "images")


def _texts(folder: Path, task: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / TASKS["text"]["teacher"])  # every MiniLM here has the same

    def read(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [
            json.loads(line) for line in (folder / TASKS[task].get("folder", "sst2") / name).read_text().splitlines()
        ]
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
        ids = [tokenizer(rows[i]["sentence"], truncation=True, max_length=64)["input_ids"] for i in order]
        table = torch.zeros(len(ids), 64, dtype=torch.int32)
        for row, tokens in zip(table, ids, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        return table, torch.tensor([rows[i]["label"] for i in order])

    return _split(read("train.jsonl"), read(TASKS[task].get("test", "validation.jsonl")), task)


def _split(train: Any, test: Any, task: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Validation examples are carved out of train; the official split is only for reporting."""
    held, used = TASKS[task]["valid"], TASKS[task]["train"]
    kept = [t[held : held + used].clone() for t in train]
    return {"train": (kept[0], kept[1]), "valid": (train[0][:held].clone(), train[1][:held].clone()), "test": test}


class Places(torch.utils.data.Dataset):
    """The training examples' places: the collator makes the batch."""

    def __init__(self, task: str, count: int) -> None:
        self.count = count
        self._fingerprint = f"{task} {count}"  # what the cache of the teacher's logits knows the data by

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"place": index}


def teacher_of(task: str, folder: Path = DATA) -> Any:
    import transformers

    path = folder / TASKS[task]["teacher"]
    name = json.loads((path / "config.json").read_text())["architectures"][0]
    return getattr(transformers, name).from_pretrained(path, dtype=torch.float32).eval()


def ancestry_of(task: str) -> Any:
    import transformers

    path = CACHE / task / "ancestry"
    name = json.loads((path / "config.json").read_text())["architectures"][0]
    return getattr(transformers, name).from_pretrained(path, dtype=torch.float32).eval()


def collator(data: Data) -> Any:
    """Makes a batch, and hands on where its examples stand."""
    from hf_learngene.training.cache import INDEX

    def collate(examples: list[dict[str, int]]) -> dict[str, Any]:
        batch = data.batch("train", torch.tensor([e["place"] for e in examples]))
        if INDEX in examples[0]:
            batch[INDEX] = torch.tensor([e[INDEX] for e in examples])
        return batch

    return collate


def trained(
    model: Any, data: Data, teacher: Any, steps: int, rate: float, seed: int, batch: int, **arguments: Any
) -> Any:
    """`model`, after so many steps of `LearngeneTrainer`; with a teacher, on its cached logits."""
    from hf_learngene import LearngeneTrainer, LearngeneTrainingArguments

    args = LearngeneTrainingArguments(
        output_dir=str(CACHE / data.task), max_steps=steps, learning_rate=rate, per_device_train_batch_size=batch, seed=seed,
        weight_decay=0.05, warmup_steps=steps // 10, lr_scheduler_type="cosine", report_to="none", disable_tqdm=True,
        save_strategy="no", logging_strategy="no", remove_unused_columns=False, dataloader_pin_memory=False, use_cpu=True,
        per_device_eval_batch_size=250, cache_teacher=teacher is not None, **arguments,
    )  # fmt: skip
    places = Places(data.task, len(data.splits["train"][1]))
    LearngeneTrainer(model.train(), args, teacher, train_dataset=places, data_collator=collator(data)).train()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=TASKS, default="images")
    parser.add_argument("--data", type=Path, default=DATA, help="teachers and data sets")
    options = parser.parse_args()
    import transformers

    from hf_learngene import resize

    transformers.logging.set_verbosity_error()
    spec, folder = TASKS[options.task], CACHE / options.task
    data, teacher = Data(options.task, options.data), teacher_of(options.task, options.data)
    if (folder / "ancestry" / "config.json").exists():
        print(f"{options.task}: the ancestry is there already")
        return
    began = time.perf_counter()
    model = resize(teacher, method="weight_selection", **spec["sizes"])
    start = data.accuracy(model, "valid")
    trained(model, data, teacher, spec["steps"], spec["rate"], 0, spec["batch"], alpha=0.5)
    found = {
        "task": options.task,
        **spec,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(time.perf_counter() - began),
        "validation": {
            "teacher": data.accuracy(teacher, "valid"),
            "shrunk": start,
            "ancestry": data.accuracy(model, "valid"),
        },
    }
    model.save_pretrained(folder / "partial")
    (folder / "partial" / "made.json").write_text(json.dumps(found, indent=1))
    os.replace(folder / "partial", folder / "ancestry")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
