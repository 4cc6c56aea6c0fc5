"""`ResizeSpec`: what a caller asks for, parsed once where it enters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from hf_learngene.anatomy.config_fields import ALIASES
from hf_learngene.budget.meter import Budget
from hf_learngene.calibration.processing import HUB_KEYWORDS
from hf_learngene.calibration.record import GIVEN, SYNTHETIC
from hf_learngene.errors import InvalidSizeError, UnknownOptionError
from hf_learngene.methods import Method
from hf_learngene.methods.registry import METHODS, make_method, option_owners, options_of
from hf_learngene.resizing.by_section import flat
from hf_learngene.resizing.sizes import size_meant


# Keywords of `PreTrainedModel.from_pretrained` and of the Hub client below it.
LOADING = frozenset(
    [
        *HUB_KEYWORDS,
        "dtype",
        "torch_dtype",
        "variant",
        "use_safetensors",
        "weights_only",
        "key_mapping",
        "attn_implementation",
        "device_map",
        "low_cpu_mem_usage",
        "gguf_file",
        "adapter_kwargs",
    ]
)
# What belongs to the target's task, not to its size; set on the target's config as it is.
LABELS = frozenset({"id2label", "label2id", "problem_type"})
# What `calibration` says by name, beside examples themselves.
AUTO = "auto"
REFUSED = {
    "trust_remote_code": "code from a repository is never run here; resize a class that transformers has",
    "quantization_config": "packed weights cannot be resized; resize first, then quantize the result",
    "ignore_mismatched_sizes": "it leaves mismatched tensors at random values; name the size you want instead",
    "config": "the sizes are given by name; everything else follows the source",
    "state_dict": "give the model itself to `resize`",
    "output_loading_info": "`plan` tells what becomes of each tensor",
}


@dataclass(frozen=True, eq=False)
class ResizeSpec:
    """One resize as it was asked for. Nothing here is checked against a model yet but its own form.

    Attributes:
        sizes: what the caller named, by the config's field names (`hidden_size` -> 384, `vision_config.hidden_size` -> 384).
        method: the method with its options; None is `auto`.
        budget: a ceiling in place of sizes.
        seed: for every random number.
        calibration: examples, as given; `"synthetic"` for made-up ones, `"auto"` for those where they are needed, None for none.
        processing_class: what reads raw ones.
        calibration_column: which column holds raw ones, or two of a pair of texts.
        calibration_size: how many are looked at.
        calibration_top_up: whether made-up examples follow where the given ones are too few.
        kept_tokens: ids of the tokens that are kept, and `pad_to_multiple_of`: what their number is rounded up to.
        train_dataset: what a method that learns is trained on, and `training`: how.
        loading: keywords of `from_pretrained`.
        labels: fields of the target's task (`id2label`, ...).
    """

    sizes: Mapping[str, Any] = field(default_factory=dict)
    method: Method | None = None
    budget: Budget | None = None
    seed: int = 0
    calibration: Any = AUTO
    processing_class: Any = None
    calibration_column: str | tuple[str, str] | None = None
    calibration_size: int | None = None
    calibration_top_up: bool = True
    kept_tokens: Any = None
    pad_to_multiple_of: int | None = None
    train_dataset: Any = None
    training: Any = None
    loading: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(
        cls,
        sizes_and_options: Mapping[str, Any],
        *,
        method: str | Method = "auto",
        params: str | int | float | None = None,
        flops: str | int | float | None = None,
        latency: str | int | float | None = None,
        seed: int = 0,
        calibration: Any = AUTO,
        processing_class: Any = None,
        calibration_column: str | tuple[str, str] | None = None,
        calibration_size: int | None = None,
        calibration_top_up: bool = True,
        kept_tokens: Any = None,
        pad_to_multiple_of: int | None = None,
        train_dataset: Any = None,
        training: Any = None,
        loads: bool = False,
    ) -> Self:
        """The spec of a call.

        Args:
            sizes_and_options: what came as free keywords: sizes, options of the method, and where a checkpoint is loaded,
                keywords of `from_pretrained` and label fields.
            method: its name, or its config object.
            params: a budget of parameters.
            flops: a budget of FLOPs in its place.
            latency: a budget of time in its place.
            seed: for every random number.
            calibration: examples, `"synthetic"`, `"auto"` or None.
            processing_class: what reads raw ones.
            calibration_column: which column holds raw ones, or two of a pair of texts.
            calibration_size: how many are looked at.
            calibration_top_up: whether made-up examples follow where the given ones are too few.
            kept_tokens: ids of the tokens that are kept.
            pad_to_multiple_of: what their number is rounded up to.
            train_dataset: what a method that learns is trained on.
            training: how: `LearngeneTrainingArguments`, or a dict of its fields that differ from the defaults.
            loads: whether a checkpoint is loaded.

        Raises:
            UnknownOptionError: a method or an option that does not exist, or belongs to another method; a keyword that
                contradicts a resize.
            InvalidSizeError: a seed that is no whole number.

        Example:
            >>> spec = ResizeSpec.parse({"hidden_size": 384, "ridge": 0.01}, method="calibrated")
            >>> spec.sizes, spec.method.ridge
            ({'hidden_size': 384}, 0.01)
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
            raise InvalidSizeError(f"seed is a whole number of at most 64 bits; it was {seed!r}.")
        given, loading, labels = dict(sizes_and_options), {}, {}
        if loads:
            for name, why in REFUSED.items():
                if given.pop(name, None) not in (None, False):
                    raise UnknownOptionError(f"{name!r} cannot be used when resizing: {why}.")
            loading = {name: given.pop(name) for name in LOADING & given.keys()}
            labels = {name: given.pop(name) for name in LABELS & given.keys()}
            given, labels = _with_labels(given, labels)
        own = options_of(method)
        options = {name: value for name, value in given.items() if name in own}
        sizes = flat({name: value for name, value in given.items() if name not in own})
        chosen = make_method(method, options)
        _check_learns(chosen, train_dataset=train_dataset, training=training)
        for name in sizes:
            owners = option_owners(name)
            if owners and name not in _all_sizes():
                used = chosen.name if chosen is not None else "auto"
                raise UnknownOptionError(
                    f"{name!r} is an option of method {owners[0]!r}, not of {used!r}. Give method={owners[0]!r} with it."
                    + (f" {meant}" if (meant := size_meant(name)) else "")
                )
        return cls(
            sizes,
            chosen,
            Budget.of(params=params, flops=flops, latency=latency),
            seed,
            calibration,
            processing_class,
            calibration_column,
            calibration_size,
            calibration_top_up,
            kept_tokens,
            pad_to_multiple_of,
            train_dataset,
            training,
            loading,
            labels,
        )

    @property
    def examples(self) -> str | None:
        """Where calibration examples come from: `given`, `synthetic`, or None for nowhere."""
        if self.calibration is None:
            return None
        return SYNTHETIC if isinstance(self.calibration, str) and self.calibration in (AUTO, SYNTHETIC) else GIVEN

    @property
    def chooses_examples(self) -> bool:
        """Whether it was left open where examples come from."""
        return isinstance(self.calibration, str) and self.calibration == AUTO

    def with_sizes(self, sizes: Mapping[str, Any], **changes: Any) -> Self:
        """The same spec with other sizes, and no budget."""
        return dataclasses.replace(self, sizes=sizes, budget=None, **changes)


