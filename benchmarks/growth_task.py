"""The two tasks of `growth.py`: a small ViT on CIFAR-10's labels and a small BERT on the masked words of SST-2's sentences.

Each has a source of 2 layers 32 wide that is trained until its loss stands still, and targets twice as wide, twice as deep, and
both. Trained at a constant rate behind a warm-up; what is measured is the average of the weights, which needs no decay of the
rate, so that one run has a loss worth reading at every step.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from learngene_task import CACHE, Data


HEADS, WIDTH, LAYERS = 2, 32, 2
TARGETS: dict[str, dict[str, int]] = {
    "width": {"hidden_size": 2 * WIDTH, "num_attention_heads": 2 * HEADS, "intermediate_size": 8 * WIDTH},
    "depth": {"num_hidden_layers": 2 * LAYERS},
    "both": {
        "hidden_size": 2 * WIDTH, "num_attention_heads": 2 * HEADS, "intermediate_size": 8 * WIDTH,
        "num_hidden_layers": 2 * LAYERS,
    },
}  # fmt: skip
BATCH, RATE = 64, 1e-3
WARMUP, DECAY, AVERAGE = 100, 0.05, 0.99
EVERY, VALIDATED = 100, 1000
WORDS, MASKED, IGNORED = 1000, 0.3, -100
CLS, SEP = 101, 102  # of the tokenizer, and hidden from no one
SOURCE_STEPS = 4000


class Task:
    """Batches of training examples in the order of a seed, and the loss on held-back ones."""

    def __init__(self, name: str, data: Any) -> None:
        self.name, self.data = name, Data(name, data)
        if name == "text":
            self._keep_frequent_words()

    def config(self) -> Any:
        import transformers

        sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
                 "intermediate_size": 4 * WIDTH}  # fmt: skip
        if self.name == "images":
            labels = {"id2label": {i: f"LABEL_{i}" for i in range(10)}}
            return transformers.ViTConfig(image_size=56, patch_size=14, hidden_dropout_prob=0.0, **labels, **sizes)
        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return transformers.BertConfig(
            vocab_size=WORDS + 2, max_position_embeddings=64, pad_token_id=0, **off, **sizes
        )

    def model(self, seed: int, **sizes: int) -> Any:
        import transformers

        torch.manual_seed(seed)
        config = self.config()
        config.update(sizes)
        kind = transformers.ViTForImageClassification if self.name == "images" else transformers.BertForMaskedLM
        return kind(config)

    def batch(self, split: str, places: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Images, half of them mirrored in training; sentences with a third of their words hidden."""
        batch = self.data.batch(split, places, 64)
        if self.name == "images":
            if split == "train":
                mirrored = torch.rand(len(places), 1, 1, 1, generator=generator) < 0.5
                batch["pixel_values"] = torch.where(mirrored, batch["pixel_values"].flip(3), batch["pixel_values"])
            return batch
        words, mask = self.words[batch["input_ids"]], batch["attention_mask"]
        real = (batch["input_ids"] != CLS) & (batch["input_ids"] != SEP) & (mask > 0)
        hidden = (torch.rand(words.shape, generator=generator) < MASKED) & real
        labels = torch.where(hidden, words, IGNORED)
        return {"input_ids": words.masked_fill(hidden, WORDS + 1), "attention_mask": mask, "labels": labels}

    def batches(self, seed: int) -> Iterator[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            for places in torch.randperm(len(self.data.splits["train"][1]), generator=generator).split(BATCH):
                yield self.batch("train", places, generator)

    def rows(self, seed: int, count: int) -> list[dict[str, torch.Tensor]]:
        """Training examples by themselves, as a data set for what a method trains by itself."""
        made, found = self.batches(seed), []
        while len(found) < count:
            batch = next(made)
            found += [{k: v[i] for k, v in batch.items()} for i in range(BATCH)]
        return found[:count]

    @torch.inference_mode()
    def score(self, model: Any, split: str = "valid", limit: int | None = VALIDATED) -> dict[str, float]:
        """Mean loss, and the share of labels (of hidden words) that are right."""
        model.eval()
        generator = torch.Generator().manual_seed(0)
        count = min(limit or 10**9, len(self.data.splits[split][1]))
        loss, right, labels = 0.0, 0, 0
        for places in torch.arange(count).split(250):
            batch = self.batch(split, places, generator)
            wanted = batch.pop("labels")
            logits = model(**batch).logits[wanted != IGNORED]
            wanted = wanted[wanted != IGNORED]
            loss += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
            right, labels = right + int((logits.argmax(-1) == wanted).sum()), labels + len(wanted)
        return {"loss": loss / labels, "accuracy": right / labels}

    def _keep_frequent_words(self) -> None:
        """Tokens by frequency, the rare ones as one: the output layer would be most of so small a model."""
        table = self.data.splits["train"][0]
        frequent = [t for t, _ in Counter(table[table != 0].tolist()).most_common(WORDS - 1)]
        self.words = torch.full((30522,), WORDS, dtype=torch.long)
        self.words[0] = 0
        self.words[torch.tensor(frequent)] = torch.arange(1, WORDS)


def train(task: Task, model: Any, steps: int, seed: int, rate: float, until: float | None = None,
          settle: bool = False) -> tuple[Any, list[list[float]]]:  # fmt: skip
    """The averaged weights after so many steps, and the curve: step, loss and accuracy on held-back examples.

    Ends early at a loss of `until`. With `settle` the rate falls to nothing over the last quarter.
    """
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP, 4 * (1 - step / steps) if settle else 1.0)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
    score = task.score(model)
    curve = [[0, score["loss"], score["accuracy"]]]
    made = task.batches(seed + 1000)
    for step in range(1, steps + 1):
        model.train()
        loss = model(**next(made)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average.update_parameters(model)
        if step % EVERY == 0:
            score = task.score(average.module)
            curve.append([step, score["loss"], score["accuracy"]])
            if until is not None and score["loss"] <= until:
                break
    return average.module.eval(), curve


def source_of(task: Task, seed: int) -> Any:
    """The small model, trained once and kept."""
    path = CACHE / "growth" / f"{task.name}-{seed}"
    if not path.exists():
        model, curve = train(task, task.model(seed), SOURCE_STEPS, seed, RATE, settle=True)
        print(f"source of {task.name}, seed {seed}: loss by step", *(f"{s:.0f}: {x:.3f}" for s, x, _ in curve[::10]))
        model.save_pretrained(path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)
    return type(task.model(seed)).from_pretrained(path).eval()
