"""Tiny random models of every family, which families there are, and inputs for them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto as auto

from hf_learngene import plan
from hf_learngene.anatomy.config_fields import native_name, section, section_name
from hf_learngene.anatomy.inputs import example_inputs
from hf_learngene.anatomy.stages import stage_fields
from hf_learngene.resizing.plan import Plan
from testing import ROOT
from testing.family_sizes import EXTRA, SIZES, STAGES


IMAGE_HEADS = (
    auto.MODEL_MAPPING_NAMES,
    auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    auto.MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES,
)
TEXT_HEADS = (
    auto.MODEL_MAPPING_NAMES,
    auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
)
OTHER_HEADS = (
    auto.MODEL_MAPPING_NAMES,
    auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    auto.MODEL_FOR_CTC_MAPPING_NAMES,
    auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
    auto.MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES,
    auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
    auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
HIERARCHY_HEADS = (
    auto.MODEL_MAPPING_NAMES,
    auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
)
TWO_TOWERS = ("CLIPModel", "SiglipModel")  # one of both is resized at a time


def classes_of(kind: str, mappings: Iterable[Mapping[str, str | Sequence[str]]]) -> list[str]:
    """Every class that transformers' mappings have for a model type."""
    found: list[str] = []
    for mapping in mappings:
        names = mapping.get(kind, ())
        found += [names] if isinstance(names, str) else names
    return [name for name in found if name not in TWO_TOWERS]


# The families that every change is tested on, with their base model and all heads. docs/families.md is of every family there is.
VISION = {
    kind: classes_of(kind, IMAGE_HEADS)
    for kind in (
        "vit", "deit", "beit", "dinov2", "dinov2_with_registers", "vit_msn", "vit_mae", "ijepa", "data2vec-vision",
        "siglip_vision_model", "siglip", "clip_vision_model", "clip",
    )
}  # fmt: skip
TEXT = {
    kind: classes_of(kind, TEXT_HEADS)
    for kind in (
        "bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet", "albert", "deberta", "deberta-v2",
        "roberta-prelayernorm", "megatron-bert", "xlm-roberta-xl", "modernbert", "data2vec-text", "ernie", "rembert", "roformer",
        "nystromformer", "big_bird", "longformer", "layoutlm",
    )
}  # fmt: skip
# Sounds, videos, patches, an image beside a text, and texts whose anatomy has something of its own.
OTHER = {
    kind: classes_of(kind, OTHER_HEADS)
    for kind in (
        "audio-spectrogram-transformer", "wav2vec2", "wavlm", "wav2vec2-bert", "vivit", "timesformer", "vilt",
        "yolos", "esm", "dpt", "convbert", "lilt", "layoutlmv3", "mobilebert", "roc_bert", "xmod",
        "glmasr_encoder",
    )
}  # fmt: skip
HIERARCHIES = {
    kind: classes_of(kind, HIERARCHY_HEADS)
    for kind in (
        "swin", "swinv2", "donut-swin", "maskformer-swin", "convnext", "convnextv2", "dinov3_convnext", "segformer", "glpn",
        "pvt", "pvt_v2", "hiera", "poolformer",
    )
}  # fmt: skip
# Families whose width is counted together with other fields, or that cannot be grown without loss: their depth and ffn change.
WIDTH_STAYS = ("convbert", "lilt", "layoutlmv3", "mobilebert", "roc_bert")
DEPTH_STAYS = ("xmod",)
# (model type, extra config, class name): every listed family with base model and heads, and variants of structure.
VARIANTS: list[tuple[str, dict[str, Any], str]] = [
    ("dinov2", {"use_swiglu_ffn": True}, "Dinov2ForImageClassification"),
    ("beit", {"use_mean_pooling": False, "use_shared_relative_position_bias": True, "use_relative_position_bias": False},
     "BeitForImageClassification"),
    ("vit", {"qkv_bias": False}, "ViTForImageClassification"),
    ("vit", {"image_size": (12, 20)}, "ViTForImageClassification"),
    ("bert", {}, "BertForPreTraining"),
    ("layoutlm", {}, "LayoutLMForQuestionAnswering"),
    ("electra", {}, "ElectraForPreTraining"),
    ("electra", {"embedding_size": 24}, "ElectraForMaskedLM"),
    ("distilbert", {"sinusoidal_pos_embds": True}, "DistilBertForMaskedLM"),
    ("deberta-v2", {"share_att_key": False}, "DebertaV2ForMaskedLM"),
    ("bert", {"tie_word_embeddings": False}, "BertForMaskedLM"),
    ("ibert", {"layer_norm_eps": 1e-12}, "IBertForMaskedLM"),
    ("yoso", {"layer_norm_eps": 1e-12}, "YosoForMaskedLM"),
    ("deberta-v2", {"attention_head_size": 8}, "DebertaV2Model"),
]  # fmt: skip
# Those whose inputs are not made up for calibration.
OTHER_VARIANTS: list[tuple[str, dict[str, Any], str]] = [
    ("bert", {}, "BertForMultipleChoice"),
    ("wav2vec2", {"do_stable_layer_norm": True, "add_adapter": True}, "Wav2Vec2Model"),
    ("whisper", {}, "WhisperForAudioClassification"),
]


