"""Which families are let in. What is not understood with certainty is refused, never resized wrongly."""

from __future__ import annotations

from inspect import signature
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from hf_learngene.anatomy.axes import UNKNOWN
from hf_learngene.anatomy.config_fields import native_name
from hf_learngene.anatomy.registry import declaration_of
from hf_learngene.anatomy.stages import stage_fields
from hf_learngene.anatomy.types import AXES, HEADS, HIDDEN
from hf_learngene.anatomy.whole import Anatomy
from hf_learngene.errors import UnsupportedFamilyError, UnsupportedSourceError


ALLOWED = (
    "hf_learngene resizes encoders of one width throughout (ViT-like and BERT-like), or of stages that their config lists "
    "(Swin-like)."
)


def admit_no_learngene(config: PreTrainedConfig) -> None:
    """Refuses a learngene where a model is asked for: it is the weights of many models, and itself none of them.

    Raises:
        UnsupportedSourceError: says how to make a model of it.
    """
    if kind := getattr(config, "learngene_type", ""):
        raise UnsupportedSourceError(
            f"This is a learngene (`{kind}`), which makes models and is none. Give what it makes: "
            "learngene.initialize(num_hidden_layers=6), with learngene = AutoLearngene.from_pretrained(...)."
        )


def admit_config(config: PreTrainedConfig, part: PreTrainedConfig, model_class: type[PreTrainedModel]) -> None:
    """Refuses, from the config alone, what is no isotropic encoder.

    Raises:
        UnsupportedFamilyError: says which kind of architecture it is and what is allowed.
    """
    kind = part.model_type
    if part is config and config.is_encoder_decoder and _decodes(part, model_class):
        raise UnsupportedFamilyError(f"`{kind}` as {model_class.__name__} is an encoder-decoder model. {ALLOWED}")
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if part is not config and getattr(part, "is_decoder", False) and model_class.can_generate():
        raise UnsupportedFamilyError(
            f"The `{kind}` inside {model_class.__name__} is the decoder that writes its texts, and stays as it is. {ALLOWED}"
        )
    named = model_class.__name__.endswith("ForCausalLM")
    decodes = part is config and (getattr(part, "is_decoder", False) and not _encodes_by_default(model_class) or named)
    if decodes or (causal and not config.is_encoder_decoder):  # the encoder of such a family is one (Whisper)
        raise UnsupportedFamilyError(f"`{kind}` as {model_class.__name__} is a decoder-only model. {ALLOWED}")
    if stage_fields(part):
        return
    for name in ("hidden_size", "num_hidden_layers"):
        value: Any = (native := native_name(part, name)) and getattr(part, native)
        if not isinstance(value, int):
            shown = f"{native} = {value!r}" if native else f"no `{name}`"
            raise UnsupportedFamilyError(
                f"`{kind}` is a convolutional or hierarchical family: its config has {shown}, not one number. {ALLOWED}"
            )
    stages = next(
        (n for n in ("hidden_sizes", "embed_dims") if isinstance(getattr(part, n, None), (list, tuple))), None
    )
    if stages:
        raise UnsupportedFamilyError(
            f"`{kind}` is a hierarchical family: its stages have widths of their own (`{stages}`), and its config does not list "
            f"how many blocks each has. {ALLOWED}"
        )


def refuse_stages(anatomy: Anatomy, why: str) -> None:
    """Refuses a hierarchy where something is made for one width and one depth.

    Raises:
        UnsupportedFamilyError: says what is, and which sizes can be given.
    """
    if anatomy.num_stages:
        natives = ", ".join(f"{field.native}=" for field in anatomy.stage_fields.values())
        raise UnsupportedFamilyError(
            f"{why}, and `{anatomy.model_type}` is a hierarchy of {anatomy.num_stages} stages with sizes of their own. "
            f"resize and plan take them: {natives}."
        )


def refuse_kinds(anatomy: Anatomy, why: str) -> None:
    """Refuses layers of several kinds where something makes one layer of several.

    Raises:
        UnsupportedFamilyError: names a tensor that they have at different lengths.
    """
    if not anatomy.num_stages and anatomy.stage is None and (name := anatomy.of_several_shapes):
        raise UnsupportedFamilyError(
            f"{why}, and `{anatomy.model_type}` has layers of several kinds: `{name}` is longer in some than in others. "
            "method='lemon' grows it without loss, 'weight_selection' and 'calibrated' shrink it."
        )


