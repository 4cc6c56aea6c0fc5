"""Which fields of a config a model's constructor reads: what it never looks at drives no dimension, and is not probed."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedConfig

from hf_learngene.anatomy.config_fields import changed, section


_WHOLE = {"__dict__", "to_dict", "to_diff_dict", "__iter__", "keys", "items"}  # what gives every field at once


def watched(config: PreTrainedConfig, section_of: str) -> tuple[PreTrainedConfig, set[str]]:
    """A copy of a config, and the names of what is asked of it and of its size section, filled in as that happens.

    Args:
        config (`PreTrainedConfig`): the config. It is not changed.
        section_of (`str`): name of the nested config that holds the sizes, or `""`.

    Example:
        >>> from transformers import Wav2Vec2Config, Wav2Vec2Model
        >>> config, read = watched(Wav2Vec2Config(num_hidden_layers=1), "")
        >>> model = Wav2Vec2Model(config)
        >>> "hidden_size" in read, "mask_time_length" in read
        (True, False)
    """
    copied = changed(config, section_of, {})
    read: set[str] = set()
    for part in {id(c): c for c in (copied, section(copied, section_of))}.values():
        part.__class__ = _watching(type(part), read)
    return copied, read


def told_whole(read: set[str]) -> bool:
    """Whether something asked for every field at once, so that nothing is known of a single one."""
    return bool(read & _WHOLE)


def _watching(base: type[PreTrainedConfig], read: set[str]) -> type[PreTrainedConfig]:
    """A subclass that notes every attribute that is asked of its instances."""

    def note(self: Any, key: str) -> Any:
        read.update((key, base.attribute_map.get(key, key)))
        return base.__getattribute__(self, key)

    def deepcopy(self: Any, memo: dict[int, Any]) -> Any:  # a copy is no look at the fields, but it is watched too
        fields = base.__getattribute__(self, "__dict__")
        new = base.__new__(type(self))
        memo[id(self)] = new
        base.__getattribute__(new, "__dict__").update(copy.deepcopy(fields, memo))
        return new

    return type(base.__name__, (base,), {"__getattribute__": note, "__deepcopy__": deepcopy})
