"""Calibration examples as batches of the model's own inputs. Labels are handed on only where a method asks for them."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_learngene.anatomy.config_fields import section, section_name
from hf_learngene.anatomy.inputs import main_input, reads_states
from hf_learngene.calibration.columns import LABELS, RAW, Wanted, raw_columns
from hf_learngene.calibration.input_bounds import InputBounds
from hf_learngene.calibration.processing import kind_of, resolved_processor
from hf_learngene.calibration.raw import RawInputs, is_blank
from hf_learngene.calibration.reading import read_examples
from hf_learngene.calibration.stacking import count_tokens, stacked, tensor_of
from hf_learngene.calibration.store import Store
from hf_learngene.calibration.subset import check_size, chosen, has_places
from hf_learngene.calibration.trial import check_image_size
from hf_learngene.calibration.weights import GIVEN_COUNTS, Weighted
from hf_learngene.errors import CalibrationError


logger = logging.get_logger(__name__)
BATCH = 32
SHORT = 2048  # tokens of such a batch, up to which the next one is twice as large: each pass takes some time by itself
More = Iterable[Any] | Callable[[int], Iterable[Any]]


def check_given(given: Any) -> None:
    """Refuses what is no collection of examples, or several of them: a dict would be read as its keys.

    Raises:
        CalibrationError: says what to give.
    """
    if isinstance(given, Mapping):
        names = list(given)
        if {"input_ids", "pixel_values", *itertools.chain(*RAW.values())} & set(names):
            hint = (
                "These are columns of one: give datasets.Dataset.from_dict(calibration), or a dict for each example."
            )
        else:
            hint = f"Give one of them: calibration[{names[0]!r}]." if names else "Give a list of examples."
        raise CalibrationError(
            f"calibration is one data set; this is a {type(given).__name__} of {', '.join(map(repr, names)) or 'nothing'}. {hint}"
        )
    if isinstance(given, (str, os.PathLike)):
        return
    table = type(given).__name__ == "DataFrame"
    if table or isinstance(given, bytes) or not (isinstance(given, Iterable) or has_places(given)):
        hint = " Give datasets.Dataset.from_pandas(calibration)." if table else ""
        raise CalibrationError(
            f"calibration is a data set, a list of examples, a DataLoader, texts or images, or the path of a file or folder; it "
            f"was a {type(given).__name__}.{hint}"
        )


class Examples:
    """Calibration examples: read once, checked, and kept as batches, for a method goes over them many times.

    They are a context manager: what is kept of them is on disk where it is large, and goes when they are closed.

    Args:
        given: a path (a folder of images; a file, or folder of files, of parquet, csv, json, jsonl or txt; what `save_to_disk`
            made) or a Hub id; a `datasets.Dataset`, a list or generator of dicts with the model's columns, a `DataLoader`; or
            texts or images. None where there is only `more`.
        model (`PreTrainedModel`): whose inputs they are.
        processing_class (*optional*): tokenizer or image processor for raw texts and images, or the name of a checkpoint that has
            one. Default: that of the checkpoint that the model comes from.
        labels (`bool`, *optional*, defaults to `False`): whether labels are handed on; without it they are never looked at.
        calibration_column (*optional*): the column of raw texts or images, or two names of a pair of texts. Default: by its name
            (`text`, `image`, `premise` and `hypothesis`, ...), or the only one of its kind.
        calibration_size (`int`, *optional*, defaults to 512): at most so many are looked at, from all over a set, or the first
            ones of a stream.
        source (*optional*): the checkpoint that the model was read from just now, for its processor, and `loading`: the
            keywords it was read with.
        more (*optional*): made-up examples with the model's columns that follow the given ones, or what makes them, called with
            the number of tokens that are given. They are never cut.
        seed (`int`, *optional*, defaults to 0): for which examples of a larger set are taken.

    Raises:
        CalibrationError: nothing in it, without what the model reads, or (where batches are first asked for) with an example
            that the model cannot take.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1, vocab_size=20)
        >>> made_up = [{"input_ids": [5, 6, 7]}] * 3
        >>> with Examples([{"input_ids": [8, 9]}], BertModel(config), more=made_up) as examples:
        ...     examples.given_count, examples.made_up_count, examples.tokens
        (1, 3, 11)
    """

    def __init__(
        self,
        given: Any,
        model: PreTrainedModel,
        processing_class: Any = None,
        labels: bool = False,
        *,
        calibration_column: Wanted = None,
        calibration_size: int | None = None,
        source: str | os.PathLike[str] | None = None,
        loading: Mapping[str, Any] | None = None,
        more: More | None = None,
        seed: int = 0,
    ) -> None:
        self.main = main_input(type(model))
        self._states = reads_states(model.config, type(model))
        self.labels = labels
        taken = inspect.signature(model.forward).parameters
        self.columns = [n for n in taken if labels or n not in LABELS]
        texts = section(model.config, section_name(model.config, "input_ids"))
        self.pad = int(getattr(texts, "pad_token_id", None) or 0)
        self._size = check_size(calibration_size)
        self._bounds, self._model = InputBounds.of(model), model
        self._store = Store()
        self._more = more
        self._counts: list[tuple[int, int, int]] | None = (
            None  # batches, examples, tokens: of the given, of the made-up
        )
        self.loader = isinstance(given, DataLoader)
        self.raw: RawInputs | None = None
        self._given: Iterator[Any] = iter(())
        if given is None and more is not None:
            if calibration_column is not None:
                raise CalibrationError(
                    f"calibration_column={calibration_column!r} names a column of your own examples: give calibration= too."
                )
            return
        check_given(given)
        if isinstance(given, (str, os.PathLike)):
            given = read_examples(given, token=(loading or {}).get("token"))
        examples: Iterator[Any] = iter(given) if self.loader else chosen(given, self._size, seed)
        first = next(examples, None)
        if first is None:
            raise CalibrationError("calibration is empty. A few hundred examples of the model's own kind are enough.")
        self._given = itertools.chain([first], examples)
        if self.loader:
            self._check(first)
            return
        names = self._raw_names(first[1], calibration_column)
        if names is not None:
            self.raw = RawInputs(
                self.main,
                self._processor(processing_class, model, source, loading, names, first[1]),
                names,
                self._bounds.length,
            )

    def _raw_names(self, example: Any, wanted: Wanted) -> tuple[str, ...] | None:
        """Names of the columns of raw texts or images; none where an example is one, None where it holds the model's inputs."""
        if not isinstance(example, Mapping):
            return raw_columns(example, self.main, wanted) if wanted is not None else ()
        names = raw_columns(example, self.main, wanted)
        if not names:
            self._check(example)
        return names or None

    def _processor(
        self, given: Any, model: PreTrainedModel, source: Any, loading: Any, names: Sequence[str], example: Any
    ) -> Any:
        """What reads raw texts and images.

        Raises:
            CalibrationError: nothing does.
        """
        found = resolved_processor(given, model, source, loading)
        if found is not None:
            return found
        kind = kind_of(self.main)
        if names:
            raise CalibrationError(
                f"The model reads {self.main!r}; the calibration examples hold {', '.join(map(str, example))}. Its {names[0]!r} "
                f"can be read with processing_class=, the {kind} or the name of a checkpoint that has it."
            )
        raise CalibrationError(
            f"The examples are {type(example).__name__}s, and the model reads {self.main}. Give {_article(kind)} too "
            "(processing_class=...), or dicts with that column."
        )

    def _check(self, example: Any) -> None:
        if isinstance(example, Mapping) and self.main in example:
            if self._states and "encoder_hidden_states" not in example:
                raise CalibrationError(
                    f"{type(self._model).__name__} reads the states of another encoder beside each text, and the examples have "
                    "no 'encoder_hidden_states', (tokens, encoder_hidden_size) of each: its cross-attention would be left out."
                )
            return
        held = ", ".join(map(str, example)) if isinstance(example, Mapping) else type(example).__name__
        hint = (
            "" if self.loader else f" Name the column that the {kind_of(self.main)} is to read: calibration_column=."
        )
        raise CalibrationError(
            f"The model reads {self.main!r}; the calibration examples hold {held or 'nothing'}.{hint}"
        )

    def batches(self, numbers: Iterable[int] | None = None) -> Iterator[dict[str, Tensor]]:
        """Batches of the model's inputs, on the CPU, always the same; all, or those of these numbers."""
        count = self.num_batches
        for number in range(count) if numbers is None else numbers:
            yield self._weighted(number, self._store.get(str(number)))

    def lent(self, numbers: Iterable[int]) -> Iterator[dict[str, Tensor]]:
        """Batches of these numbers, to look at: they are kept, and nobody may change them."""
        self._made_counts()
        return (self._weighted(number, self._store.lent(str(number))) for number in numbers)

    @property
    def num_batches(self) -> int:
        """Number of batches, which are made where it is first asked for."""
        return sum(batches for batches, _, _ in self._made_counts())

    @property
    def given_count(self) -> int:
        """Number of the caller's own examples."""
        return self._made_counts()[0][1]

    @property
    def made_up_count(self) -> int:
        """Number of the examples that were made up to follow them."""
        return self._made_counts()[1][1]

    @property
    def tokens(self) -> int:
        """Tokens of all of them, padding left out."""
        return sum(tokens for _, _, tokens in self._made_counts())

    def _weighted(self, number: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch that says how often it counts."""
        given, made_up = (batches for batches, _, _ in self._made_counts())
        return Weighted(batch, GIVEN_COUNTS) if made_up and number < given else batch

    def _made_counts(self) -> list[tuple[int, int, int]]:
        if self._counts is None:
            self._counts = self._keep()
        return self._counts

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

    def _keep(self) -> list[tuple[int, int, int]]:
        """Makes, checks and keeps every batch; batches, examples and tokens of the given, and of the made-up."""
        given = self._kept(self._from_loader() if self.loader else self._made(self._given), 0)
        more = self._more(given[2]) if callable(self._more) else self._more
        self._given, self._more = iter(()), None
        if more is None:
            return [given, (0, 0, 0)]
        self.raw = None
        return [given, self._kept(self._made(enumerate(more)), given[0])]

    def _kept(self, made: Iterable[tuple[Sequence[int], dict[str, Tensor]]], place: int) -> tuple[int, int, int]:
        count = examples = tokens = 0
        for count, (numbers, batch) in enumerate(made, start=1):
            self._bounds.check(batch, numbers)
            if count == 1:
                check_image_size(self._model, batch)
            examples += len(numbers)
            tokens += count_tokens(batch, self.main, self._model.config)
            self._store.put(str(place + count - 1), batch)
        return count, examples, tokens

    def _from_loader(self) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """A loader's batches, the last of them cut where there are more examples than asked for."""
        seen = 0
        for batch in self._given:
            if seen >= self._size:
                logger.warning(
                    f"Calibrating on the first {seen:,} examples of a DataLoader that goes on; a larger calibration_size takes "
                    "more of it."
                )
                return
            self._check(batch)
            if not isinstance(batch[self.main], Tensor):
                raise CalibrationError(
                    f"A DataLoader for calibration gives batches of tensors; its {self.main!r} is a "
                    f"{type(batch[self.main]).__name__}. Give the data set itself, or a collate_fn that stacks."
                )
            count = min(len(batch[self.main]), self._size - seen)
            kept = {k: v[:count].contiguous() for k, v in batch.items() if k in self.columns and isinstance(v, Tensor)}
            yield range(seen, seen + count), kept
            seen += count

    def _made(self, examples: Iterable[tuple[int, Any]]) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """Batches of single examples, and the numbers of these."""
        told = iter(examples if self.raw is None else self._readable(examples))
        size = BATCH
        while held := list(itertools.islice(told, size)):
            numbers = [number for number, _ in held]
            batch = self._batch([example for _, example in held], numbers)
            self._check(batch)  # raw texts are read by now
            size = BATCH if count_tokens(batch, self.main, self._model.config) > SHORT else 2 * BATCH
            yield numbers, batch

    def _readable(self, examples: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Raw examples without those that are empty, of which a line in the log tells."""
        read = blank = 0
        for number, example in examples:
            if self.raw is not None and is_blank(self.raw.of(example, number)):
                blank += 1
                continue
            read += 1
            yield number, example
        if not read:
            raise CalibrationError(f"All {blank} calibration examples are empty.")
        if blank:
            logger.warning(f"{blank} of {read + blank} calibration examples are empty and left out.")

    def _batch(self, examples: list[Any], numbers: Sequence[int] | None = None) -> dict[str, Tensor]:
        """One batch of examples with these numbers."""
        numbers = range(len(examples)) if numbers is None else numbers
        if self.raw is not None:
            rows = [self.raw.of(e, i) for e, i in zip(examples, numbers, strict=True)]
            made = {k: v for k, v in self.raw(rows).items() if k in self.columns}
            return {**made, **self._labels(examples, numbers)} if self.raw.names else made
        names = [n for n in examples[0] if n in self.columns]
        columns = {n: [tensor_of(e, n, i) for e, i in zip(examples, numbers, strict=True)] for n in names}
        made = {n: self._stacked(n, values, numbers) for n, values in columns.items()}
        flat = all(v.dim() == 1 for v in columns[self.main])
        if self.main == "input_ids" and flat and "attention_mask" in self.columns and "attention_mask" not in made:
            lengths = torch.tensor([len(v) for v in columns[self.main]])  # padding made here is no token
            made["attention_mask"] = (torch.arange(made[self.main].shape[1]) < lengths[:, None]).long()
        return {**self._labels(examples, numbers), **made}

    def _labels(self, examples: list[Any], numbers: Sequence[int]) -> dict[str, Tensor]:
        """A data set's `label` is the model's `labels`, as in transformers' own collators."""
        name = next((n for n in ("labels", "label") if n in examples[0]), None)
        if not self.labels or name is None or "labels" not in self.columns:
            return {}
        values = [tensor_of(e, name, i) for e, i in zip(examples, numbers, strict=True)]
        return {"labels": self._stacked("labels", values, numbers)}

    def _stacked(self, name: str, values: Sequence[Tensor], numbers: Sequence[int]) -> Tensor:
        return stacked(name, values, numbers, self.pad if name == self.main else -100 if name == "labels" else 0)


class BatchesOf:
    """Some of the batches of examples."""

    def __init__(self, examples: Batches, chosen: tuple[int, ...]) -> None:
        self._examples, self._chosen = examples, chosen

    def batches(self, numbers: Iterable[int] | None = None) -> Iterator[dict[str, Tensor]]:
        """As `Examples.batches`, numbered among themselves."""
        yield from self._examples.batches(self._chosen if numbers is None else [self._chosen[n] for n in numbers])

    def lent(self, numbers: Iterable[int]) -> Iterator[dict[str, Tensor]]:
        """As `Examples.lent`, numbered among themselves."""
        return self._examples.lent([self._chosen[n] for n in numbers])

    @property
    def num_batches(self) -> int:
        """Number of these batches."""
        return len(self._chosen)

    def part(self, numbers: Iterable[int]) -> BatchesOf:
        """Some of these batches, by number among themselves."""
        return BatchesOf(self, tuple(numbers))


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


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