def listed() -> list[tuple[str, dict[str, Any], str]]:
    """Every (model type, extra, class name) that every change is tested on."""
    return [
        *((kind, {}, name) for kind, names in {**VISION, **TEXT, **OTHER}.items() for name in names),
        *VARIANTS,
        *OTHER_VARIANTS,
    ]


# Heads stand on the encoder of a family's first class: what is tried many times is tried on these, and once or twice on others.
FIRST = {names[0] for names in {**VISION, **TEXT, **OTHER}.values()} | {
    name for _, _, name in (*VARIANTS, *OTHER_VARIANTS)
}


def case_id(case: tuple[str, dict[str, Any], str]) -> str:
    kind, extra, name = case
    return "-".join([name, *(f"{k}={v}" for k, v in extra.items())]) or kind


def model_class(name: str) -> type[PreTrainedModel]:
    import transformers

    return getattr(transformers, name)


def tiny_config(model_type: str, main_input: str = "", **extra: Any) -> PreTrainedConfig:
    """A config of the family with tiny sizes.

    Only fields that the config class has are set, on its nested config where the sizes stand there.
    """
    config_class = CONFIG_MAPPING[model_type]
    default = config_class()
    nested = section_name(default, main_input or "pixel_values")
    part = section(default, nested)
    values: dict[str, Any] = {}
    asked = {**EXTRA.get(model_type, {}), **extra}
    if stages := stage_fields(part):
        return config_class(**{**_tiny_stages(part, stages), **asked})
    other = {n: asked.pop(n) for n in ("vision_config", "text_config") if n in asked and nested}
    for name, value in {**SIZES, **asked}.items():
        native = native_name(part, name) if name in SIZES else name
        if name in asked:  # a size that stands at None by default has no native name yet
            values[native or name] = value
        elif native is not None and _sizes_like(part, native):
            values[native] = value
    for stale in ("pooler_output_size", "pooler_hidden_size"):
        if isinstance(getattr(part, stale, None), int):
            values[stale] = SIZES["hidden_size"]
    if "layer_types" in vars(part):
        values["layer_types"] = None
    for token in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        current = getattr(part, token, None)
        if isinstance(current, int) and current >= SIZES["vocab_size"]:
            values.setdefault(token, 3)
    return config_class(**({nested: values, **other} if nested else values))


