"""Calibration examples as batches of the model's own inputs. Labels are handed on only where a method asks for them."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.calibration.input_bounds import InputBounds
from hf_learngene.calibration.store import Store
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
    """Calibration examples: read once, checked, and kept as batches, for a method goes over them many times.

    They are a context manager: what is kept of them is on disk where it is large, and goes when they are closed.

    Args:
        given: a `datasets.Dataset`, a list or generator of dicts with the model's columns, a `DataLoader`, or texts or images
            together with `processing_class`.
        model (`PreTrainedModel`): whose inputs they are.
        processing_class (*optional*): tokenizer or image processor for raw texts and images.
        labels (`bool`, *optional*, defaults to `False`): whether labels are handed on; without it they are never looked at.

    Raises:
        CalibrationError: nothing in it, without what the model reads, or (where batches are first asked for) with an example
            that the model cannot take.
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
        self._bounds = InputBounds.of(model)
        self._store = Store()
        self._count: int | None = None  # of batches, once they are made
        self.raw = None if self.loader else self._raw_column(first)
        if self.loader:
            self._check(first)

    def _raw_column(self, example: Any) -> str | None:
        """Name of the column of raw texts or images; '' where the example is one, None where it holds the model's inputs."""
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
        count = self.num_batches
        for number in range(count) if numbers is None else numbers:
            yield self._store.get(str(number))

    @property
    def num_batches(self) -> int:
        """Number of batches, which are made where it is first asked for."""
        if self._count is None:
            self._count = self._keep()
        return self._count

    def close(self) -> None:
        """Removes what was kept; there are no batches any more."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def part(self, numbers: Iterable[int]) -> BatchesOf:
        """Some of the batches, by number."""
        return BatchesOf(self, tuple(numbers))

    def _keep(self) -> int:
        """Makes, checks and keeps every batch; their number."""
        seen = count = 0
        for count, batch in enumerate(self._made(), start=1):
            self._bounds.check(batch, seen)
            seen += len(batch[self.main])
            self._store.put(str(count - 1), batch)
        return count

    def _made(self) -> Iterator[dict[str, Tensor]]:
        if self.loader:
            for batch in self._given:
                self._check(batch)
                if not isinstance(batch[self.main], Tensor):
                    raise CalibrationError(
                        f"A DataLoader for calibration gives batches of tensors; its {self.main!r} is a "
                        f"{type(batch[self.main]).__name__}. Give the data set itself, or a collate_fn that stacks."
                    )
                yield {k: v.contiguous() for k, v in batch.items() if k in self.columns and isinstance(v, Tensor)}
            return
        for first in itertools.count(step=BATCH):
            held = list(itertools.islice(self._given, BATCH))
            if not held:
                return
            yield self._batch(held, first)

    def _batch(self, examples: list[Any], first: int = 0) -> dict[str, Tensor]:
        """One batch of examples, of which the first has the number `first`."""
        if self.raw is not None:
            made = self._processed([self._column(e, self.raw, first + i) for i, e in enumerate(examples)])
            return {**made, **self._labels(examples, first)} if self.raw else made
        names = [n for n in examples[0] if n in self.columns]
        columns = {n: [self._tensor(e, n, first + i) for i, e in enumerate(examples)] for n in names}
        made = {n: self._stacked(n, values, first) for n, values in columns.items()}
        flat = all(v.dim() == 1 for v in columns[self.main])
        if self.main == "input_ids" and flat and "attention_mask" in self.columns and "attention_mask" not in made:
            lengths = torch.tensor([len(v) for v in columns[self.main]])  # padding made here is no token
            made["attention_mask"] = (torch.arange(made[self.main].shape[1]) < lengths[:, None]).long()
        return {**self._labels(examples, first), **made}

    def _processed(self, rows: list[Any]) -> dict[str, Tensor]:
        """Raw texts or images as the model's inputs."""
        try:
            if self.main == "pixel_values":
                images = [i.convert("RGB") if hasattr(i, "convert") else i for i in rows]
                made = self.processor(images, return_tensors="pt")
            else:
                longest = min(LONGEST_TEXT, self._bounds.length or LONGEST_TEXT)
                made = self.processor(rows, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        except (AttributeError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"The {type(self.processor).__name__} cannot read the calibration examples "
                f"({', '.join(sorted({type(r).__name__ for r in rows}))}): {error}"
            ) from error
        return {k: v for k, v in made.items() if k in self.columns}

    def _labels(self, examples: list[Any], first: int) -> dict[str, Tensor]:
        """A data set's `label` is the model's `labels`, as in transformers' own collators."""
        name = next((n for n in ("labels", "label") if n in examples[0]), None)
        if not self.labels or name is None or "labels" not in self.columns:
            return {}
        values = [self._tensor(e, name, first + i) for i, e in enumerate(examples)]
        return {"labels": self._stacked("labels", values, first)}

    @staticmethod
    def _column(example: Any, name: str, number: int) -> Any:
        """One column of an example; '' is the example itself."""
        if not name:
            return example
        if not isinstance(example, Mapping) or name not in example:
            held = ", ".join(map(repr, example)) if isinstance(example, Mapping) else f"a {type(example).__name__}"
            raise CalibrationError(
                f"Calibration example {number} holds {held or 'nothing'}; the first ones hold {name!r}."
            )
        return example[name]

    def _tensor(self, example: Any, name: str, number: int) -> Tensor:
        value = self._column(example, name, number)
        try:
            return torch.as_tensor(value)
        except (RuntimeError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"Column {name!r} of calibration example {number} cannot be read as numbers ({type(value).__name__}): {error}"
            ) from error

    def _stacked(self, name: str, values: list[Tensor], first: int) -> Tensor:
        other = next((i for i, v in enumerate(values) if v.shape != values[0].shape), None)
        if other is None:
            return torch.stack(values)
        if any(v.dim() != 1 for v in values):
            raise CalibrationError(
                f"The examples' {name!r} are of different shapes: {tuple(values[0].shape)} in example {first}, "
                f"{tuple(values[other].shape)} in example {first + other}; bring them to one."
            )
        fill = self.pad if name == self.main else -100 if name == "labels" else 0
        # an empty list is a tensor of floats
        dtype = next((v.dtype for v in values if len(v)), values[0].dtype)
        return torch.nn.utils.rnn.pad_sequence([v.to(dtype) for v in values], batch_first=True, padding_value=fill)


class BatchesOf:
    """Some of the batches of examples."""

    def __init__(self, examples: Examples, chosen: tuple[int, ...]) -> None:
        self._examples, self._chosen = examples, chosen

    def batches(self, numbers: Iterable[int] | None = None) -> Iterator[dict[str, Tensor]]:
        """As `Examples.batches`, numbered among themselves."""
        yield from self._examples.batches(self._chosen if numbers is None else [self._chosen[n] for n in numbers])

    @property
    def num_batches(self) -> int:
        """Number of these batches."""
        return len(self._chosen)


Batches = Examples | BatchesOf


def tokens_shown(batch: Mapping[str, Tensor]) -> Tensor | None:
    """Mask of the tokens that are no padding, (examples, tokens); None where all count."""
    mask = batch.get("attention_mask")
    return mask.bool() if mask is not None and mask.dim() == 2 and not bool(mask.bool().all()) else None


def rows_of(values: Tensor, shown: Tensor | None) -> Tensor:
    """Values of the tokens, (tokens, width), padding left out."""
    if shown is not None and values.dim() == 3 and values.shape[:2] == shown.shape:
        return values[shown.to(values.device)]
    return values.reshape(-1, values.shape[-1])
