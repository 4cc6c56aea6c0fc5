"""The inputs that a model can take, checked before it is run: an index out of range names neither example nor bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_learngene.anatomy.config_fields import section, section_name
from hf_learngene.anatomy.inputs import main_input
from hf_learngene.errors import CalibrationError


LARGEST_PIXEL = 1e5  # normalised ones are about 3, raw ones 255; the squares of much larger ones overflow in a norm


@dataclass(frozen=True)
class InputBounds:
    """Bounds of one model's inputs; None where there is none.

    Attributes:
        main: name of its main input.
        tokens: how many token ids it has.
        types: how many token types.
        length: tokens of the longest text.
        channels: of its images.
    """

    main: str
    tokens: int | None = None
    types: int | None = None
    length: int | None = None
    channels: int | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> InputBounds:
        """The bounds of a model."""
        main = main_input(type(model))
        config = section(model.config, section_name(model.config, main))
        if main == "pixel_values":
            return cls(main, channels=getattr(config, "num_channels", None))
        if main != "input_ids":
            return cls(main)
        try:
            table = model.get_input_embeddings()
        except NotImplementedError:  # a family that hashes characters (CANINE) has none
            table = None
        tokens = table.num_embeddings if isinstance(table, nn.Embedding) else None
        return cls(main, tokens, getattr(config, "type_vocab_size", None) or None, _positions(model, config))

    def check(self, batch: Mapping[str, Tensor], numbers: Sequence[int]) -> None:
        """Refuses a batch that the model cannot take.

        Args:
            batch: the model's inputs.
            numbers: of its examples.

        Raises:
            CalibrationError: names the example and the bound.
        """
        values = batch[self.main]
        if self.main == "pixel_values":
            self._check_pixels(values, numbers)
        elif self.main == "input_ids":
            self._check_ids(values, batch, numbers)

    def _check_pixels(self, pixels: Tensor, numbers: Sequence[int]) -> None:
        if self.channels is not None and pixels.dim() == 4 and pixels.shape[1] != self.channels:
            last = " Channels come before height and width." if pixels.shape[-1] == self.channels else ""
            raise CalibrationError(
                f"Calibration example {numbers[0]} has pixel_values of shape {tuple(pixels.shape[1:])}, and the model reads "
                f"images of {self.channels} channels.{last} The model's image processor (processing_class=) makes what it reads."
            )
        if not pixels.is_floating_point():
            raise CalibrationError(
                f"Calibration example {numbers[0]} has pixel_values of {pixels.dtype}, and the model reads normalised ones. Give "
                "the images together with the model's image processor (processing_class=)."
            )
        largest = pixels.abs().flatten(1).amax(1)
        if (bad := _first(~torch.isfinite(largest))) is not None:
            raise CalibrationError(
                f"Calibration example {numbers[bad]} has pixels that are no finite numbers; leave it out."
            )
        if (bad := _first(largest > LARGEST_PIXEL)) is not None:
            raise CalibrationError(
                f"Calibration example {numbers[bad]} has pixels up to {float(largest[bad]):.1e}; normalised ones are about 3 "
                f"(refused above {LARGEST_PIXEL:.0e}). Normalise them with the model's image processor (processing_class=)."
            )

    def _check_ids(self, ids: Tensor, batch: Mapping[str, Tensor], numbers: Sequence[int]) -> None:
        mask = batch.get("attention_mask")
        shown = mask.bool() if mask is not None and mask.shape == ids.shape else torch.ones_like(ids, dtype=torch.bool)
        if ids.dim() == 2 and (bad := _first(~shown.any(1))) is not None:
            raise CalibrationError(f"Calibration example {numbers[bad]} has no tokens; leave empty texts out.")
        if ids.is_floating_point() or ids.dtype == torch.bool or ids.dim() != 2:
            raise CalibrationError(
                f"input_ids of a batch are whole numbers of shape (examples, tokens); the calibration's are {ids.dtype} of shape "
                f"{tuple(ids.shape)}."
            )
        if self.length is not None and ids.shape[1] > self.length:
            bad = int(shown.sum(1).argmax())
            raise CalibrationError(
                f"Calibration example {numbers[bad]} has {ids.shape[1]} tokens, and the model reads at most {self.length}. "
                f"Cut the texts (truncation=True, max_length={self.length} in the tokenizer's call), or give raw texts with "
                "processing_class=."
            )
        for name, count in (("input_ids", self.tokens), ("token_type_ids", self.types)):
            found = batch.get(name)
            if count is None or found is None:
                continue
            outside = (found < 0) | (found >= count)
            if (bad := _first(outside.flatten(1).any(1))) is not None:
                hint = " Use the tokenizer of the model's own checkpoint." if name == "input_ids" else ""
                raise CalibrationError(
                    f"Calibration example {numbers[bad]} has {int(found[bad][outside[bad]][0])} in {name}, and the model's go "
                    f"from 0 to {count - 1}.{hint}"
                )


def _first(bad: Tensor) -> int | None:
    """Index of the first True."""
    return int(bad.int().argmax()) if bool(bad.any()) else None


def _positions(model: PreTrainedModel, config: object) -> int | None:
    """Tokens that a table of positions has room for. RoBERTa-likes count from behind the padding's."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ("position_embeddings", "embed_positions") and isinstance(module, nn.Embedding):
            taken = 0 if module.padding_idx is None else module.padding_idx + 1
            return min(
                module.num_embeddings - taken, getattr(config, "max_position_embeddings", module.num_embeddings)
            )
    return None


__all__ = ["InputBounds"]
