"""`CompareSpec`: the arguments of `compare`, parsed once and checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_learngene.errors import InvalidSizeError, TrainingDataError, UnknownOptionError, nearest
from hf_learngene.methods import Method, make_method
from hf_learngene.methods.registry import AUTO, method_name


# Keywords of `resize` that a comparison sets itself.
RESERVED = (
    "model", "model_class", "source", "method", "seed", "calibration", "calibration_column", "calibration_size",
    "calibration_top_up", "processing_class", "train_dataset", "training",
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """One way to initialise; a method of None is `auto`."""

    label: str
    method: Method | None

    @property
    def given(self) -> Method | str:
        return self.method if self.method is not None else AUTO

    @property
    def needs_examples(self) -> bool:
        return self.method is not None and self.method.needs_examples

    @property
    def described(self) -> dict[str, Any]:
        """Name and options as plain data."""
        return {"method": AUTO} if self.method is None else {"method": self.method.name, **self.method.options()}


@dataclass(frozen=True)
class CompareSpec:
    """What is compared, sizes and starts by name, and how each model is trained."""

    sizes: Mapping[str, Mapping[str, Any]]
    starts: Mapping[str, Start]
    steps: int
    eval_steps: int
    seeds: tuple[int, ...]
    learning_rate: Mapping[str, float]
    batch_size: int
    calibration_size: int


def parse_spec(
    sizes: Any,
    methods: Any,
    steps: Any,
    eval_steps: Any,
    seeds: Any,
    learning_rate: Any,
    batch_size: Any,
    calibration_size: Any,
) -> CompareSpec:
    """The arguments of `compare` in one form.

    Raises:
        LearngeneError: an argument that is empty, of another kind or out of its range.
    """
    named = _sizes(sizes)
    starts = _starts(methods)
    steps = whole_number("steps", steps)
    eval_steps = max(1, steps // 5) if eval_steps is None else whole_number("eval_steps", eval_steps)
    return CompareSpec(
        named,
        starts,
        steps,
        eval_steps,
        _seeds(seeds),
        _rates(learning_rate, list(starts)),
        whole_number("batch_size", batch_size),
        whole_number("calibration_size", calibration_size),
    )


def check_data(dataset: Any, name: str) -> None:
    """Refuses what is no data set, several of them, or an empty one.

    Raises:
        TrainingDataError: says which.
    """
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(repr, dataset))
        raise TrainingDataError(f"{name} is one data set; this has the parts {splits or 'of none'}. Give one of them.")
    if isinstance(dataset, (str, bytes)) or not (hasattr(dataset, "__getitem__") or hasattr(dataset, "__iter__")):
        raise TrainingDataError(
            f"{name} is a data set of examples with the model's columns; it was a {type(dataset).__name__}. A file is read "
            "with datasets.load_dataset."
        )
    if hasattr(dataset, "__len__") and not len(dataset):
        raise TrainingDataError(f"{name} is empty; it needs one example at least.")


def _sizes(given: Any) -> dict[str, dict[str, Any]]:
    hint = 'such as [{"hidden_size": 192}, {"params": 0.25}]'
    if isinstance(given, Mapping):
        named = [(str(name), size) for name, size in given.items()]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        named = [(size_name(size) if isinstance(size, Mapping) else "", size) for size in given]
    else:
        raise InvalidSizeError(f"sizes is a list of dicts, {hint}; it was {given!r}.")
    if not named:
        raise InvalidSizeError(f"sizes is empty: name one at least, {hint}.")
    found: dict[str, dict[str, Any]] = {}
    for name, size in named:
        if not isinstance(size, Mapping):
            one = f" For this one size: [{dict(given)!r}]." if isinstance(given, Mapping) else ""
            raise InvalidSizeError(f"Each of sizes is a dict, {hint}; one was {size!r}.{one}")
        if not size:
            raise InvalidSizeError("A size is empty, and would be the source itself: name a field, hidden_size=192.")
        if name in found:
            raise InvalidSizeError(f"The size {name!r} was given twice.")
        taken = [n for n in size if not isinstance(n, str) or n in RESERVED]
        if taken:
            raise UnknownOptionError(
                f"{taken[0]!r} is no size. A size is named by its config field, such as hidden_size."
            )
        found[name] = dict(size)
    return found


def size_name(size: Mapping[str, Any]) -> str:
    """What a size is called where nobody named it.

    Example:
        >>> size_name({"hidden_size": 192, "num_hidden_layers": 6})
        'hidden_size=192, num_hidden_layers=6'
    """
    return ", ".join(f"{name}={value}" for name, value in size.items())


def _starts(given: Any) -> dict[str, Start]:
    hint = 'such as ["random", "weight_selection"]'
    if isinstance(given, Mapping):
        named = [(str(label), spec) for label, spec in given.items()]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        named = [(_label(spec), spec) for spec in given]
    else:
        raise UnknownOptionError(f"methods is a list of names, {hint}, or a dict of them by label; it was {given!r}.")
    if not named:
        raise UnknownOptionError(f"methods is empty: name one at least, {hint}.")
    found: dict[str, Start] = {}
    for label, spec in named:
        if label in found:
            raise UnknownOptionError(
                f"The method {label!r} was given twice. To compare options of one, label them: "
                f'{{"{label} A": {{"method": "{label}", ...}}, ...}}.'
            )
        found[label] = Start(label, _method(spec))
    return found


def _label(spec: Any) -> str:
    return method_name(spec.get("method") if isinstance(spec, Mapping) else spec)


def _method(spec: Any) -> Method | None:
    if not isinstance(spec, Mapping):
        return make_method(spec, {})
    if "method" not in spec:
        raise UnknownOptionError(
            f"A method with options is a dict that names it, {{'method': 'layers', 'layer_map': [0, 2]}}; it was {dict(spec)!r}."
        )
    return make_method(spec["method"], {k: v for k, v in spec.items() if k != "method"})


def whole_number(name: str, value: Any) -> int:
    """The value of an argument that counts something.

    Raises:
        UnknownOptionError: it is no whole number, or less than 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UnknownOptionError(f"{name} is a whole number of at least 1; it was {value!r}.")
    return value


def _seeds(given: Any) -> tuple[int, ...]:
    if isinstance(given, int):
        raise UnknownOptionError(f"seeds is a list of whole numbers; it was {given!r}. So many: range({int(given)}).")
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise UnknownOptionError(f"seeds is a list of one whole number at least, such as [0, 1, 2]; it was {given!r}.")
    for seed in given:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise UnknownOptionError(f"A seed is a whole number from 0 to 2**32 - 1; one was {seed!r}.")
    if len(set(given)) < len(given):
        raise UnknownOptionError(f"seeds holds one twice: {list(given)}. The same seed gives the same run.")
    return tuple(given)


def _rates(given: Any, labels: list[str]) -> dict[str, float]:
    rates = dict(given) if isinstance(given, Mapping) else dict.fromkeys(labels, given)
    for label in rates:
        if label not in labels:
            raise UnknownOptionError(
                f"learning_rate names {label!r}, which is none of the methods: {', '.join(labels)}."
                f"{nearest(str(label), labels)}"
            )
    for label in labels:
        if label not in rates:
            raise UnknownOptionError(
                f"learning_rate has no entry for {label!r}; give one for each method, or one number."
            )
        rate = rates[label]
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise UnknownOptionError(
                f"learning_rate is a number above 0, such as 3e-4; for {label!r} it was {rate!r}."
            )
    return {label: float(rates[label]) for label in labels}
