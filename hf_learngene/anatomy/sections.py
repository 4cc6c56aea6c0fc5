"""Which nested configs a model's class builds from: one describes its encoder, or each of several describes one of its parts."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from hf_learngene.anatomy.config_fields import (
    LINKED_TO_HIDDEN,
    changed,
    check_bounds,
    native_name,
    nested_configs,
    section,
    section_name,
    width_repeated,
)
from hf_learngene.anatomy.passes import plain_pass, round_trip
from hf_learngene.anatomy.probe import build, shapes
from hf_learngene.anatomy.small import thin
from hf_learngene.errors import UnsupportedFamilyError


_CACHE: OrderedDict[tuple[Any, ...], tuple[str, ...]] = OrderedDict()
_CACHE_SIZE = 64
# Fields that say how wide or deep a part is: where another value of one changes a tensor, the class builds from that config.
_TELLING = ("hidden_size", "num_hidden_layers", "embed_dim", "hidden_sizes", "depths")


def sections_of(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> tuple[str, ...]:
    """Names of the nested configs that a class builds from, in the config's order; `("",)` where the config itself says all.

    Told by trying: of what a class does not read, other sizes change no tensor.

    Args:
        config (`PreTrainedConfig`): the model's config. It is not changed.
        model_class (`type[PreTrainedModel]`): its class.

    Example:
        >>> from transformers import BertConfig, BertModel, CLIPConfig, CLIPForImageClassification, CLIPModel
        >>> sections_of(CLIPConfig(), CLIPModel), sections_of(CLIPConfig(), CLIPForImageClassification)
        (('text_config', 'vision_config'), ('vision_config',))
        >>> sections_of(BertConfig(), BertModel)
        ('',)
    """
    parts = {n: part for n, part in nested_configs(config).items() if _telling(part)}
    if not parts:
        return ("",)
    for part in (config, *parts.values()):
        check_bounds(vars(part))
    key = (json.dumps(json.loads(config.to_json_string(use_diff=False)), sort_keys=True), model_class)
    if key not in _CACHE:
        _CACHE[key] = tuple(n for n in (*_own(config), *parts) if _builds_from(config, model_class, n))
        while len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
    return _CACHE[key] or (section_name(config, model_class.main_input_name),)


def only_section(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> str:
    """The one nested config that describes the encoder of a class, or the empty string.

    Raises:
        UnsupportedFamilyError: there are several, and each has sizes of its own.
    """
    found = sections_of(config, model_class)
    if len(found) > 1:
        raise UnsupportedFamilyError(
            f"`{config.model_type}` as {model_class.__name__} has several parts with sizes of their own: "
            f"{told(config, found)}. {example(found)}{_classes_of_one(config, found)}"
        )
    return found[0]


def _classes_of_one(config: PreTrainedConfig, names: tuple[str, ...]) -> str:
    kinds = [section(config, name).model_type for name in names]
    single = ", ".join(str(name) for kind in kinds if (name := MODEL_MAPPING_NAMES.get(kind)))
    return f" Classes of one part take them without: {single}." if single else ""


def told(config: PreTrainedConfig, names: tuple[str, ...]) -> str:
    """Sections with their widths, for a message: `text_config (hidden_size=512), vision_config (hidden_size=768)`."""
    return ", ".join(f"{name or 'the config itself'}{_width(section(config, name))}" for name in names)


def example(names: tuple[str, ...]) -> str:
    """How a size of a section is asked for, for a message."""
    name = next((n for n in ("vision_config", *names) if n in names and n), names[0])
    return (
        f"Name the section with each size, such as resize(model, **{{'{name}.hidden_size': 384}}) or "
        f"from_pretrained_resized(source, {name}={{'hidden_size': 384}})."
    )


def _width(part: PreTrainedConfig) -> str:
    native = native_name(part, "hidden_size")
    return f" ({native}={getattr(part, native)})" if native else ""


def _own(config: PreTrainedConfig) -> tuple[str, ...]:
    return ("",) if native_name(config, "hidden_size") and native_name(config, "num_hidden_layers") else ()


def _telling(part: PreTrainedConfig) -> dict[str, Any]:
    """Another value for each field that says how wide or deep a part is."""
    found: dict[str, Any] = {}
    for name in _TELLING:
        native = native_name(part, name)
        value = getattr(part, native) if native else None
        if isinstance(value, int) and not isinstance(value, bool):
            found[str(native)] = 2 * value if name in ("hidden_size", "embed_dim") else value + 1
        elif isinstance(value, (list, tuple)) and value and all(isinstance(v, int) for v in value):
            found[str(native)] = type(value)(2 * v if name == "hidden_sizes" else v + 1 for v in value)
    return found


def _builds_from(config: PreTrainedConfig, model_class: type[PreTrainedModel], name: str) -> bool:
    """Whether other sizes in a nested config change a tensor of the class; a refusal says that it was read, too."""
    before = shapes(build(model_class, config))
    for field, value in _telling(section(config, name)).items():
        try:
            after = shapes(build(model_class, changed(config, name, {field: value})))
        except Exception:  # the family's own checks
            return True
        if after != before:
            return True
    return False


# ---- fields elsewhere that repeat the width of a section


def followers_of(model_class: type[PreTrainedModel], config: PreTrainedConfig, section_of: str) -> tuple[str, ...]:
    """Those fields outside a section that have to follow its width: without them, a wider model does not run, or not as saved.

    Args:
        model_class (`type[PreTrainedModel]`): the class.
        config (`PreTrainedConfig`): of few layers. It is not changed.
        section_of (`str`): the section whose width changes.
    """
    candidates = width_repeated(config, section_of)
    if not candidates:
        return ()
    config = _smallest_that_runs(model_class, config, section_of)
    part = section(config, section_of)
    native = str(native_name(part, "hidden_size"))
    width = getattr(part, native)
    repeats = [native, *(n for n in LINKED_TO_HIDDEN if getattr(part, n, None) == width)]
    wide = 2 * width

    def runs(followers: tuple[str, ...]) -> bool:
        try:
            wider = changed(config, section_of, dict.fromkeys(repeats, wide), outside=dict.fromkeys(followers, wide))
            plain_pass(build(model_class, wider), wider, set(), [wider] if looks_at_values else ())
            again = round_trip(wider)
        except Exception:  # any class of error may come from a family's own code
            return False
        return all(_at(again, path) == _at(wider, path) for path in candidates)

    looks_at_values = False
    try:
        plain_pass(build(model_class, config), config, set())
    except Exception:  # then it cannot run on `meta`, whatever its sizes
        looks_at_values = True
    if runs(()):
        return ()
    needed = tuple(c for c in candidates if not runs(tuple(o for o in candidates if o != c)))
    return needed if runs(needed) else candidates


def _smallest_that_runs(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, section_of: str
) -> PreTrainedConfig:
    """A small copy of a config with which the class runs; the config itself where it does not: some tie sizes to each other."""
    small = thin(config, section_of)
    try:
        plain_pass(build(model_class, small), small, set(), [small])
    except Exception:  # any class of error may come from a family's own code
        return config
    return small


def _at(config: PreTrainedConfig, path: str) -> Any:
    place, _, name = path.rpartition(".")
    return getattr(section(config, place), name)


__all__ = ["example", "followers_of", "only_section", "sections_of", "told"]
