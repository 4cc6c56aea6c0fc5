"""`from_pretrained_resized`: name a checkpoint and a size."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from hf_learngene.errors import CheckpointError, UnknownOptionError, UnsupportedSourceError
from hf_learngene.methods import Method
from hf_learngene.resize import provenance
from hf_learngene.resize.plan import Plan, make_plan
from hf_learngene.resize.request import split_loading, split_options
from hf_learngene.resize.run import carry_out, check_source


logger = logging.get_logger(__name__)
_HUB_KEYWORDS = ("revision", "token", "cache_dir", "force_download", "local_files_only", "subfolder", "proxies")


def load_config(source: str | os.PathLike, loading: dict[str, Any]) -> PreTrainedConfig:
    """The config of a checkpoint, and nothing else of it.

    Raises:
        CheckpointError: no such checkpoint, or not cached and offline.
        UnsupportedSourceError: it is quantized.
    """
    keywords = {k: v for k, v in loading.items() if k in _HUB_KEYWORDS}
    try:
        config = AutoConfig.from_pretrained(source, **keywords)
    except (OSError, ValueError) as error:
        raise CheckpointError(_not_found(str(source), error)) from error
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedSourceError(
            f"`{source}` is quantized; packed weights cannot be resized. Name the checkpoint it was made from, and quantize the result."
        )
    provenance.check(config)
    return config


def _not_found(source: str, error: Exception) -> str:
    if os.path.isdir(source):
        return f"The folder `{source}` holds no usable config.json: {error}"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    hint = (
        " HF_HUB_OFFLINE is set, so only cached checkpoints and local folders can be used: unset it, or give a folder."
        if offline
        else " Give a Hub id such as 'google/vit-base-patch16-224', or a folder with config.json and weights."
    )
    return f"No checkpoint `{source}` was found: {first}{hint}"


def native_class(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The transformers class that loads the checkpoint.

    A subclass of a native class counts as custom code there: its checkpoint's old key names are then not converted, and
    whole encoders stay at random values with no error. So a subclass is loaded through its native parent.
    """
    for parent in model_class.__mro__:
        if parent.__module__.startswith("transformers.") and issubclass(parent, PreTrainedModel):
            if parent is PreTrainedModel:
                break
            return parent
    raise UnsupportedSourceError(
        f"{model_class.__name__} does not descend from a model class of transformers; ResizableMixin stands before one: "
        "`class MyViT(ResizableMixin, ViTForImageClassification)`."
    )


def plan_checkpoint(
    source: str | os.PathLike,
    model_class: type[PreTrainedModel] | None,
    *,
    method: str | Method,
    params: str | int | float | None,
    seed: int,
    given: dict[str, Any],
    choose_class: Any = None,
) -> tuple[Plan, dict[str, Any], dict[str, Any]]:
    """(plan, loading keywords, label fields) for a checkpoint on disk or on the Hub."""
    rest, loading, labels = split_loading(given)
    config = load_config(source, loading)
    cls = model_class or choose_class(config)
    if type(config).__name__ != getattr(cls.config_class, "__name__", "") and hasattr(config, "vision_config"):
        config = config.vision_config if isinstance(config.vision_config, cls.config_class) else config
    if not isinstance(config, cls.config_class):
        raise CheckpointError(
            f"`{source}` is a `{config.model_type}` checkpoint, and {cls.__name__} loads `{cls.config_class.model_type}` ones."
        )
    config, rest = _labels_to_sizes(config, rest, labels)
    sizes, options = split_options(rest, method)
    return make_plan(config, native_class(cls), sizes, method, options, params, seed), loading, labels


def _labels_to_sizes(
    config: PreTrainedConfig, rest: dict[str, Any], labels: dict[str, Any]
) -> tuple[PreTrainedConfig, dict[str, Any]]:
    names = labels.get("id2label")
    if names is not None:
        if rest.get("num_labels", len(names)) != len(names):
            raise UnknownOptionError(f"num_labels={rest['num_labels']}, but id2label names {len(names)} labels. Leave num_labels out.")
        rest = {**rest, "num_labels": len(names)}
    return config, rest


def load_resized(
    source: str | os.PathLike,
    model_class: type[PreTrainedModel] | None,
    *,
    method: str | Method = "auto",
    params: str | int | float | None = None,
    seed: int = 0,
    choose_class: Any = None,
    **given: Any,
) -> PreTrainedModel:
    """Plans, loads the checkpoint, and resizes it. See `ResizableMixin.from_pretrained_resized`."""
    plan, loading, labels = plan_checkpoint(
        source, model_class, method=method, params=params, seed=seed, given=given, choose_class=choose_class
    )
    model, missing = load_source(source, plan, loading)
    check_source(model)
    if missing:
        plan = _without(plan, missing)
    commit = getattr(model.config, "_commit_hash", None)
    resized = carry_out(plan, model, os.fspath(source), commit)
    for name, value in labels.items():
        setattr(resized.config, name, value)
    if model_class is not None and not isinstance(resized, model_class):
        resized.__class__ = model_class  # the mixin adds methods only, no state
    return resized


def load_source(source: str | os.PathLike, plan: Plan, loading: dict[str, Any]) -> tuple[PreTrainedModel, frozenset[str]]:
    """The source model, and the names of its parameters that the checkpoint did not hold.

    Raises:
        CheckpointError: weights that are absent or unreadable, or an encoder that the checkpoint does not fill.
    """
    from safetensors import SafetensorError

    cls = plan.model_class
    try:
        model, info = cls.from_pretrained(source, config=plan.source_config, output_loading_info=True, **loading)
    except SafetensorError as error:
        raise CheckpointError(f"The weights of `{source}` are truncated or no safetensors file: {error}. Fetch them again.") from error
    except (OSError, EOFError) as error:
        raise CheckpointError(f"The weights of `{source}` cannot be read: {_first_line(error)}") from error
    except RuntimeError as error:
        raise CheckpointError(f"The weights of `{source}` do not fit its own config: {_first_line(error)}") from error
    missing = frozenset(plan.source.ties.get(k, k) for k in info["missing_keys"]) & plan.source.tensors.keys()
    body = sorted(k for k in missing if plan.source.tensors[k].layer is not None)
    if body:
        stray = sorted(info.get("unexpected_keys", ()))
        found = f" It holds {stray[0]!r} and other names that do not load." if stray else ""
        raise CheckpointError(
            f"`{source}` does not fill {cls.__name__}: {len(body)} encoder tensors are absent, the first `{body[0]}`.{found} "
            f"Is it a checkpoint of another architecture?"
        )
    return model, missing


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _without(plan: Plan, missing: frozenset[str]) -> Plan:
    """The same plan, taking nothing from tensors that the checkpoint did not hold (a new head, a pooler)."""
    import dataclasses

    from hf_learngene.methods import recipes_for

    first = plan.stages[0]
    again = dataclasses.replace(first, recipes=tuple(recipes_for(first.request, first.method, missing)))
    later = [
        dataclasses.replace(stage, recipes=tuple(recipes_for(stage.request, stage.method, missing))) for stage in plan.stages[1:]
    ]
    return dataclasses.replace(plan, stages=(again, *later))
