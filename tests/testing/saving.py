"""What saved models come with, how a save is cut short, and how the Hub client would have cached one."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(56))]


def tokenizer(limit: int = 40) -> PreTrainedTokenizerFast:
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]", model_max_length=limit
    )


def interrupt(monkeypatch, model, error: BaseException) -> None:
    """Makes a model, or every model of a class, stop in the middle of being written."""

    def save_pretrained(*given, **named):
        (Path(given[-1]) / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(model, "save_pretrained", save_pretrained)


def cached(folder: Path, cache: Path) -> str:
    """The folder as the Hub client would have cached it."""
    repository = cache / "models--user--tiny"
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return "user/tiny"


def same_weights(first, second, ignore=()):
    """Whether two models agree bit for bit, up to parameters whose names start so."""
    one, two = (
        {n: p for n, p in m.named_parameters(remove_duplicate=False) if not n.startswith(tuple(ignore))}
        for m in (first, second)
    )
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
