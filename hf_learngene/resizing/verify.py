"""`verify`: do two models compute the same?"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.anatomy.admit import admit_no_learngene
from hf_learngene.anatomy.inputs import main_input
from hf_learngene.errors import InvalidSizeError, UnknownOptionError, UnsupportedSourceError
from hf_learngene.resizing.outputs import difference, outputs_of, random_inputs, vocabulary_of, width_of
from hf_learngene.tables import html, paragraphs


# relative to max(1, |logit|); what float32 rounding leaves over a dozen layers, and float64
TOLERANCES = {torch.float64: 1e-10, torch.float32: 5e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Report:
    """How far two models are apart on the same inputs.

    Attributes:
        max_abs_logit_difference: largest absolute difference over all outputs that both give.
        relative: the same, divided by max(1, largest absolute output of the source).
        tolerance: the relative difference that rounding in the models' dtype explains.
        outputs: name of each compared output -> its largest absolute difference.
    """

    max_abs_logit_difference: float
    relative: float
    tolerance: float
    outputs: Mapping[str, float]

    @property
    def function_preserving(self) -> bool:
        return self.relative <= self.tolerance

    def __str__(self) -> str:
        outputs = ", ".join(f"{name} {value:.1e}" for name, value in self.outputs.items())
        return f"{self._verdict()}\ncompared: {outputs}"

    def _repr_html_(self) -> str:
        table = Table()
        table.add_column("output")
        table.add_column("max |Δ|", justify="right")
        for name, value in self.outputs.items():
            table.add_row(escape(name), f"{value:.1e}")
        return f"{paragraphs(self._verdict())}\n{html(table)}"

    def _verdict(self) -> str:
        verdict = "the same function" if self.function_preserving else "another function"
        return (
            f"max |Δ| {self.max_abs_logit_difference:.2e} "
            f"(relative {self.relative:.2e}, tolerance {self.tolerance:.0e}): {verdict}"
        )


def verify(
    source: PreTrainedModel,
    grown: PreTrainedModel,
    inputs: Mapping[str, Tensor] | Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Report:
    """Compares the outputs of two models, run in eval mode on the same inputs.

    Every output is compared, those in tuples and lists too (feature maps). Logits are compared whole. Hidden states of a wider
    model hold the source's in their first entries, so these are compared; those of single layers only at equal depth.

    Args:
        source (`PreTrainedModel`): the reference. It is left as it is.
        grown (`PreTrainedModel`): the model to compare, as wide as the source or wider. It is left as it is.
        inputs (`Mapping[str, Tensor]` or `Tensor`, *optional*): keyword inputs of both, or a batch of their main input alone
            (pixel values, or token ids without padding). Default: two random images, or two random texts with padding.
        dtype (`torch.dtype`, *optional*): compare copies in this dtype, such as `torch.float64`; default: as they are.
        seed (`int`, *optional*, defaults to 0): for the random inputs.

    Returns:
        `Report`.

    Raises:
        UnsupportedSourceError: one of the two is no model: a path, a learngene.
        UnknownOptionError: inputs that are neither tensors by name nor a tensor.
        InvalidSizeError: the two have no output in common, take images of different sizes and no inputs were given, or number
            their tokens in different ways.

    Example:
        >>> from transformers import ViTConfig, ViTModel
        >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
        >>> model = ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4))
        >>> verify(model, model).function_preserving
        True
    """
    for model in (source, grown):
        _check_model(model)
    main, other = main_input(type(source)), main_input(type(grown))
    if main != other:
        raise InvalidSizeError(f"One model takes {main}, the other {other}: there is nothing to compare.")
    inputs = _by_name(inputs, main)
    given = dict(inputs) if inputs is not None else random_inputs(source, seed)
    if inputs is None and "pixel_values" in given:
        shapes = {tuple(random_inputs(m, seed)["pixel_values"].shape) for m in (source, grown)}
        if len(shapes) > 1:
            raise InvalidSizeError(
                f"The models take images of different sizes ({sorted(shapes)}): a resampled grid is another function."
            )
    _check_vocabularies(source, grown, inputs)
    first, second = (outputs_of(_in_dtype(m, dtype), given) for m in (source, grown))
    if len(first) != len(second):
        first, second = _without_layers(first), _without_layers(second)
    widths = width_of(source), width_of(grown)
    compared = {
        name: found
        for name, output in first.items()
        if name in second and (found := difference(name, output, second[name], widths)) is not None
    }
    if not compared:
        raise InvalidSizeError(
            f"The models have no output in common: {sorted(first)} of shapes {[tuple(t.shape) for t in first.values()]} against "
            f"{sorted(second)} of {[tuple(t.shape) for t in second.values()]}."
        )
    differences = {name: found.absolute for name, found in compared.items()}
    largest = max(1.0, *(found.size for found in compared.values()))
    worst = max(differences.values())
    # In a wider dtype the weights themselves are still rounded: those of the grown model to the dtype it is stored in.
    dtypes = {dtype or source.dtype, grown.dtype}
    tolerance = max(TOLERANCES.get(d, 5e-2) for d in dtypes)
    return Report(worst, worst / largest, tolerance, dict(sorted(differences.items())))


def _check_model(model: object) -> None:
    """Refuses what cannot be run on inputs."""
    if isinstance(model, (str, os.PathLike)):
        raise UnsupportedSourceError(
            f"verify compares two models in memory; {str(model)!r} is a path. Load it with from_pretrained of its class, or run "
            "`hf-learngene verify SOURCE GROWN`, which takes paths."
        )
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedSourceError(f"verify compares two transformers models; this is a {type(model).__name__}.")
    admit_no_learngene(model.config)


def _by_name(inputs: object, main: str) -> Mapping[str, Tensor] | None:
    """The inputs as keyword arguments."""
    if isinstance(inputs, Tensor):
        return {main: inputs}
    if inputs is None or (isinstance(inputs, Mapping) and {main, "inputs_embeds"} & inputs.keys()):
        return inputs
    held = ", ".join(map(repr, inputs)) if isinstance(inputs, Mapping) else f"a {type(inputs).__name__}"
    raise UnknownOptionError(
        f"inputs is a dict of tensors with {main!r}, or that tensor alone; it was {held or 'empty'}."
    )


def _check_vocabularies(source: PreTrainedModel, grown: PreTrainedModel, inputs: Mapping[str, Tensor] | None) -> None:
    """Refuses a vocabulary that lost tokens: the same ids are other texts there."""
    if main_input(type(source)) != "input_ids" or (inputs is not None and "input_ids" not in inputs):
        return
    rows = [vocabulary_of(m) for m in (source, grown)]
    before, after = ((getattr(m.config, "learngene", None) or {}).get("kept_tokens") for m in (source, grown))
    if after is not None and after != before and after["count"] < rows[0]:
        raise InvalidSizeError(
            f"The second model keeps {after['count']} of {rows[0]} tokens under new ids, so the same inputs are other texts. "
            "Compare what both give for one text, each with its own tokenizer."
        )
    largest = rows[0] - 1 if inputs is None else int(inputs["input_ids"].max())
    if largest >= rows[1]:
        raise InvalidSizeError(
            f"The first model has {rows[0]} tokens, the second {rows[1]}, and the inputs go up to {largest}. Give inputs= with "
            f"ids below {rows[1]}."
        )


def _without_layers(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The outputs without those of each layer (`hidden_states.3`): of another depth, nothing says which layer is which."""
    return {n: output for n, output in outputs.items() if not {"hidden_states", "attentions"} & set(n.split(".")[:-1])}


def _in_dtype(model: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel:
    """The model, or a copy of it in another dtype."""
    if dtype is None or model.dtype == dtype:
        return model
    return cast(PreTrainedModel, torch.nn.Module.to(copy.deepcopy(model), dtype=dtype))
