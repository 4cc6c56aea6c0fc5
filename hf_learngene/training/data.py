"""Training data for a model: which columns hold what, images processed and texts tokenised as the teacher wants them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Image, Value
from transformers import DataCollatorWithPadding, DefaultDataCollator, PreTrainedModel

from hf_learngene.calibration.reading import LOADERS, read_examples
from hf_learngene.calibration.synthetic.masked_lm import is_masked_lm
from hf_learngene.errors import CalibrationError, TrainingDataError, nearest
from hf_learngene.training.masking import ResumableMasking


LABEL_NAMES = ("label", "labels", "coarse_label", "fine_label", "class", "target")


@dataclass(frozen=True)
class TrainingData:
    """A data set, and what makes batches of it, for a trainer.

    Attributes:
        dataset: of examples with the model's columns.
        collator: makes batches of them.
        processing_class: tokenizer or image processor, to be saved beside the model.
    """

    dataset: Any
    collator: Callable
    processing_class: Any


def read_data(source: str | os.PathLike[str], split: str = "train", config_name: str | None = None) -> Dataset:
    """One split of a data set: a file, a folder, or an id on the Hub; see `calibration.reading.read_examples`.

    Raises:
        TrainingDataError: nothing is there, or nothing that can be read.
    """
    try:
        return read_examples(source, split, config_name)
    except CalibrationError as error:
        raise TrainingDataError(str(error)) from error


def data_name(source: str | os.PathLike[str]) -> str:
    """A data set's name for a record: its id on the Hub, or the last part of a local path, marked as local.

    A folder's name alone could be read as the id of a stranger's data set.

    Example:
        >>> data_name("uoft-cs/cifar10"), data_name("images/test/../test.parquet")
        ('uoft-cs/cifar10', 'test.parquet (local)')
    """
    path = Path(source)
    local = path.exists() or path.suffix in LOADERS
    return f"{os.path.basename(os.path.normpath(path.absolute()))} (local)" if local else str(source)


def training_data(
    dataset: Dataset,
    model: PreTrainedModel,
    processing_class: Any,
    *,
    input_column: str | None = None,
    label_column: str | None = None,
    max_length: int = 128,
    mlm_probability: float = 0.15,
    seed: int = 0,
) -> TrainingData:
    """A data set prepared for `model`.

    Args:
        dataset (`datasets.Dataset`): with a column of images or texts and, unless the model is a masked-LM one, labels.
        model (`PreTrainedModel`): whose inputs are prepared: the teacher, or a plain student.
        processing_class: its tokenizer or image processor.
        input_column (`str`, *optional*): images or texts; found by its type.
        label_column (`str`, *optional*): found by its name.
        max_length (`int`, *optional*, defaults to 128): longest text, in tokens.
        mlm_probability (`float`, *optional*, defaults to 0.15): of a token to be masked, for masked-LM models.
        seed (`int`, *optional*, defaults to 0): for the masks.

    Raises:
        TrainingDataError: no such column, labels that the model does not have, or a tokenizer that cannot pad or mask.
    """
    sees = model.main_input_name == "pixel_values"
    inputs = _column(
        dataset,
        input_column,
        _images(dataset) if sees else _texts(dataset, label_column),
        "images" if sees else "texts",
    )
    masked = is_masked_lm(type(model))
    labels = None if masked else _label_column(dataset, label_column)
    if labels is not None:
        dataset = _numbered(dataset, labels, model)
    if sees:
        return TrainingData(_seen(dataset, inputs, labels, processing_class), DefaultDataCollator(), processing_class)
    for token in ("mask_token", "pad_token") if masked else ("pad_token",):
        if getattr(processing_class, token) is None:
            raise TrainingDataError(
                f"The tokenizer has no {token}, which batches of texts need here. Set processing_class.{token}, or take the "
                "model's own tokenizer."
            )
    encoded = _read(dataset, inputs, labels, processing_class, max_length)
    collator: Callable
    if masked:
        collator = ResumableMasking(processing_class, mlm_probability=mlm_probability, seed=seed)
    else:
        collator = DataCollatorWithPadding(processing_class)
    return TrainingData(encoded, collator, processing_class)


def drawn_examples(dataset: Dataset, limit: int | None, seed: int) -> Dataset:
    """At most `limit` examples, drawn at random under a seed."""
    return dataset if limit is None or limit >= len(dataset) else dataset.shuffle(seed=seed).select(range(limit))


def check_columns(dataset: Any, needed: str) -> None:
    """Refuses examples that lack the main input of a model.

    Raises:
        TrainingDataError: says what they have, and how they get it.
    """
    if dataset is None or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or not len(dataset):
        return
    example = dataset[0]
    if isinstance(example, Mapping) and needed not in example:
        if needed == "pixel_values":
            hint = "Process the images with the image processor (dataset.set_transform)."
        else:
            hint = "Tokenize the texts first (dataset.map)."
        columns = ", ".join(map(str, example)) or "no columns"
        raise TrainingDataError(f"The student reads {needed!r}; the training examples have {columns}. {hint}")


def _images(dataset: Dataset) -> list[str]:
    return [n for n, f in dataset.features.items() if isinstance(f, Image)]


def _texts(dataset: Dataset, label_column: str | None) -> list[str]:
    kinds = ("string", "large_string")
    return [
        n
        for n, f in dataset.features.items()
        if isinstance(f, Value) and f.dtype in kinds and n != label_column and n.lower() not in LABEL_NAMES
    ]


def _column(dataset: Dataset, name: str | None, found: list[str], what: str) -> str:
    columns = ", ".join(dataset.column_names)
    if name is not None:
        if name not in dataset.column_names:
            raise TrainingDataError(
                f"There is no column {name!r}; the columns are {columns}.{nearest(name, dataset.column_names)}"
            )
        return name
    if not found:
        raise TrainingDataError(f"No column holds {what}; the columns are {columns}. Name one (input_column).")
    return found[0]


def _label_column(dataset: Dataset, name: str | None) -> str | None:
    if name is not None:
        return _column(dataset, name, [], "labels")
    typed = [n for n, f in dataset.features.items() if isinstance(f, ClassLabel)]
    named = [n for n in dataset.column_names if n.lower() in LABEL_NAMES]
    return next(iter([*typed, *named]), None)


def _numbered(dataset: Dataset, column: str, model: PreTrainedModel) -> Dataset:
    """Labels as the model numbers them: by name where both have names."""
    feature = dataset.features[column]
    ids: Mapping[str, int] = {str(k): int(v) for k, v in (model.config.label2id or {}).items()}
    values = dataset.unique(column)
    names = {v: feature.int2str(v) if isinstance(feature, ClassLabel) else str(v) for v in values}
    numbers = {v: ids.get(n, v) for v, n in names.items()}
    count = int(model.config.num_labels or 0)
    wrong = [v for v, n in numbers.items() if not isinstance(n, int) or not 0 <= n < count]
    if wrong:
        known = ", ".join(list(ids)[:6])
        raise TrainingDataError(
            f"Column {column!r} holds {names[wrong[0]]!r}, which is no label of the model: it has {count} ({known})."
        )
    if all(v == n for v, n in numbers.items()) and not isinstance(feature, ClassLabel):
        return dataset
    features = dataset.features.copy()
    features[column] = Value("int64")
    return dataset.map(lambda row: {column: numbers[row[column]]}, features=features, desc="Numbering labels")


def _seen(dataset: Dataset, column: str, labels: str | None, processing_class: Any) -> Dataset:
    def transform(rows: dict[str, list]) -> dict[str, list]:
        images = [image.convert("RGB") for image in rows[column]]
        made = {"pixel_values": list(processing_class(images, return_tensors="pt")["pixel_values"])}
        return {**made, "labels": rows[labels]} if labels else made

    kept = dataset.select_columns([column, *([labels] if labels else [])])
    return kept.with_transform(transform)


def _read(dataset: Dataset, column: str, labels: str | None, processing_class: Any, max_length: int) -> Dataset:
    def transform(rows: dict[str, list]) -> dict[str, list]:
        made = _tokenized(rows[column], processing_class, max_length)
        return {**made, "labels": rows[labels]} if labels else made

    return dataset.map(transform, batched=True, remove_columns=dataset.column_names, desc="Tokenizing")


def _tokenized(texts: list[str], processing_class: Any, max_length: int) -> dict[str, list]:
    length = min(max_length, processing_class.model_max_length)
    return dict(processing_class(texts, truncation=True, max_length=length))
