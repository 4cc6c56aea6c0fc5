"""What holds one entry for each layer: fields of a config, and dimensions. Found by trying, never by their length alone."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import LAYER_KINDS, LAYER_OUTPUTS, changed, native_name, section
from hf_learngene.anatomy.passes import round_trip
from hf_learngene.anatomy.probe import build


# Pairs, names and lists of indices: other things than layers by what they are called.
_OTHER_THINGS = {
    "image_size",
    "patch_size",
    "architectures",
    "out_features",
    "out_indices",
    "stage_names",
    "languages",
}


def layer_dims(one: nn.Module, depth_one: int, other: nn.Module, depth_other: int) -> dict[str, dict[int, int]]:
    """Parameter -> dimension -> layers that it has an equal block for, in `one`: all of them, or all but the last.

    Args:
        one: a model.
        depth_one: its number of layers.
        other: the same model at another depth.
        depth_other: that depth.
    """
    shapes = {n: p.shape for n, p in other.named_parameters(remove_duplicate=False)}
    found: dict[str, dict[int, int]] = {}
    for name, parameter in one.named_parameters(remove_duplicate=False):
        for i, (size, changed_to) in enumerate(zip(parameter.shape, shapes.get(name, parameter.shape), strict=False)):
            for missing in (0, 1):
                own, others = depth_one - missing, depth_other - missing
                if size != changed_to and own and others and size % own == 0 and size * others == changed_to * own:
                    found.setdefault(name, {})[i] = own
                    break
    return found


def per_layer_fields(model_class: type[PreTrainedModel], config: PreTrainedConfig, section_of: str) -> tuple[str, ...]:
    """Fields with one entry for each layer (`layer_types`, Longformer's `attention_window`).

    A list as long as the depth may be so by chance (BEiT's `pool_scales`). One that belongs to the layers is known by this:
    the family refuses a deeper config in which it stays as it was, and takes one in which it follows.

    Example:
        >>> from transformers import BeitConfig, BeitModel, LongformerConfig, LongformerModel
        >>> per_layer_fields(BeitModel, BeitConfig(num_hidden_layers=4), "")
        ()
        >>> per_layer_fields(LongformerModel, LongformerConfig(num_hidden_layers=2, attention_window=[8, 16]), "")
        ('attention_window',)
    """
    part = section(config, section_of)
    name = native_name(part, "num_hidden_layers")
    depth = getattr(part, name) if name else 0
    lists = [
        field
        for field, value in vars(part).items()
        if isinstance(value, (list, tuple)) and len(value) == depth and field.lstrip("_") not in _OTHER_THINGS
        and field not in (*LAYER_KINDS, *LAYER_OUTPUTS)
    ]  # fmt: skip

    def taken(followers: list[str]) -> bool:
        try:
            deeper = changed(config, section_of, {name or "": depth + 1}, followers)
            again = round_trip(deeper)
            build(model_class, again)
        except Exception:  # any refusal by the family's own checks
            return False
        return bool(getattr(section(again, section_of), name or "") == depth + 1)

    if not lists or taken([]):
        return ()
    found = [field for field in lists if not taken([f for f in lists if f != field])]
    return tuple(found) if taken(found) else ()
