"""A saved learngene, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_learngene.disk import check_files
from hf_learngene.errors import CheckpointError, LearngeneError, naming
from hf_learngene.hub.files import hub_keywords
from hf_learngene.hub.index import check_index
from hf_learngene.hub.load import pinned
from hf_learngene.learngenes.config import LearngeneConfig
from hf_learngene.state import seeded


def load_learngene_config(source: str | os.PathLike[str], **kwargs: Any) -> LearngeneConfig:
    """The config of a saved learngene; keywords as for `AutoConfig.from_pretrained`.

    Raises:
        CheckpointError: no such checkpoint, a config that does not hold, or that of an ordinary model.
    """
    try:
        check_files(source)
        with naming(source):
            config = AutoConfig.from_pretrained(source, **{**kwargs, "trust_remote_code": False})
    except LearngeneError:
        raise
    except Exception as error:  # transformers raises whatever its first look at a field happens to raise
        raise CheckpointError(f"The config of `{source}` cannot be read: {_said(error)}") from error
    if not isinstance(config, LearngeneConfig):
        raise CheckpointError(
            f"{source} is a `{config.model_type}` model, not a learngene. To make one of it: "
            "AutoLearngene.from_ancestry(model, learngene_type='wave'); to resize it: from_pretrained_resized."
        )
    return config


def load_learngene(
    cls: type[PreTrainedModel], load: Callable[..., Any], source: str | os.PathLike[str], args: Sequence[Any],
    keywords: Mapping[str, Any],
) -> Any:  # fmt: skip
    """A learngene of class `cls`, by transformers' own `load`, with everything that its config says it has."""
    kwargs = dict(keywords) if source is None else pinned(source, dict(keywords))
    config = kwargs.get("config")
    if not isinstance(config, PreTrainedConfig):
        config = load_learngene_config(source, **hub_keywords(kwargs))
    wanted = cast(type[LearngeneConfig], cls.config_class)
    if not isinstance(config, wanted):
        raise CheckpointError(
            f"`{source}` is a `{config.model_type}`, and {cls.__name__} loads `{wanted.model_type}` checkpoints. "
            "AutoLearngene.from_pretrained takes any learngene."
        )
    if source is not None:
        check_index(source, kwargs)
    told = kwargs.pop("output_loading_info", False)
    try:
        # what a checkpoint lacks is refused below, not drawn from the caller's numbers
        with naming(source or cls.__name__), seeded(0):
            learngene, info = load(
                source, *args, **{**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
            )
    except LearngeneError:
        raise
    except SafetensorError as error:
        raise CheckpointError(f"The weights of `{source}` are truncated or no safetensors file: {error}.") from error
    except Exception as error:
        raise CheckpointError(f"`{source}` cannot be loaded: {_said(error)}") from error
    _check_whole(source, learngene, info)
    # transformers 5.23 keeps no commit in its configs; descendants name it
    learngene.config._commit_hash = getattr(kwargs.get("revision"), "resolved", None)
    return (learngene, info) if told else learngene


def _check_whole(source: Any, learngene: PreTrainedModel, info: Mapping[str, Any]) -> None:
    missing, stray = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    misfits = sorted(name for name, *_ in info["mismatched_keys"])
    total = sum(1 for _ in learngene.parameters())
    found = [
        f"{len(names)} of {total} tensors are {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("absent", missing), ("of another shape", misfits))
        if names
    ]
    if stray:
        found.append(
            f"{len(stray)} tensors are not its own ({', '.join(stray[:3])}{', ...' if len(stray) > 3 else ''})"
        )
    if found:
        raise CheckpointError(
            f"`{source}` does not fill the `{learngene.config.learngene_type}` of its config: {'; '.join(found)}. What it makes "
            "would be partly random. Fetch the checkpoint again, or look for the config that belongs to these weights."
        )


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {text[:300]}' if text else ''}"


__all__ = ["load_learngene", "load_learngene_config"]
