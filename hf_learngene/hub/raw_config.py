"""The text of a config.json, checked before a config is built from it: no foreign code, no sizes that nothing can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

from hf_learngene.anatomy.config_fields import ALIASES, largest
from hf_learngene.errors import CheckpointError, UnsupportedSourceError


# Bounded before a config is built: that takes a module for each layer and a name for each label before any weight is missed, so a
# file of a few bytes could take hours and gigabytes.
_SIZES = frozenset(alias for aliases in ALIASES.values() for alias in aliases)


def check_raw(source: str, raw: Mapping[str, Any]) -> None:
    """Refuses a config.json that must not be built.

    Raises:
        UnsupportedSourceError: only code from the repository could build it.
        CheckpointError: a field of another type than it can have, or a size beyond everything that exists.
    """
    kind = raw.get("model_type")
    code = raw.get("auto_map")
    if kind is not None and not isinstance(kind, str):
        raise CheckpointError(f"config.json of `{source}` has model_type={kind!r}, which is no name of a family.")
    if code and kind not in CONFIG_MAPPING:
        raise UnsupportedSourceError(
            f"`{source}` brings code of its own for its {kind!r} models. Code from a repository is never run here; resize a "
            "family that transformers has."
        )
    names = raw.get("architectures")
    if not isinstance(names, (list, type(None))) or not all(isinstance(name, str) for name in names or ()):
        raise CheckpointError(
            f"config.json of `{source}` has architectures={names!r}, which is no list of class names."
        )
    for field in ("dtype", "torch_dtype"):
        if not isinstance(raw.get(field), (str, dict, type(None))):
            raise CheckpointError(
                f"config.json of `{source}` has {field}={raw[field]!r}, which is no name of a dtype."
            )
    _check_sizes(source, raw)


def _check_sizes(source: str, raw: Mapping[str, Any]) -> None:
    for field, value in raw.items():
        if isinstance(value, Mapping):
            _check_sizes(source, value)
            continue
        limit = largest(field)
        numbers = value if isinstance(value, list) else [value]
        if field in _SIZES and any(isinstance(n, (int, float)) and n > limit for n in numbers):
            raise CheckpointError(f"config.json of `{source}` has {field}={value!r}, which is more than {limit:,}.")
