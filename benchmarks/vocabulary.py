"""A smaller vocabulary: what a corpus's own tokens leave of a model's parameters, its accuracy and its logits.

    python benchmarks/vocabulary.py

MiniLM on SST-2 (`../shared/data`), the official validation split. Nothing is trained.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from jobs import machine, write
from learngene_task import DATA, HERE, TASKS, teacher_of


CORPORA: dict[str, tuple[tuple[str, ...], int | None]] = {
    "train and validation": (("train", "validation"), None),
    "train": (("train",), None),
    "train, the 8,000 most frequent": (("train",), 8000),
}


def logits_of(model: Any, tokenizer: Any, sentences: list[str]) -> torch.Tensor:
    found = []
    with torch.inference_mode():
        for start in range(0, len(sentences), 64):
            batch = tokenizer(sentences[start : start + 64], padding=True, return_tensors="pt")
            found.append(model(**batch).logits)
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="teachers and data sets")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    from transformers import AutoTokenizer

    from hf_learngene import resize, trim_tokenizer

    read = {
        name: [json.loads(line) for line in (options.data / "sst2" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "validation")
    }
    sentences = {name: [row["sentence"] for row in rows] for name, rows in read.items()}
    labels = torch.tensor([row["label"] for row in read["validation"]])
    model = teacher_of("text", options.data)
    tokenizer = AutoTokenizer.from_pretrained(options.data / TASKS["text"]["teacher"])
    wanted = logits_of(model, tokenizer, sentences["validation"])

    def row(corpus: str, made: Any, words: Any) -> dict[str, Any]:
        found = logits_of(made, words, sentences["validation"])
        return {
            "corpus": corpus,
            "rows": made.config.vocab_size,
            "parameters": made.num_parameters(),
            "accuracy": float((found.argmax(-1) == labels).double().mean()),
            "same": float((found - wanted).abs().amax(1).le(1e-5).double().mean()),
        }

    rows = [row("(the source)", model, tokenizer)]
    for name, (parts, size) in CORPORA.items():
        given = {} if size is None else {"vocab_size": size}
        words, kept = trim_tokenizer(tokenizer, [text for part in parts for text in sentences[part]], **given)
        rows.append(row(name, resize(model, kept_tokens=kept), words))
    head = {"command": "python benchmarks/vocabulary.py", **machine()}
    lines = ["# A smaller vocabulary", "", f"`{head['command']}`. Do not edit.", ""]
    lines += [f"- {k}: {v}" for k, v in head.items() if k != "command"]
    lines += [
        "",
        f"MiniLM on SST-2, the official validation split of {len(labels)} sentences; nothing is trained. *same*: sentences whose",
        "logits are the source's to 1e-5.",
        "",
        "| corpus | rows | parameters | accuracy | same |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {r['corpus']} | {r['rows']:,} | {r['parameters'] / 1e6:.1f} M | {r['accuracy']:.2%} | {r['same']:.1%} |"
        for r in rows
    ]
    path = options.output / "vocabulary.json"
    write(path, json.dumps({"head": head, "rows": rows}, indent=1))
    write(path.with_suffix(".md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
