"""Sizes by the section of a config that they belong to: `vision_config.hidden_size`, or `vision_config={"hidden_size": ...}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import check_bounds, nested_configs
from hf_learngene.anatomy.sections import example, sections_of, told
from hf_learngene.errors import LearngeneError, UnknownOptionError, UnsupportedFamilyError, nearest


# What stands in the config itself, whatever part of the model is resized.
_OF_THE_WHOLE = ("num_labels",)


def flat(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes with those that came as a mapping named by their section.

    Raises:
        UnknownOptionError: one size given in both ways, or a mapping of none.

    Example:
        >>> flat({"vision_config": {"hidden_size": 384}, "text_config.num_hidden_layers": 6})
        {'vision_config.hidden_size': 384, 'text_config.num_hidden_layers': 6}
    """
    found: dict[str, Any] = {}
    for name, value in sizes.items():
        if isinstance(value, Mapping) and not value:
            raise UnknownOptionError(
                f"{name}={{}} asks for nothing. Leave it out, or name sizes: {name}={{'hidden_size': 384}}."
            )
        for full, one in (
            {f"{name}.{n}": v for n, v in value.items()}.items() if isinstance(value, Mapping) else [(name, value)]
        ):
            if full in found:
                raise UnknownOptionError(f"{full!r} was given twice.")
            found[full] = one
    return found


def by_section(
    sizes: Mapping[str, Any], config: PreTrainedConfig, model_class: type[PreTrainedModel]
) -> dict[str, dict[str, Any]]:
    """Section -> the sizes that are asked of it, in the config's order; sections that nothing is asked of are left out.

    A class that builds from one config takes its sizes with or without the section's name.

    Args:
        sizes: what is asked for; names of sections stand before a dot.
        config: of the source.
        model_class: of the source.

    Raises:
        UnknownOptionError: a section that the class does not have, or, of several, no section.

    Example:
        >>> from transformers import CLIPConfig, CLIPModel
        >>> by_section({"vision_config.hidden_size": 384}, CLIPConfig(), CLIPModel)
        {'vision_config': {'hidden_size': 384}}
    """
    check_bounds(vars(config))
    known = _sections(config, model_class)
    found: dict[str, dict[str, Any]] = {}
    whole: dict[str, Any] = {}
    for name, value in sizes.items():
        place, own = _parted(name)
        if place and place not in known:
            raise UnknownOptionError(_no_section(place, own, known, config, model_class))
        if len(known) > 1 and not place:
            if own not in _OF_THE_WHOLE:
                raise UnknownOptionError(_no_place(own, known, config, model_class))
            whole[own] = value
            continue
        found.setdefault(place or known[0], {})[own] = value
    if not found:
        return {known[0]: whole}
    ordered = {name: found[name] for name in known if name in found}
    first = next(iter(ordered))
    return {name: {**one, **(whole if name == first else {})} for name, one in ordered.items()}


def check_several(unfit: Mapping[str, Any], config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> None:
    """Refuses what says nothing of a section, of a class that builds from several.

    Args:
        unfit: what was given beside sizes that only a model of one encoder can take, by its keyword; None where it was not.
        config: of the source.
        model_class: of the source.

    Raises:
        UnknownOptionError: says how a section's sizes are named.
    """
    known = _sections(config, model_class)
    given = next((name for name, value in unfit.items() if value is not None), None)
    if len(known) < 2 or given is None:
        return
    raise UnknownOptionError(
        f"{given}= does not say which part of `{config.model_type}` as {model_class.__name__} it is for: "
        f"{told(config, known)}. {example(known)}"
    )


def _parted(name: str) -> tuple[str, str]:
    """Section and size of a name; what ends in a number names a stage (`backbone_config.depths.2`)."""
    place, _, own = name.rpartition(".")
    if own.isdigit():
        place, _, size = place.rpartition(".")
        own = f"{size}.{own}"
    return place, own


def _sections(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> tuple[str, ...]:
    try:
        return sections_of(config, model_class)
    except LearngeneError:
        raise
    except Exception as error:  # a class of another kind may fail anywhere
        raise UnsupportedFamilyError(
            f"{model_class.__name__} cannot be built from its config alone: {error or type(error).__name__}"
        ) from error


def _no_place(own: str, known: tuple[str, ...], config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> str:
    return (
        f"`{config.model_type}` as {model_class.__name__} has several parts with sizes of their own, so {own} alone does not say "
        f"which: {told(config, known)}. {example(known)}"
    )


def _no_section(
    place: str, own: str, known: tuple[str, ...], config: PreTrainedConfig, model_class: type[PreTrainedModel]
) -> str:
    name = model_class.__name__
    if place in nested_configs(config):
        said = f"{name} builds nothing from `{place}`"
    else:
        said = f"`{config.model_type}` as {name} has no section {place!r}"
    if known == ("",):
        return f"{said}; its sizes stand in the config itself, such as {own}=..."
    return f"{said}; it has {', '.join(n for n in known if n)}.{nearest(place, known)}"


__all__ = ["by_section", "check_several", "flat"]
