"""Calibration examples as batches of the model's own inputs. Labels are handed on only where a method asks for them."""

from __future__ import annotations

import inspect
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.errors import CalibrationError


BATCH = 32
LONGEST_TEXT = 128  # tokens, where texts are tokenised here
_LABELS = frozenset({"labels", "label", "label_ids", "start_positions", "end_positions", "next_sentence_label"})
_RAW = {
    "pixel_values": ("image", "img", "pixels"),
    "input_ids": ("text", "sentence", "sentence1", "question", "content"),
}


def check_given(given: Any) -> None:
    """Refuses what is no collection of examples, or several of them: a dict would be read as its keys.

    Raises:
        CalibrationError: says what to give.
    """
    if isinstance(given, Mapping):
        names = list(given)
        if {"input_ids", "pixel_values", *itertools.chain(*_RAW.values())} & set(names):
            hint = (
                "These are columns of one: give datasets.Dataset.from_dict(calibration), or a dict for each example."
            )
        else:
            hint = f"Give one of them: calibration[{names[0]!r}]." if names else "Give a list of examples."
        raise CalibrationError(
            f"calibration is one data set; this is a {type(given).__name__} of {', '.join(map(repr, names)) or 'nothing'}. {hint}"
        )
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise CalibrationError(
            f"calibration is a data set, a list of examples, a DataLoader, or texts or images; it was a "
            f"{type(given).__name__}. A file is read with datasets.load_dataset."
        )


