"""`LearngeneConfig`: what a learngene is made for, with the config of the model it was distilled into nested inside."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, cast

import transformers
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from hf_learngene.anatomy.config_fields import check_bounds, native_name, section, section_name
from hf_learngene.anatomy.stages import stage_fields
from hf_learngene.errors import InvalidSizeError, UnknownOptionError, UnsupportedFamilyError
from hf_learngene.methods.base import Paper


FIT_LAYERS = ("picked", "all")
_RESULT = {"dataset", "split", "sizes", "metrics"}


class LearngeneConfig(PreTrainedConfig):
    """Base of every learngene's config.

    Args:
        base_config (`PreTrainedConfig` or `dict`): config of the auxiliary model, any ViT-like or BERT-like family. Its depth
            and width are those the shared parts are trained at.
        base_architecture (`str`, *optional*): class of the auxiliary model, such as `"ViTForImageClassification"`. Defaults
            to the config's first architecture, or to the family's base model where the config names none.
        fitted (`bool`, *optional*, defaults to `False`): whether the shared parts were fitted or trained.
        ancestry (`str`, *optional*): name of the model it comes from.
        ancestry_commit (`str`, *optional*): of the Hub repository it was loaded from.
        ancestry_parameters (`int`, *optional*): how many it has.
        license (`dict`, *optional*): the ancestry's, as its model card has it.
        calibration (`dict`, *optional*): on how many and what examples it was brought to its ancestry, and how far the residual
            stream behind its last layer is from it.
        results (`list[dict]`, *optional*): what was measured of its descendants, see `Learngene.add_result`.
        depth_scale (`bool`, *optional*, defaults to `True`): in models deeper than the auxiliary one, what a layer adds to the
            residual stream is made smaller: by the ratio of the depths before a final norm (pre-norm), by its root in post-norm
            families. `False` is the papers' rule.
        shapes (`dict`, *optional*): shapes of the shared parts and scalers, where the learngene was taken to another size and
            the shared parts are those of the first.

    Raises:
        UnsupportedFamilyError: no base config, or a class that transformers does not have.

    Example:
        >>> from transformers import ViTConfig
        >>> from hf_learngene.learngenes import SwsConfig
        >>> base = ViTConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=6, intermediate_size=64)
        >>> config = SwsConfig(base_config=base, base_architecture="ViTForImageClassification", num_stages=3)
        >>> config.learngene_type, config.base_config.num_hidden_layers
        ('sws', 6)
    """

    model_type = "learngene"
    learngene_type: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    summary: ClassVar[str] = ""
    reach: ClassVar[str] = "Depth is free."  # which sizes it makes, for its card
    works_untrained: ClassVar[bool] = False
    sub_configs = {"base_config": AutoConfig}
    has_no_defaults_at_init = True

    base_config: dict | PreTrainedConfig | None = None
    base_architecture: str | None = None
    fitted: bool = False
    ancestry: str | None = None
    ancestry_commit: str | None = None
    ancestry_parameters: int | None = None
    license: dict | None = None
    calibration: dict | None = None
    results: list | None = None
    depth_scale: bool = True
    shapes: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.base_config is None:
            raise UnsupportedFamilyError(
                f"{type(self).__name__} needs the config of the model it makes: base_config=teacher.config, or "
                "AutoLearngene.from_ancestry(teacher, learngene_type=...)."
            )
        if isinstance(self.base_config, PreTrainedConfig):
            self.base_config = copy.deepcopy(self.base_config)  # the teacher's stays the teacher's
        else:
            self.base_config = _config_of(self.base_config)
        self._check_records()
        self.base_config._name_or_path = ""  # a local path has no place in a published config
        if self.base_architecture is None:
            family = str(MODEL_MAPPING_NAMES.get(self.base_config.model_type, ""))
            self.base_architecture = next(iter(self.base_config.architectures or []), family)
        kwargs.setdefault("id2label", dict(self.base_config.id2label or {}))
        kwargs.setdefault("label2id", dict(self.base_config.label2id or {}))
        super().__post_init__(**kwargs)

    @property
    def base(self) -> PreTrainedConfig:
        """The auxiliary model's config."""
        return cast(PreTrainedConfig, self.base_config)

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """The native class of the auxiliary model and of every descendant."""
        name = self.base_architecture
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
            raise UnsupportedFamilyError(
                f"base_architecture is a transformers class such as 'ViTForImageClassification'; it was {name or None!r}."
            )
        return found

    @property
    def stage_depths(self) -> tuple[int, ...]:
        """Blocks of each stage, where the auxiliary model is a hierarchy; of any other, nothing."""
        part = self._part()
        field = stage_fields(part).get("num_hidden_layers")
        return field.read(getattr(part, field.native), 0) if field is not None else ()

    def _part(self) -> PreTrainedConfig:
        # of an image classifier of CLIP or SigLIP, the image side's
        return section(self.base, section_name(self.base, self.model_class.main_input_name))

    @property
    def auxiliary_depth(self) -> int:
        """The auxiliary model's number of layers.

        Raises:
            UnsupportedFamilyError: its config has no number of layers, or one for each of several stages.
        """
        part = self._part()
        if self.stage_depths:
            raise UnsupportedFamilyError(
                f"`{self.learngene_type}` is made for an encoder with one number of layers, and `{part.model_type}` is a "
                f"hierarchy whose stages have {', '.join(map(str, self.stage_depths))} blocks."
            )
        depth = getattr(part, native_name(part, "num_hidden_layers") or "num_hidden_layers", None)
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise UnsupportedFamilyError(
                f"A learngene is made for an encoder with a number of layers, and `{part.model_type}` has {depth!r}."
            )
        return depth

    def _check_records(self) -> None:
        """Refuses records of a damaged file, which would fail later and elsewhere."""
        results = self.results if self.results is not None else []
        if not isinstance(results, list) or not all(isinstance(r, dict) and r.keys() >= _RESULT for r in results):
            raise UnknownOptionError(f"results is a list of what `add_result` records; it was {self.results!r}.")
        if not isinstance(self.calibration, dict | None):
            raise UnknownOptionError(f"calibration tells of examples, or is None; it was {self.calibration!r}.")
        if not isinstance(self.license, dict | None):
            raise UnknownOptionError(f"license holds the license fields of a model card; it was {self.license!r}.")
        shapes = self.shapes if self.shapes is not None else {}
        if not isinstance(shapes, dict) or not all(_is_shape(s) for s in shapes.values()):
            raise InvalidSizeError(f"shapes names a list of sizes for each parameter; it was {self.shapes!r}.")

    def options(self) -> dict[str, Any]:
        """The options of this kind of learngene, as plain data."""
        return {name: getattr(self, name) for name in self.option_names()}

    @classmethod
    def option_names(cls) -> list[str]:
        return [n for n in cls.__annotations__ if n not in LearngeneConfig.__annotations__ and not n.startswith("_")]

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> None:
        """Refuses options that this kind of learngene does not have."""
        for name in options:
            if name not in cls.option_names():
                raise UnknownOptionError(
                    f"{cls.learngene_type} has no option {name!r}; it has {', '.join(cls.option_names()) or 'none'}."
                )