def _tiny_stages(part: PreTrainedConfig, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Tiny sizes of the stages of a hierarchy, of as many as the family has."""
    values: dict[str, Any] = {"image_size": 64} if isinstance(getattr(part, "image_size", None), int) else {}
    for size, field in fields.items():
        value = getattr(part, field.native)
        each = (type(old)(new) for old, new in zip(value, STAGES[size], strict=False)) if field.factor is None else ()
        values[field.native] = 8 if field.factor is not None else type(value)(each)
    return values


def _sizes_like(part: PreTrainedConfig, native: str) -> bool:
    return isinstance(getattr(part, native, None), (int, list, tuple))


def randomise(model: nn.Module, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """Random values everywhere, biases and norm weights too: a growth that only works on fresh ones must fail."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad and "embed_positions" in name:
                continue  # sinusoids are computed, not learnt
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_((1.0 + 0.3 * noise if norm else scale * noise).to(parameter.dtype))
    return model


def tiny_model(
    model_type: str,
    class_name: str,
    extra: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> PreTrainedModel:
    """A tiny random model in eval mode."""
    cls = model_class(class_name)
    config = tiny_config(model_type, cls.main_input_name, **(extra or {}))
    config.num_labels = 2 if "QuestionAnswering" in class_name else 5
    torch.manual_seed(seed)
    return randomise(cls(config).to(dtype), seed).eval()


def exact_deberta() -> None:
    """DeBERTa's norm and score scale cast to float32 in transformers; the same formulas in the model's own dtype.

    Without this no float64 figure of DeBERTa means anything: it differs from itself by 1e-8.
    """
    from transformers.models.deberta import modeling_deberta as v1
    from transformers.models.deberta_v2 import modeling_deberta_v2 as v2

    def norm(self, hidden_states):
        centred = hidden_states - hidden_states.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        return self.weight * (centred / torch.sqrt(variance + self.variance_epsilon)) + self.bias

    def root(query_layer, scale_factor):
        return torch.sqrt(torch.tensor(query_layer.size(-1) * scale_factor, dtype=torch.float64)).to(query_layer.dtype)

    v1.DebertaLayerNorm.forward = norm
    v1.scaled_size_sqrt = root
    v2.scaled_size_sqrt = root


def _random_like(example, generator: torch.Generator, batch: int, tokens: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Random inputs of the shapes of an example: normal numbers, tokens from a range; masks and shapes stay as they are."""
    found = {}
    for name, value in example.items():
        shape = (batch * len(value), *value.shape[1:])
        if value.is_floating_point():
            found[name] = torch.randn(shape, generator=generator)
        elif name == "input_ids":
            found[name] = torch.randint(*tokens, shape, generator=generator)
        else:
            found[name] = value.repeat(batch, *[1] * (value.dim() - 1))
    return found


def inputs_for(model: PreTrainedModel, seed: int = 0, batch: int = 2) -> dict[str, torch.Tensor]:
    """Random inputs, with a padding mask on for text."""
    generator = torch.Generator().manual_seed(seed)
    length = {"nystromformer": 16, "longformer": 16, "big_bird": 16}.get(model.config.model_type, 10)
    found = _random_like(
        example_inputs(model, model.config, tokens=length), generator, batch, (4, SIZES["vocab_size"] - 1)
    )
    if "input_ids" in found:
        found["attention_mask"] = torch.ones_like(found["input_ids"])
        found["attention_mask"][0, ..., -3:] = 0
    if type(model).__name__ in ("LongformerForQuestionAnswering", "LongformerForMultipleChoice"):
        found["input_ids"][..., [2, 3, 7]] = model.config.sep_token_id  # they want one question, one context
    return {n: v.to(model.dtype) if v.is_floating_point() else v for n, v in found.items()}


def mapping_families() -> dict[str, list[str]]:
    """Every model type of the auto mappings of heads that encoders have: classification of images, texts, sounds and videos."""
    found: dict[str, list[str]] = {}
    for names in (
        auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
        auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
    ):
        for kind, classes in names.items():
            for name in classes if isinstance(classes, (list, tuple)) else [classes]:
                found.setdefault(kind, []).append(name)
    return found


def plan_of(kind: str, class_name: str, extra: dict[str, Any] | None = None, **request: Any) -> Plan:
    """A plan for a family's tiny config: no weight exists, so none can be touched."""
    cls = model_class(class_name)
    return plan(tiny_config(kind, cls.main_input_name, **(extra or {})), model_class=cls, **request)


def edit_config(folder: Path, **values: Any) -> None:
    """Changes fields of a saved config by hand."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def load_example(name: str) -> Any:
    """A script of `examples/`, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name to resolve annotations.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
