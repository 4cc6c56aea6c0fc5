"""`from_pretrained_resized`: name a checkpoint and a size."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging
from transformers.utils.hub import resolve_revision

from hf_learngene.errors import CheckpointError, UnknownOptionError, UnsupportedSourceError
from hf_learngene.methods import Method
from hf_learngene.resizing import provenance
from hf_learngene.resizing.fresh import seeded
from hf_learngene.resizing.plan import Plan, make_plan
from hf_learngene.resizing.request import split_loading, split_options
from hf_learngene.resizing.run import carry_out, check_source, examples_for


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
            f"`{source}` is quantized; packed weights cannot be resized. Name the checkpoint it was made from, "
            "and quantize the result."
        )
    provenance.check(config)
    return config


def _not_found(source: str, error: Exception) -> str:
    if os.path.isdir(source):
        return f"The folder `{source}` holds no usable config.json: {error}"
    if os.path.isabs(source) or source.startswith((".", "~")) or source.count("/") > 1:
        return f"There is no folder `{source}`. Give a folder with config.json and weights, or a Hub id."
    said = " ".join(str(error).split()) or type(error).__name__  # the cause stands in the later lines
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    hint = (
        " HF_HUB_OFFLINE is set, so only cached checkpoints and local folders can be used: unset it, or give a folder."
        if offline
        else " Give a Hub id such as 'google/vit-base-patch16-224', or a folder with config.json and weights."
    )
    if isinstance(error.__cause__, HfHubHTTPError) and not isinstance(error.__cause__, RepositoryNotFoundError):
        hint = ""  # the id is right; access, token or revision is not
    return f"No checkpoint `{source}` could be read: {said}{hint}"


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


def pinned(source: str | os.PathLike, loading: dict[str, Any]) -> dict[str, Any]:
    """The loading keywords with the revision pinned to a commit: config and weights come from one state of the Hub."""
    where = {k: loading[k] for k in ("token", "local_files_only", "cache_dir") if k in loading}
    revision = resolve_revision(source, loading.get("revision"), **where)
    return loading if revision is None else {**loading, "revision": revision}


def plan_checkpoint(
    source: str | os.PathLike,
    model_class: type[PreTrainedModel] | None,
    *,
    method: str | Method,
    params: str | int | float | None,
    seed: int,
    given: dict[str, Any],
    choose_class: Any = None,
    calibrated: bool = False,
    kept_tokens: Any = None,
    pad_to_multiple_of: int | None = None,
) -> tuple[Plan, dict[str, Any], dict[str, Any]]:
    """(plan, loading keywords, label fields) for a checkpoint on disk or on the Hub."""
    rest, loading, labels = split_loading(given)
    if not isinstance(source, (str, os.PathLike)):
        raise UnsupportedSourceError(
            f"A checkpoint is named by a Hub id or a folder; this is a {type(source).__name__}. "
            "`resize(model, ...)` takes a model in memory."
        )
    native = native_class(model_class) if model_class is not None else None  # before anything is fetched
    loading = pinned(source, loading)
    config = load_config(source, loading)
    cls = model_class or choose_class(config)
    wanted: Any = cls.config_class
    nested = getattr(config, "vision_config", None)
    if not isinstance(config, wanted) and isinstance(nested, wanted):
        config = nested  # one tower of a two-tower checkpoint
    if not isinstance(config, wanted):
        raise CheckpointError(
            f"`{source}` is a `{config.model_type}` checkpoint, and {cls.__name__} loads `{wanted.model_type}` ones."
        )
    rest, labels = _with_labels(rest, labels)
    sizes, options = split_options(rest, method)
    made = make_plan(
        config,
        native or native_class(cls),
        sizes,
        method,
        options,
        params,
        seed,
        calibrated=calibrated,
        kept_tokens=kept_tokens,
        pad_to_multiple_of=pad_to_multiple_of,
    )
    return made, loading, labels


def _with_labels(rest: dict[str, Any], labels: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The number of labels follows from their names, and `id2label` and `label2id` from each other."""
    names = labels.get("id2label")
    if names is None and isinstance(labels.get("label2id"), Mapping):
        names = {index: name for name, index in labels["label2id"].items()}
    if names is None:
        return rest, labels
    if not isinstance(names, Mapping) or sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise UnknownOptionError(f"id2label names the labels 0, 1, ...: {{0: 'cat', 1: 'dog'}}; it was {names!r}.")
    if rest.get("num_labels", len(names)) != len(names):
        raise UnknownOptionError(
            f"num_labels={rest['num_labels']}, but id2label names {len(names)} labels. Leave num_labels out."
        )
    names = {int(index): name for index, name in names.items()}
    return {**rest, "num_labels": len(names)}, {
        "label2id": {n: i for i, n in names.items()},
        **labels,
        "id2label": names,
    }