def _config_of(given: Any) -> PreTrainedConfig:
    """The auxiliary model's config from plain data."""
    kind = given.get("model_type") if isinstance(given, dict) else None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise UnsupportedFamilyError(
            f"base_config is a config of transformers, or its dict with a model_type of its own; it was "
            f"{f'of model_type {kind!r}' if isinstance(given, dict) else repr(given)}."
        )
    for part in (given, *(v for v in given.values() if isinstance(v, dict) and "model_type" in v)):
        check_bounds(part)
    try:
        return AutoConfig.for_model(**given)
    except Exception as error:  # a config class raises whatever its first look at a field happens to raise
        said = " ".join(str(error).split())[:300]
        raise UnsupportedFamilyError(
            f"base_config does not describe a `{kind}`: {said or type(error).__name__}"
        ) from error


def _is_shape(given: Any) -> bool:
    return isinstance(given, list | tuple) and all(type(n) is int and n >= 0 for n in given)


def check_count(name: str, value: Any, optional: bool = True) -> None:
    """Refuses what is no whole number from 1; None where it is `optional`.

    Raises:
        InvalidSizeError: says what was given.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSizeError(f"{name} is at least 1, and a whole number; it was {value!r}.")


def check_fit_layers(given: str) -> None:
    """Refuses what is no way to fit a learngene to layers."""
    if not isinstance(given, str) or given not in FIT_LAYERS:
        raise UnknownOptionError(f"fit_layers is one of {', '.join(FIT_LAYERS)}; it was {given!r}.")


__all__ = ["LearngeneConfig", "check_count", "check_fit_layers"]
