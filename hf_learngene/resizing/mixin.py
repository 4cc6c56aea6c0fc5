"""`ResizableMixin`: `from_pretrained_resized` on a class of one's own."""

from __future__ import annotations

import os
from typing import Any, Self

from transformers import PreTrainedModel

from hf_learngene.hub.tasks import class_of_checkpoint
from hf_learngene.methods import Method
from hf_learngene.resizing.from_pretrained import ChooseClass, load_resized
from hf_learngene.resizing.spec import AUTO, ResizeSpec


class ResizableMixin:
    """Adds `from_pretrained_resized` to a model class. Put it before the class.

    Example:
        >>> from transformers import ViTForImageClassification
        >>> class MyViT(ResizableMixin, ViTForImageClassification): ...
        >>> MyViT.from_pretrained_resized  # doctest: +ELLIPSIS
        <bound method ResizableMixin.from_pretrained_resized of <class '...MyViT'>>
    """

    @classmethod
    def from_pretrained_resized(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
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
        **kwargs: Any,
    ) -> Self:
        """Loads a checkpoint and gives it another size.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): a Hub id or a folder.
            method (`str` or `Method`, *optional*, defaults to `"auto"`): `auto` grows with `lemon` (the same function) and
                shrinks with `calibrated`.
            params (`str`, `int` or `float`, *optional*): a budget, `"20M"` parameters or a share such as `0.25`: a ceiling.
            flops (`str`, `int` or `float`, *optional*): the same for `"4G"` FLOPs, or a share; see `resize`.
            latency (`str`, `int` or `float`, *optional*): the same for `"20ms"` on this CPU, or a share; see `resize`.
            seed (`int`, *optional*, defaults to 0): for every random number.
            calibration (*optional*, defaults to `"auto"`): a few hundred unlabelled examples; `"synthetic"` for made-up ones,
                which `"auto"` takes where a method needs some; None for none. See `resize`.
            processing_class (*optional*): tokenizer or image processor, for texts and images; default: the checkpoint's own.
            calibration_column (*optional*): which column of `calibration` holds texts or images; see `resize`.
            calibration_size (`int`, *optional*, defaults to 512): how many examples are looked at; see `resize`.
            calibration_top_up (`bool`, *optional*, defaults to `True`): whether made-up examples follow too few; see `resize`.
            kept_tokens (*optional*): ids of the tokens that stay, as `trim_tokenizer` gives them; see `resize`.
            pad_to_multiple_of (`int`, *optional*): with `kept_tokens`: rows are added up to a multiple of it.
            train_dataset (*optional*): what the methods that learn are trained on; see `resize`.
            training (*optional*): how; see `resize`.
            **kwargs: sizes by the config's field names (`hidden_size=384`), options of the method, and any keyword of
                `from_pretrained` (`revision`, `token`, `dtype`, `cache_dir`, `num_labels`, `id2label`, ...).

        Returns:
            A model of this class at the new size, in eval mode.

        Raises:
            LearngeneError: a `ValueError` that says what was given, what is allowed and the nearest thing that works.
        """
        return load_resized(
            pretrained_model_name_or_path,
            ResizeSpec.parse(
                kwargs,
                method=method,
                params=params,
                flops=flops,
                latency=latency,
                seed=seed,
                calibration=calibration,
                processing_class=processing_class,
                calibration_column=calibration_column,
                calibration_size=calibration_size,
                calibration_top_up=calibration_top_up,
                kept_tokens=kept_tokens,
                pad_to_multiple_of=pad_to_multiple_of,
                train_dataset=train_dataset,
                training=training,
                loads=True,
            ),
            *cls._resized_class(),
        )  # type: ignore[return-value]

    @classmethod
    def _resized_class(cls) -> tuple[type[PreTrainedModel] | None, ChooseClass]:
        """The class of the result, or None and what chooses it by the checkpoint's config."""
        return cls, class_of_checkpoint  # type: ignore[return-value]
