"""`config.learngene`: where a resized model comes from, in plain words that travel with its config."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene._version import __version__
from hf_learngene.errors import ProvenanceError
from hf_learngene.hub.fingerprint import fingerprint, same_weights


FORMAT = 1


class Planned(Protocol):
    """A plan as far as a card tells of it; `hf_learngene.resizing.plan.Plan` is one."""

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
    """Records of what was kept of the vocabulary, oldest first."""
    return [record["kept_tokens"] for record in history(config) if "kept_tokens" in record]


def check(config: PreTrainedConfig) -> None:
    """Refuses a record that this version of the package does not understand, or that no version would have written.

    Raises:
        ProvenanceError: says what is wrong, or both versions.
    """
    before = getattr(config, "learngene", None)
    if before is None:
        return
    if not isinstance(before, dict) or not _is_number(before.get("format")):
        raise ProvenanceError(
            f"config.learngene is no record of this package: {_short(before)}. Remove it from config.json to go on."
        )
    if before["format"] > FORMAT:
        version = before.get("package_version") if _is_name(before.get("package_version")) else "?"
        raise ProvenanceError(
            f"config.learngene has format {before['format']}, written by hf_learngene {version}; this is {__version__} and "
            f"understands up to format {FORMAT}. Upgrade with `pip install -U hf_learngene`."
        )
    _check_fields(before, "")
    for number, earlier in enumerate(before["history"]):
        if not isinstance(earlier, dict):
            raise _wrong(f"history[{number}]", earlier)
        _check_fields({"history": [], **earlier}, f"history[{number}].")


def _check_fields(record: Mapping[str, Any], where: str) -> None:
    """Refuses fields of another form than `entry` gives them: a record is shown on cards, and steers what is loaded."""
    for name, fits in _FIELDS.items():
        value = record.get(name)
        if not fits(value):
            raise _wrong(where + name, value)


def _wrong(name: str, value: Any) -> ProvenanceError:
    return ProvenanceError(
        f"config.learngene is no record of this package: its {name} is {_short(value)}. Remove config.learngene from "
        "config.json to go on."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_line(value: Any) -> bool:
    """Whether it is a text of one line, as names of folders and repositories are."""
    return isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w.+-]{1,255}", value) is not None


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{7,64}", value) is not None


def _is_data(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_data, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) for name in value) and all(map(_is_data, value.values()))
    return isinstance(value, (int, float, str, type(None)))


def _is_fields(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_name(name) and _is_data(one) for name, one in value.items())


def _is_pass(value: Any) -> bool:
    return isinstance(value, dict) and _is_name(value.get("method")) and _is_fields(value.get("options"))


def _is_kept(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict) and _is_number(value.get("count")) and _is_digest(value.get("sha256"))
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "package_version": _is_name,
    "source": lambda value: value is None or _is_line(value),
    "source_commit": lambda value: value is None or _is_digest(value),
    "passes": lambda value: isinstance(value, list) and bool(value) and all(map(_is_pass, value)),
    "seed": _is_number,
    "sizes": _is_fields,
    "fresh": lambda value: isinstance(value, list) and all(map(_is_name, value)),
    "history": lambda value: isinstance(value, list),
    "kept_tokens": _is_kept,
    "calibration": lambda value: value is None or _is_fields(value),
    "fallback": lambda value: value is None or _is_fields(value),
    "distillation": lambda value: value is None or _is_fields(value),
    "training": lambda value: value is None or _is_fields(value),
    "weights": lambda value: value is None or (isinstance(value, dict) and all(map(_is_digest, value.values()))),
}


def record_of(config: PreTrainedConfig) -> dict[str, Any]:
    """The record in `config.learngene`.

    Raises:
        ProvenanceError: there is none, or this version of the package does not understand it.
    """
    check(config)
    record = getattr(config, "learngene", None)
    if not record:
        raise ProvenanceError("The model has no config.learngene: it was not resized by this package.")
    return record


def seal(model: PreTrainedModel) -> None:
    """Adds a fingerprint of the weights to `config.learngene`: what is said there of them holds while they have it."""
    model.config.learngene = {**model.config.learngene, "weights": fingerprint(model)}


def as_made(model: PreTrainedModel) -> bool:
    """Whether a model still has the weights that it was sealed with; False once it was trained, or loaded by another class.

    One on meta stands for weights that were written as they were made: it has none of its own that could be others.
    """
    found = fingerprint(model)
    return not found or same_weights(record_of(model.config).get("weights") or {}, found)


def public_name(source: str) -> str:
    """A Hub id as it is; of a local path, its last part."""
    source = os.fspath(source)
    local = os.path.isdir(source) or os.path.isabs(source) or source.startswith((".", "~")) or source.count("/") > 1
    return os.path.basename(os.path.normpath(source)) if local else source


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in values.items()}
