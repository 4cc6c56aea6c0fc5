"""Checkpoints read: config and weights of one state of the Hub or of a folder, or a typed error that says why not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import resolve_revision

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.admit import admit_no_learngene
from hf_learngene.disk import check_files
from hf_learngene.errors import CheckpointError, LearngeneError, UnsupportedSourceError, first_line
from hf_learngene.hub import provenance
from hf_learngene.hub.files import hub_keywords
from hf_learngene.hub.index import check_index
from hf_learngene.hub.raw_config import check_raw
from hf_learngene.hub.tasks import class_of_checkpoint


def load_config(source: str | os.PathLike, loading: Mapping[str, Any]) -> PreTrainedConfig:
    """The config of a checkpoint, and nothing else of it. Code that lies beside it is never run.

    Raises:
        CheckpointError: no such checkpoint, not cached and offline, or no usable config.
        UnsupportedSourceError: it is quantized, or of a family that transformers does not have.
        ProvenanceError: its `config.learngene` is no record that this version of the package understands.
    """
    keywords = hub_keywords(loading)
    check_files(source)
    try:
        raw, _ = PreTrainedConfig.get_config_dict(source, **keywords)
        check_raw(str(source), raw)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **keywords)
    except LearngeneError:
        raise
    except Exception as error:  # config classes raise what they like for values of another type
        raise CheckpointError(_not_found(str(source), error)) from error
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedSourceError(
            f"`{source}` is quantized; packed weights cannot be resized. Name the checkpoint it was made from, "
            "and quantize the result."
        )
    provenance.check(config)
    return config


_INITIALIZE = (
    "It makes models of other sizes itself: AutoLearngene.from_pretrained(...).initialize(num_hidden_layers=...), or "
    "hf-learngene init."
)


def _not_found(source: str, error: Exception) -> str:
    # not registered with transformers until hf_learngene.learngenes is imported
    if "model type `learngene_" in str(error):
        return f"`{source}` is a learngene. {_INITIALIZE}"
    if os.path.isdir(source):
        return f"The folder `{source}` holds no usable config.json: {' '.join(str(error).split())}"
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
    if getattr(getattr(model_class, "config_class", None), "learngene_type", None) is not None:
        raise UnsupportedSourceError(f"A {model_class.__name__} is a learngene. {_INITIALIZE}")
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


def read_model(
    source: str | os.PathLike, cls: type[PreTrainedModel], config: PreTrainedConfig, loading: Mapping[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A checkpoint's model, and what transformers says of the loading.

    Raises:
        CheckpointError: weights that are absent or unreadable, or that do not fit the config.
    """
    from safetensors import SafetensorError

    check_index(source, loading)
    keywords = {"config": config, "trust_remote_code": False, "output_loading_info": True, **loading}
    try:
        loaded: Any = cls.from_pretrained(source, **keywords)
    except SafetensorError as error:
        raise CheckpointError(
            f"The weights of `{source}` are truncated or no safetensors file: {error}. Fetch them again, from the "
            "Hub with force_download=True."
        ) from error
    except (OSError, EOFError) as error:
        raise CheckpointError(f"The weights of `{source}` cannot be read: {first_line(error)}") from error
    except ValueError as error:  # a keyword of from_pretrained that transformers does not accept
        raise CheckpointError(f"`{source}` cannot be loaded as asked: {first_line(error)}") from error
    except RuntimeError as error:
        raise CheckpointError(f"The weights of `{source}` do not fit its own config: {first_line(error)}") from error
    except Exception as error:  # what a damaged pickle or index makes of the reader
        raise CheckpointError(
            f"The weights of `{source}` are damaged or no weights: {type(error).__name__}: {first_line(error)}"
        ) from error
    return loaded


def load_source(
    source: str | os.PathLike,
    cls: type[PreTrainedModel],
    config: PreTrainedConfig,
    anatomy: Anatomy,
    loading: Mapping[str, Any],
) -> tuple[PreTrainedModel, frozenset[str]]:
    """The source model, and the names of its parameters that the checkpoint did not hold.

    Raises:
        CheckpointError: weights that are absent or unreadable, or an encoder that the checkpoint does not fill.
    """
    model, info = read_model(source, cls, config, loading)
    missing = frozenset(anatomy.ties.get(k, k) for k in info["missing_keys"]) & anatomy.tensors.keys()
    body = sorted(k for k in missing if anatomy.tensors[k].layer is not None)
    if body:
        stray = sorted(info.get("unexpected_keys", ()))
        found = f" It holds {stray[0]!r} and other names that do not load." if stray else ""
        raise CheckpointError(
            f"`{source}` does not fill {cls.__name__}: {len(body)} encoder tensors are absent, the first `{body[0]}`.{found} "
            f"Is it a checkpoint of another architecture?"
        )
    return model, missing


def load_whole(
    source: str | os.PathLike, model_class: type[PreTrainedModel] | None = None, **loading: Any
) -> PreTrainedModel:
    """The model of a checkpoint with nothing in it drawn at random: a teacher, or what is to be compared.

    Args:
        source: a Hub id or a folder.
        model_class: the class to fill; default: the one that the checkpoint was saved from.
        **loading: keywords of `from_pretrained`.

    Raises:
        CheckpointError: it cannot be read, or does not fill the class.
    """
    config = load_config(source, loading)
    admit_no_learngene(config)
    cls = model_class if model_class is not None else class_of_checkpoint(config)
    model, info = read_model(source, cls, config, loading)
    if info["missing_keys"] and all("pooler" in name for name in info["missing_keys"]):
        model, info = read_model(source, cls, config, {**loading, "add_pooling_layer": False})
    if info["missing_keys"]:
        raise CheckpointError(
            f"`{source}` holds no {min(info['missing_keys'])!r}: what {cls.__name__} gives would be random."
        )
    return model
