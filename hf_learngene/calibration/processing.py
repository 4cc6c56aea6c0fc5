"""Tokenizers and image processors: those of a checkpoint, by its name, or of the checkpoint that a model comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from PIL import Image
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from hf_learngene.anatomy.inputs import main_input
from hf_learngene.disk import check_files
from hf_learngene.errors import CheckpointError, first_line


logger = logging.get_logger(__name__)
# of the Hub's client: which repository state, whose access, which cache
HUB_KEYWORDS = ("revision", "token", "cache_dir", "force_download", "local_files_only", "subfolder", "proxies")
_KINDS = {
    "pixel_values": "image processor",
    "input_values": "feature extractor",
    "input_features": "feature extractor",
}


def kind_of(main_input: str) -> str:
    """What prepares inputs of a kind, in words.

    Example:
        >>> kind_of("pixel_values"), kind_of("input_ids")
        ('image processor', 'tokenizer')
    """
    return _KINDS.get(main_input, "tokenizer")


def processor_of(source: str | os.PathLike[str], main_input: str, loading: Mapping[str, Any] | None = None) -> Any:
    """Tokenizer, image processor or feature extractor of a checkpoint, tried on one small input.

    Code that lies beside a checkpoint is never run.

    Args:
        source: a Hub id or a folder.
        main_input (`str`): `"pixel_values"`, `"input_ids"`, ...
        loading (*optional*): keywords of `from_pretrained`, of which those of the Hub count (`revision`, `token`, ...).

    Raises:
        CheckpointError: it has none, or one that is damaged, needs code of its own, or prepares nothing.
    """
    keywords: dict[str, Any] = {k: v for k, v in (loading or {}).items() if k in HUB_KEYWORDS and v is not None}
    kind, name = kind_of(main_input), os.fspath(source)
    check_files(name)
    try:
        if main_input == "pixel_values":
            # Pillow is always there; torchvision is not.
            made = AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False, **keywords)
        elif kind == "feature extractor":
            made = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False, **keywords)
        else:
            made = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **keywords)
    except ImportError:  # says what to install
        raise
    except Exception as error:  # a damaged file ends in whatever the reader stumbles over, a bare Exception among them
        raise CheckpointError(_unreadable(name, kind, error)) from error
    try:
        _try(made, main_input)
    except Exception as error:
        raise CheckpointError(
            f"The {kind} of `{name}` is damaged, it prepares no input: {_said(error)}. Save it anew beside the model."
        ) from error
    return made


def processor_for(
    model: PreTrainedModel, source: str | os.PathLike[str] | None = None, loading: Mapping[str, Any] | None = None
) -> Any:
    """What prepares a model's inputs, from the checkpoint that it comes from; None where there is none to be had.

    Args:
        model (`PreTrainedModel`): the model.
        source (*optional*): the checkpoint, where it was read just now. Default: the one its config names, and then only what is
            here already: it may be the name of a folder that is gone.
        loading (*optional*): keywords that the checkpoint was read with.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1)
        >>> processor_for(BertModel(config)) is None  # it comes from nowhere
        True
    """
    name, keywords = source, dict(loading or {})
    if name is None:
        name, keywords = model.config._name_or_path, {"local_files_only": True}
        if commit := getattr(model.config, "_commit_hash", None):
            keywords["revision"] = commit
    if not name:
        return None
    try:
        return processor_of(name, main_input(type(model)), keywords)
    except (CheckpointError, ImportError) as error:
        logger.info("%s", first_line(error))
        return None


def resolved_processor(
    given: Any,
    model: PreTrainedModel,
    source: str | os.PathLike[str] | None = None,
    loading: Mapping[str, Any] | None = None,
) -> Any:
    """A processor as a caller gives it: itself, the name of a checkpoint that has one, or None for the model's own.

    Raises:
        CheckpointError: the checkpoint that was named has none.

    Example:
        >>> resolved_processor(str.split, None) is str.split
        True
    """
    if isinstance(given, (str, os.PathLike)):
        other = source is None or os.fspath(given) != os.fspath(source)
        keywords = {k: v for k, v in (loading or {}).items() if not (other and k in ("revision", "subfolder"))}
        return processor_of(given, main_input(type(model)), keywords)
    return given if given is not None else processor_for(model, source, loading)


def _unreadable(source: str, kind: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"The {kind} of `{source}` is code in its repository, which is never run here. Use a model whose {kind} "
            "transformers has."
        )
    return f"`{source}` has no {kind} that transformers reads: save it beside the model. It said: {_said(error)}."


def _try(processor: Any, main_input: str) -> None:
    """Prepares one small input, since bad settings show themselves only in use."""
    if main_input == "pixel_values":
        grey = Image.new("RGB", (40, 32), (128, 128, 128))
        pixels = processor([grey], return_tensors="pt")["pixel_values"]
        if pixels.ndim not in (4, 5) or not bool(pixels.isfinite().all()):
            raise ValueError(f"pixel_values of shape {tuple(pixels.shape)}, not all of them finite numbers")
    elif kind_of(main_input) == "tokenizer":
        processor(["a"], truncation=True, max_length=min(128, processor.model_max_length))


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


__all__ = ["HUB_KEYWORDS", "kind_of", "processor_for", "processor_of", "resolved_processor"]
