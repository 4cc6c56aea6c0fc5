"""`config.learngene`: where a resized model comes from, in plain words that travel with its config."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene._version import __version__
from hf_learngene.errors import ProvenanceError


FORMAT = 1


class Planned(Protocol):
    """What a card tells of a plan; `hf_learngene.resizing.plan.Plan` is one."""

    @property
    def target_config(self) -> PreTrainedConfig: ...
    @property
    def source_config(self) -> PreTrainedConfig: ...
    @property
    def model_class(self) -> type[PreTrainedModel]: ...
    @property
    def num_parameters(self) -> int: ...
    @property
    def source_parameters(self) -> int: ...
    def record(self, source: str | None, commit: str | None) -> dict[str, Any]: ...


def entry(
    *,
    source: str | None,
    commit: str | None,
    passes: Sequence[tuple[str, Mapping[str, Any]]],
    seed: int,
    sizes: Mapping[str, Any],
    fresh: Sequence[str],
    before: PreTrainedConfig,
) -> dict[str, Any]:
    """One record; `passes` are (method, options) pairs, `before` is the config whose history goes on."""
    return {
        "format": FORMAT,
        "package_version": __version__,
        "source": source,
        "source_commit": commit,
        "passes": [{"method": method, "options": _plain(options)} for method, options in passes],
        "seed": seed,
        "sizes": _plain(sizes),
        "fresh": list(fresh),
        "history": history(before),
    }


def history(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """Records of earlier resizes, oldest first."""
    before = getattr(config, "learngene", None)
    if not before:
        return []
    return [*before.get("history", []), {k: v for k, v in before.items() if k != "history"}]


def vocabularies(config: PreTrainedConfig) -> list[dict[str, Any]]:
    """What was kept of the vocabulary, each time that some of it was; oldest first."""
    return [record["kept_tokens"] for record in history(config) if "kept_tokens" in record]


def check(config: PreTrainedConfig) -> None:
    """Refuses a record that a newer version of the package wrote.

    Raises:
        ProvenanceError: says both versions.
    """
    before = getattr(config, "learngene", None)
    if before is None:
        return
    if not isinstance(before, dict) or not isinstance(before.get("format"), int):
        raise ProvenanceError(
            f"config.learngene is no record of this package: {before!r}. Remove it from config.json to go on."
        )
    if before["format"] > FORMAT:
        raise ProvenanceError(
            f"config.learngene has format {before['format']}, written by hf_learngene {before.get('package_version', '?')}; "
            f"this is {__version__} and understands up to format {FORMAT}. Upgrade with `pip install -U hf_learngene`."
        )


def public_name(source: str) -> str:
    """A Hub id as it is; of a local path, its last part."""
    source = os.fspath(source)
    local = os.path.isdir(source) or os.path.isabs(source) or source.startswith((".", "~")) or source.count("/") > 1
    return os.path.basename(os.path.normpath(source)) if local else source


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in values.items()}