def load_resized(
    source: str | os.PathLike,
    model_class: type[PreTrainedModel] | None,
    *,
    method: str | Method = "auto",
    params: str | int | float | None = None,
    seed: int = 0,
    choose_class: Any = None,
    calibration: Any = None,
    processing_class: Any = None,
    kept_tokens: Any = None,
    pad_to_multiple_of: int | None = None,
    tell: Callable[[str], Any] | None = None,
    **given: Any,
) -> PreTrainedModel:
    """Plans, loads the checkpoint, and resizes it. See `ResizableMixin.from_pretrained_resized`.

    `tell` is given the table of what each step of a refit left.
    """
    plan, loading, labels = plan_checkpoint(
        source,
        model_class,
        method=method,
        params=params,
        seed=seed,
        given=given,
        choose_class=choose_class,
        calibrated=calibration is not None,
        kept_tokens=kept_tokens,
        pad_to_multiple_of=pad_to_multiple_of,
    )
    with seeded(seed):  # what the checkpoint lacks is drawn when it is loaded
        model, missing = load_source(source, plan, loading)
    check_source(model)
    if missing:
        plan = _without(plan, missing)
    commit = getattr(loading.get("revision"), "resolved", None)
    examples = examples_for(plan, calibration, model, processing_class)
    resized = carry_out(plan, model, os.fspath(source), commit, own=True, examples=examples, tell=tell)
    for name, value in labels.items():
        setattr(resized.config, name, value)
    if model_class is not None and not isinstance(resized, model_class):
        resized.__class__ = model_class  # the mixin adds methods only, no state
    return resized


def read_model(
    source: str | os.PathLike, cls: type[PreTrainedModel], config: PreTrainedConfig, loading: Mapping[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A checkpoint's model, and what transformers says of the loading.

    Raises:
        CheckpointError: weights that are absent or unreadable, or that do not fit the config.
    """
    from safetensors import SafetensorError

    try:
        loaded: Any = cls.from_pretrained(source, config=config, output_loading_info=True, **loading)
    except SafetensorError as error:
        raise CheckpointError(
            f"The weights of `{source}` are truncated or no safetensors file: {error}. Fetch them again."
        ) from error
    except (OSError, EOFError) as error:
        raise CheckpointError(f"The weights of `{source}` cannot be read: {_first_line(error)}") from error
    except ValueError as error:  # a keyword of from_pretrained that transformers does not accept
        raise CheckpointError(f"`{source}` cannot be loaded as asked: {_first_line(error)}") from error
    except RuntimeError as error:
        raise CheckpointError(f"The weights of `{source}` do not fit its own config: {_first_line(error)}") from error
    return loaded


def load_source(
    source: str | os.PathLike, plan: Plan, loading: dict[str, Any]
) -> tuple[PreTrainedModel, frozenset[str]]:
    """The source model, and the names of its parameters that the checkpoint did not hold.

    Raises:
        CheckpointError: weights that are absent or unreadable, or an encoder that the checkpoint does not fill.
    """
    model, info = read_model(source, plan.model_class, plan.source_config, loading)
    cls = plan.model_class
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
    again = dataclasses.replace(
        first, recipes=tuple(recipes_for(first.request, first.method, missing)), missing=missing
    )
    later = [
        dataclasses.replace(stage, recipes=tuple(recipes_for(stage.request, stage.method, missing)), missing=missing)
        for stage in plan.stages[1:]
    ]
    return dataclasses.replace(plan, stages=(again, *later))