class Examples:
    """Calibration examples: read once, and kept on disk as batches, for a method goes over them many times.

    Args:
        given: a `datasets.Dataset`, a list or generator of dicts with the model's columns, a `DataLoader`, or texts or images
            together with `processing_class`.
        model (`PreTrainedModel`): whose inputs they are.
        processing_class (*optional*): tokenizer or image processor for raw texts and images.
        labels (`bool`, *optional*, defaults to `False`): whether labels are handed on; without it they are never looked at.

    Raises:
        CalibrationError: nothing in it, or without what the model reads.
    """

    def __init__(
        self,
        given: Any,
        model: PreTrainedModel,
        processing_class: Any = None,
        labels: bool = False,
    ) -> None:
        self.main = model.main_input_name
        self.labels = labels
        taken = inspect.signature(model.forward).parameters
        self.columns = [n for n in taken if labels or n not in _LABELS]
        self.pad = int(getattr(model.config, "pad_token_id", None) or 0)
        self.processor = processing_class
        check_given(given)
        self.loader = isinstance(given, torch.utils.data.DataLoader)
        examples = iter(given)
        first = next(examples, None)
        if first is None:
            raise CalibrationError("calibration is empty. A few hundred examples of the model's own kind are enough.")
        self._given: Iterator[Any] = itertools.chain([first], examples)
        self._folder: tempfile.TemporaryDirectory | None = None
        self._count = 0
        self.raw = None if self.loader else self._raw_column(first)
        if self.loader:
            self._check(first)

    def _raw_column(self, example: Any) -> str | None:
        """The column of raw texts or images; '' where the example itself is one; None where it holds the model's inputs."""
        if isinstance(example, Mapping):
            if self.main in example:
                return None
            known = [n for n in _RAW.get(self.main, ()) if n in example]
            if known and self.processor is not None:
                return known[0]
            self._check(example, known)
        if self.processor is None:
            kind = "an image processor" if self.main == "pixel_values" else "a tokenizer"
            raise CalibrationError(
                f"The examples are {type(example).__name__}s, and the model reads {self.main}. Give {kind} too "
                "(processing_class=...), or dicts with that column."
            )
        return ""

    def _check(self, example: Any, raw: Sequence[str] = ()) -> None:
        if isinstance(example, Mapping) and self.main in example:
            return
        held = ", ".join(map(str, example)) if isinstance(example, Mapping) else type(example).__name__
        wanted = "image processor" if self.main == "pixel_values" else "tokenizer"
        hint = f" Its {raw[0]!r} can be read with processing_class=, the {wanted}." if raw else ""
        raise CalibrationError(
            f"The model reads {self.main!r}; the calibration examples hold {held or 'nothing'}.{hint}"
        )

    def batches(self, numbers: Iterable[int] | None = None) -> Iterator[dict[str, Tensor]]:
        """Batches of the model's inputs, on the CPU, always the same; all, or those of these numbers."""
        if self._folder is None:
            self._folder = self._stored()
        for number in range(self._count) if numbers is None else numbers:
            yield torch.load(Path(self._folder.name) / f"{number}.pt", mmap=True, weights_only=True)

    def part(self, numbers: Iterable[int]) -> BatchesOf:
        """Some of the batches, by number."""
        return BatchesOf(self, tuple(numbers))

    def _stored(self) -> tempfile.TemporaryDirectory:
        folder = tempfile.TemporaryDirectory(prefix="learngene_examples_")
        for number, batch in enumerate(self._made()):
            torch.save(batch, Path(folder.name) / f"{number}.pt")
            self._count = number + 1
        return folder

    def _made(self) -> Iterator[dict[str, Tensor]]:
        if self.loader:
            for batch in self._given:
                self._check(batch)
                yield {k: v.contiguous() for k, v in batch.items() if k in self.columns and isinstance(v, Tensor)}
            return
        while held := list(itertools.islice(self._given, BATCH)):
            yield self._batch(held)

    def _batch(self, examples: list[Any]) -> dict[str, Tensor]:
        if self.raw is not None:
            rows = [e[self.raw] if self.raw else e for e in examples]
            if self.main == "pixel_values":
                images = [i.convert("RGB") if hasattr(i, "convert") else i for i in rows]
                made = self.processor(images, return_tensors="pt")
            else:
                made = self.processor(
                    list(rows), padding=True, truncation=True, max_length=LONGEST_TEXT, return_tensors="pt"
                )
            made = {k: v for k, v in made.items() if k in self.columns}
            return {**made, **self._labels(examples)} if self.raw else made
        names = [n for n in examples[0] if n in self.columns]
        made = {n: self._stacked(n, [torch.as_tensor(e[n]) for e in examples]) for n in names}
        if self.main == "input_ids" and "attention_mask" in self.columns and "attention_mask" not in made:
            lengths = torch.tensor([len(e[self.main]) for e in examples])  # padding made here is no token
            made["attention_mask"] = (torch.arange(made[self.main].shape[1]) < lengths[:, None]).long()
        return {**self._labels(examples), **made}

    def _labels(self, examples: list[Any]) -> dict[str, Tensor]:
        """A data set's `label` is the model's `labels`, as in transformers' own collators."""
        name = next((n for n in ("labels", "label") if n in examples[0]), None)
        if not self.labels or name is None or "labels" not in self.columns:
            return {}
        return {"labels": self._stacked("labels", [torch.as_tensor(e[name]) for e in examples])}

    def _stacked(self, name: str, values: list[Tensor]) -> Tensor:
        if all(v.shape == values[0].shape for v in values):
            return torch.stack(values)
        if any(v.dim() != 1 for v in values):
            raise CalibrationError(f"The examples' {name!r} are of different shapes; bring them to one.")
        fill = self.pad if name == self.main else -100 if name == "labels" else 0
        return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)


class BatchesOf:
    """Some of the batches of examples."""

    def __init__(self, examples: Examples, chosen: tuple[int, ...]) -> None:
        self._examples, self._chosen = examples, chosen

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """As `Examples.batches`."""
        yield from self._examples.batches(self._chosen)


def tokens_shown(batch: Mapping[str, Tensor]) -> Tensor | None:
    """(examples, tokens): which tokens are no padding; None where all count."""
    mask = batch.get("attention_mask")
    return mask.bool() if mask is not None and mask.dim() == 2 and not bool(mask.bool().all()) else None


def rows_of(values: Tensor, shown: Tensor | None) -> Tensor:
    """(tokens, width), padding left out."""
    if shown is not None and values.dim() == 3 and values.shape[:2] == shown.shape:
        return values[shown.to(values.device)]
    return values.reshape(-1, values.shape[-1])