def _encodes_by_default(model_class: type[PreTrainedModel]) -> bool:
    """Whether a class reads both ways unless a call says otherwise: its config's `is_decoder` adds cross-attention (BLIP's)."""
    asked = signature(model_class.forward).parameters.get("is_decoder")
    return asked is not None and asked.default is False


def _decodes(part: PreTrainedConfig, model_class: type[PreTrainedModel]) -> bool:
    """Whether a class of an encoder-decoder family has the decoder: `T5EncoderModel` has none, whatever its config says.

    It shows in its inputs, or in a config that counts the layers of both apart (`encoder_layers`).
    """
    inputs = signature(model_class.forward).parameters
    return any(name.startswith("decoder_") for name in inputs) or not hasattr(part, "num_hidden_layers")


def admit_tensors(anatomy: Anatomy) -> None:
    """Refuses a family with a tensor or a flow that stayed unknown.

    Raises:
        UnsupportedFamilyError: names the tensors and shows how to declare them.
    """
    unknown = [t for t in anatomy.templates.values() if any(d.axis == UNKNOWN for d in t.dims)]
    if unknown:
        shown = "; ".join(f"{t.template} {t.shape}" for t in unknown[:3])
        raise UnsupportedFamilyError(
            f"`{anatomy.model_type}`: no size field explains {len(unknown)} tensor(s): {shown}. Declare their axes with "
            f"register_anatomy({anatomy.model_type!r}, axes={{r'<name>$': ('hidden', ...)}})."
            f"{_unmatched(anatomy)}"
        )
    for part in anatomy.parts:
        _admit_flow(part)


def _admit_flow(anatomy: Anatomy) -> None:
    """Refuses a model, or a stage of one, whose attention or whose norms were not found. Blocks without attention need none."""
    # attention may have a width of its own
    apart = {t.role for t in anatomy.templates.values() if any(d.axis not in AXES for d in t.dims[:1])}
    has_heads = _projects(apart) or any(d.axis == HEADS for t in anatomy.templates.values() for d in t.dims)
    roles = {t.role for t in anatomy.tensors.values()}
    by_layer: dict[int, set[str]] = {}
    for tensor in anatomy.tensors.values():
        if tensor.layer is not None:
            by_layer.setdefault(tensor.layer, set()).add(tensor.role)
    attends = anatomy.stage is None or "num_attention_heads" in anatomy.sizes
    # layers of several kinds (Reformer's) need them each
    partial = any("o" in found and not _projects(found) for found in by_layer.values())
    if attends and (not has_heads or not _projects(roles) or "o" not in roles or partial):
        raise UnsupportedFamilyError(
            f"`{anatomy.model_type}`: the attention projections were not found (found roles: "
            f"{', '.join(sorted(filter(None, roles))) or 'none'}; needed: q, k, v or qkv, and o). Declare them with "
            f"register_anatomy({anatomy.model_type!r}, roles={{r'<name>\\.(weight|bias)$': 'q', ...}}). {_matrices(anatomy)}"
            f"{_unmatched(anatomy)}"
        )
    if not any(n.axis == HIDDEN for n in anatomy.norms):
        where = "its width" if anatomy.stage is None else f"the width of stage {anatomy.stage}"
        raise UnsupportedFamilyError(f"`{anatomy.model_type}` has no normalisation over {where}. {ALLOWED}")


def _projects(roles: set[str]) -> bool:
    """Whether some roles make queries, keys and values."""
    return "qkv" in roles or {"q", "k", "v"} <= roles


def _matrices(anatomy: Anatomy) -> str:
    """The matrices of a layer, with the role that was found of each."""
    found = [t for t in anatomy.templates.values() if t.layer is not None and t.kind == "linear"]
    told = [f"{t.template} ({t.role or 'none'})" for t in found]
    return f"A layer's matrices: {', '.join(told) or 'none'}."


def _unmatched(anatomy: Anatomy) -> str:
    patterns = declaration_of(anatomy.model_type).unmatched(anatomy.tensors)
    return f" Declared, but no parameter's name: {', '.join(map(repr, patterns))}." if patterns else ""