def _check_learns(method: Method | None, **given: Any) -> None:
    """Refuses what only a training reads, with a method that learns nothing."""
    name = next((name for name, value in given.items() if value is not None), None)
    if name is not None and not (method is not None and method.learns):
        learners = ", ".join(known for known, one in METHODS.items() if one.learns)
        raise UnknownOptionError(
            f"{method.name if method is not None else AUTO!r} learns nothing, so {name}= would do nothing; {learners} do. Leave "
            "one of the two out."
        )


def _all_sizes() -> set[str]:
    return {alias for names in ALIASES.values() for alias in names}


def _with_labels(given: dict[str, Any], labels: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The number of labels follows from their names, and `id2label` and `label2id` from each other."""
    names = labels.get("id2label")
    if names is None and isinstance(labels.get("label2id"), Mapping):
        names = {index: name for name, index in labels["label2id"].items()}
    if names is None:
        return given, labels
    if not isinstance(names, Mapping) or sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise UnknownOptionError(f"id2label names the labels 0, 1, ...: {{0: 'cat', 1: 'dog'}}; it was {names!r}.")
    if given.get("num_labels", len(names)) != len(names):
        raise UnknownOptionError(
            f"num_labels={given['num_labels']}, but id2label names {len(names)} labels. Leave num_labels out."
        )
    names = {int(index): name for index, name in names.items()}
    filled = {"label2id": {n: i for i, n in names.items()}, **labels, "id2label": names}
    return {**given, "num_labels": len(names)}, filled
