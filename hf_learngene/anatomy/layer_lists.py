"""Which fields of a config hold one entry for each layer. Found by trying, never by their length alone."""

from __future__ import annotations

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
