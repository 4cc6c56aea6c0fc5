"""Stacks of layers beside the encoder, a decoder's or another tower's: two layers of one show what sizes do to all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import changed, native_name, nested_configs, other_integers, section
from hf_learngene.anatomy.probe import LISTS, build, shapes


_LAYERS = 2  # the first and the last, as of the encoder itself


@dataclass(frozen=True)
class Sample:
    """A model whose other stacks are short, and whose layer stands for which of the whole model.

    Attributes:
        config: its config.
        model: on `meta`.
        depths: module list -> number of layers in the whole model. The first stands for itself, the other for the rest.
        fields: the fields that say so, in the section itself; they change no shape.
    """

    config: PreTrainedConfig
    model: PreTrainedModel
    depths: Mapping[str, int]
    fields: frozenset[str] = frozenset()

    def stand_in(self, name: str) -> str:
        """The sample's parameter or module for one of the whole model."""
        for stack in self.depths:
            if name.startswith(f"{stack}."):
                number, dot, rest = name[len(stack) + 1 :].partition(".")
                return f"{stack}.{0 if number == '0' else 1}{dot}{rest}"
        return name


def sample_of(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    section_of: str,
    model: PreTrainedModel,
    containers: Sequence[str],
) -> Sample:
    """The model with two layers in each stack beside the encoder whose depth a field says, so that builds of it are fast.

    Args:
        model_class (`type[PreTrainedModel]`): the class.
        config (`PreTrainedConfig`): the model's. It is not changed.
        section_of (`str`): name of the nested config that holds the encoder's sizes, or `""`.
        model (`PreTrainedModel`): on `meta`.
        containers (`Sequence[str]`): the encoder's own lists of layers.

    Returns:
        `Sample`: the model itself where no stack can be shortened: each parameter that is left out needs one of its shape.

    Example:
        >>> from transformers import ViTMAEConfig, ViTMAEForPreTraining
        >>> config = ViTMAEConfig(num_hidden_layers=2)
        >>> sample = sample_of(ViTMAEForPreTraining, config, "", build(ViTMAEForPreTraining, config), ["vit.encoder.layer"])
        >>> sample.config.decoder_num_hidden_layers, sample.stand_in("decoder.decoder_layers.6.layernorm_before.weight")
        (2, 'decoder.decoder_layers.1.layernorm_before.weight')
    """
    found = Sample(config, model, {})
    lengths = {n: len(m) for n, m in model.named_modules() if isinstance(m, LISTS) and n not in containers}
    for path, depth in _depths(config, section_of):
        stacks = {n: depth for n, length in lengths.items() if length == depth}
        if stacks and depth > _LAYERS:
            found = _shortened(model_class, found, section_of, path, stacks, model) or found
    return found


def _depths(config: PreTrainedConfig, section_of: str) -> list[tuple[str, int]]:
    """Fields that may say how many layers another stack has, by the path to each, with their values."""
    part = section(config, section_of)
    prefix = f"{section_of}." if section_of else ""
    paths = [f"{prefix}{name}" for name in other_integers(part)]
    for name, other in nested_configs(config).items() if section_of else ():
        native = native_name(other, "num_hidden_layers")
        if name != section_of and native is not None:
            paths.append(f"{name}.{native}")
    values = [(path, _value(config, path)) for path in paths]
    return [(path, value) for path, value in values if isinstance(value, int)]


def _value(config: PreTrainedConfig, path: str) -> object:
    place, _, name = path.rpartition(".")
    return getattr(section(config, place), name)


def _shortened(
    model_class: type[PreTrainedModel],
    known: Sample,
    section_of: str,
    path: str,
    stacks: Mapping[str, int],
    whole: PreTrainedModel,
) -> Sample | None:
    """The sample with one field less; None where its layers do not stand for all."""
    config = changed(known.config, section_of, {}, outside={path: _LAYERS})
    try:
        model = build(model_class, config)
    except Exception:  # any refusal by the family's own checks: lists with an entry for each layer, for one
        return None
    lists = {n: len(m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    short = {n: depth for n, depth in stacks.items() if lists.get(n) == _LAYERS}
    place, _, name = path.rpartition(".")
    own = {name} if place == section_of else set()
    sample = Sample(config, model, {**known.depths, **short}, known.fields | own)
    there, needed = shapes(model), shapes(whole)
    alike = all(there.get(sample.stand_in(name)) == shape for name, shape in needed.items())
    return sample if short and alike and there.keys() == {sample.stand_in(n) for n in needed} else None


__all__ = ["Sample", "sample_of"]
