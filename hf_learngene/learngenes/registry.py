"""Which learngenes there are. Adding one is a folder with a config and a model, and one call here."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

from transformers import AutoConfig, AutoModel
from transformers.models.auto.auto_factory import _LazyAutoMapping

from hf_learngene.errors import UnknownOptionError, nearest
from hf_learngene.hub.card_parts import DESCRIBED, Described
from hf_learngene.learngenes.base import Learngene
from hf_learngene.learngenes.config import LearngeneConfig


LEARNGENE_CONFIGS: dict[str, type[LearngeneConfig]] = {}
# A mapping of our own: transformers' own ones are only added to under model types of our own.
LEARNGENE_MAPPING = _LazyAutoMapping(OrderedDict(), OrderedDict())


def register_learngene(config_class: type[LearngeneConfig], model_class: type[Learngene]) -> None:
    """Makes a learngene known to `AutoLearngene`, `AutoLearngeneConfig`, and to transformers' `AutoConfig` and `AutoModel`.

    Args:
        config_class (`type[LearngeneConfig]`): with a `learngene_type` and a `model_type` of its own.
        model_class (`type[Learngene]`): its `config_class` must be `config_class`.

    Raises:
        UnknownOptionError: a name that is taken or missing, or classes that do not belong together.

    Example:
        >>> from hf_learngene.learngenes import SwsConfig, SwsLearngene
        >>> register_learngene(SwsConfig, SwsLearngene)
        Traceback (most recent call last):
        hf_learngene.errors.UnknownOptionError: learngene_type 'sws' is taken by SwsConfig.
    """
    kind = config_class.learngene_type
    if not kind or config_class.model_type == LearngeneConfig.model_type:
        raise UnknownOptionError(f"{config_class.__name__} needs a learngene_type and a model_type of its own.")
    if kind in LEARNGENE_CONFIGS:
        raise UnknownOptionError(f"learngene_type {kind!r} is taken by {LEARNGENE_CONFIGS[kind].__name__}.")
    if model_class.config_class is not config_class:
        raise UnknownOptionError(
            f"{model_class.__name__}.config_class is {model_class.config_class.__name__}, not {config_class.__name__}."
        )
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
    LEARNGENE_MAPPING.register(config_class, cast(Any, model_class))
    LEARNGENE_CONFIGS[kind] = config_class
    DESCRIBED[kind] = Described(config_class.summary, config_class.paper, config_class.works_untrained)


def registered_learngenes() -> dict[str, type[LearngeneConfig]]:
    """Registered learngenes: learngene_type -> config class.

    Example:
        >>> import hf_learngene.learngenes
        >>> "wave" in registered_learngenes()
        True
    """
    return dict(LEARNGENE_CONFIGS)


def learngene_class_of(learngene_type: str) -> type[Learngene]:
    """The class of a learngene type.

    Raises:
        UnknownOptionError: names the nearest type.
    """
    return cast(type[Learngene], LEARNGENE_MAPPING[config_class_of(learngene_type)])


def config_class_of(learngene_type: str) -> type[LearngeneConfig]:
    """The config class of a learngene type.

    Raises:
        UnknownOptionError: names the nearest type.
    """
    if learngene_type not in LEARNGENE_CONFIGS:
        names = sorted(LEARNGENE_CONFIGS)
        raise UnknownOptionError(
            f"learngene_type is one of {', '.join(names)}; it was {learngene_type!r}.{nearest(str(learngene_type), names)}"
        )
    return LEARNGENE_CONFIGS[learngene_type]
