"""Whether a model is the one that a plan was made for."""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.errors import UnsupportedSourceError


# Fields that say where a config comes from or how its weights are held, not what the model is.
_ORIGIN = ("_name_or_path", "transformers_version", "learngene", "architectures", "dtype")


def check_planned(config: PreTrainedConfig, model_class: type[PreTrainedModel], model: PreTrainedModel) -> None:
    """Refuses a model of another class or config than a plan was made for.

    Raises:
        UnsupportedSourceError: names the first fields that differ, with both values.
    """
    if not isinstance(model, model_class):
        raise UnsupportedSourceError(
            f"The plan is for a {model_class.__name__}, and this is a {type(model).__name__}. `plan(model, ...)` makes one."
        )
    wanted, found = _fields(config), _fields(model.config)
    other = [name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)]
    if other:
        told = ", ".join(f"{n}={_short(wanted.get(n))} (here {_short(found.get(n))})" for n in other[:3])
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise UnsupportedSourceError(
            f"The plan is for a {model_class.__name__} with {told}{more}. `plan(model, ...)` makes one for this model."
        )


def _fields(config: PreTrainedConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {name: _plain(value) for name, value in content.items() if name not in _ORIGIN}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items() if name not in _ORIGIN}
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


__all__ = ["check_planned"]
