"""The place that a model came from, where its tokenizer and its licence still are."""

from __future__ import annotations

import os
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.hub.files import PROCESSOR_FILES, TOKENIZER_FILES, source_files
from hf_learngene.hub.provenance import public_name


_BESIDE_WEIGHTS = ("README.md", *TOKENIZER_FILES, *PROCESSOR_FILES)


def origin(model: PreTrainedModel) -> tuple[str | None, dict[str, Any]]:
    """Id or folder where tokenizer and licence of a model lie, and the keywords that load them in the state of its weights.

    It is the place the model was loaded from (`model.name_or_path`); where that is gone, or holds but weights and config, the
    Hub id on record in `config.learngene`. (None, {}) for a model that was made by nothing of this package, or that comes
    from nowhere.
    """
    if not getattr(model.config, "learngene", None):
        return None, {}
    place, (recorded, pinned) = model.name_or_path or None, recorded_source(model.config)
    if recorded is not None and ((place == recorded and pinned) or _tells_nothing(place)):
        return recorded, pinned
    if place is not None and not os.path.isdir(place) and not _on_hub(place):  # a folder that is gone
        return None, {}
    commit = getattr(model.config, "_commit_hash", None)  # of the repository that it was loaded from
    return place, {"revision": commit} if commit else {}


def recorded_source(config: PreTrainedConfig) -> tuple[str | None, dict[str, Any]]:
    """(Hub id of what a model was made from, keywords that load it as it was then); (None, {}) where it was a folder."""
    record = getattr(config, "learngene", None) or {}
    name, commit = record.get("source"), record.get("source_commit")
    if not name or not (commit or "/" in name):
        return None, {}
    return name, {"revision": commit} if commit else {}


def _on_hub(place: str) -> bool:
    """Whether a name that is no folder is a Hub id: one without an owner could be a folder that is gone."""
    if public_name(place) != place:
        return False
    return "/" in place or isinstance(try_to_load_from_cache(place, "config.json"), str)


def _tells_nothing(place: str | None) -> bool:
    """Whether a model came from nowhere, or from a folder that is gone or holds but its weights and config."""
    if place is None or not os.path.isdir(place):
        return place is None or not _on_hub(place)
    return not source_files(place, _BESIDE_WEIGHTS, {})
