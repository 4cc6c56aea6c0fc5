"""Measures one class at a time: can it be resized, and how exactly does it grow. make_families.py writes the page.

Every family of the auto mappings of classification (images, texts, sounds, videos), multiple choice and masked LM, and the
base classes and heads that the tests list, as a tiny model with random weights, random biases and random norm weights; and the
models of several parts that the tests list, part by part.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES  # noqa: E402

from hf_learngene import resize  # noqa: E402
from hf_learngene.anatomy import Anatomy, anatomy_of  # noqa: E402
from hf_learngene.anatomy.config_fields import section, section_name  # noqa: E402
from hf_learngene.anatomy.probe import epsilons  # noqa: E402
from hf_learngene.anatomy.sections import sections_of  # noqa: E402
from hf_learngene.anatomy.types import HEADS  # noqa: E402
from hf_learngene.errors import LearngeneError, LossyGrowthError, UnsupportedFamilyError  # noqa: E402
from hf_learngene.maps.task import own_axes  # noqa: E402
from hf_learngene.resizing.outputs import difference as compared  # noqa: E402
from hf_learngene.resizing.outputs import in_float64, outputs_of, width_of  # noqa: E402
from testing.families import inputs_for, listed, mapping_families, model_class, tiny_config, tiny_model  # noqa: E402
from testing.hierarchies import CASES as HIERARCHIES  # noqa: E402
from testing.hierarchies import deeper, smaller, wider  # noqa: E402
from testing.towers import PARTS, parted_config, parted_model  # noqa: E402
from testing.untraced_inputs import UNUSUAL, Change  # noqa: E402


EXACT = 1e-10  # in float64, relative; what adds up to more is no rounding
TINY = 3_000_000  # parameters; a config that stays larger than this has sizes we do not know how to make small
DEPTH_ONLY = "its depth"
GROWTHS = ("width", "any width", "head size", "ffn", "depth", "all", "float32")

# What the message of a refusal says -> the words of a table cell.
SHORT = (
    ("rotates its head dimensions", "no: heads rotate"),
    ("normalises each head", "no: heads take no zeros"),
    ("share one set of weights", "no: layers share weights"),
    ("has no size field", "no such size"),
    ("cannot be grown without loss", "no: refuted by its miniature"),
    ("cannot be proved", "no: not proved"),
    ("follows from its depth", "no: a number follows the depth"),
    ("makes for its own width", "no: its vectors follow the width"),
    ("Keep the head size (the number of heads then", "no: not all is reached"),
)
# Base encoders beside those of the tests: of images, sounds and texts in models of several parts, or without a head in the
# mappings. Some cast to float32 inside, so the tests, which lift no casts, say nothing of them in float64.
ENCODERS = (
    "audioflamingo3_encoder", "canine", "chinese_clip_vision_model", "cohere_compass_vision", "cosmos3_edge_vision", "dinov3_vit",
    "exaone4_5_vision", "glm4v_moe_vision", "glm4v_vision", "glm_image_vision", "glm_ocr_vision", "lfm3_vl_vision",
    "mlcd_vision_model", "moss_transcribe_diarize_audio", "muse_glimmer_vision", "muse_spark_vision",
    "nemotron3_5_transcribe_asr_audio", "nemotron3_diarization_audio", "nemotron_asr_streaming_encoder", "parakeet_encoder",
    "pixio", "pixtral", "qianfan_ocr_vision", "qwen2_5_vl_vision", "qwen2_audio_encoder", "qwen3_5_moe_vision", "qwen3_5_vision",
    "qwen3_vl_moe_vision", "qwen3_vl_vision", "qwen4_exp_vision", "sam3_vit_model", "sam_hq_vision_model", "sam_vision_model",
    "siglip2_vision_model", "splinter",
    "tipsv2_vision_model", "video_llama_3_vision", "visual_bert", "vitdet", "voxtral_encoder", "voxtral_realtime_encoder", "xlm",
)  # fmt: skip


class Case(NamedTuple):
    """One class to try; of one with several parts, one of its sections."""

    kind: str  # model type
    extra: dict[str, Any]  # of the config
    name: str  # of the class
    change: Change | None = None  # of the plain inputs
    section: str = ""


@dataclass
class Measured:
    """What one class gave. `growths` holds a difference, or the words of a refusal."""

    kind: str
    label: str
    refused: str = ""  # why the family is not let in
    broken: str = ""  # why nothing could be tried
    placement: str = ""
    shrinks: str = ""
    growths: dict[str, float | str] = field(default_factory=dict)
    epsilon: float = 0.0  # of norms that no config can change, up to which new layers are exact
    blocker: str = ""  # what makes only whole multiples exact: a norm, or another tensor, or a word for it
    beyond: str = ""  # what is unusual about its inputs or its config, if it is measured for that
    section: str = ""  # the part that is resized, of a class with several

    @property
    def bugs(self) -> list[str]:
        """Growths that were let through and are not exact. There must be none."""
        found = [f"shrinks: {self.shrinks}"] if self.shrinks not in ("", "yes", DEPTH_ONLY) else []
        for name, result in self.growths.items():
            if isinstance(result, str):
                found += [f"{name}: {result}"] if result.startswith("error") else []
            elif not result <= self.limit(name):
                found.append(f"{name}: {result:.1e}")
        return found

    def limit(self, growth: str) -> float:
        """What a growth may differ by: rounding, and where a post-norm family has new layers, its epsilon.

        Heads with deep necks (ZoeDepth) make more of rounding; float32 rounds 2^29 times as coarsely as float64.
        """
        if growth == "float32":
            width = self.growths["width"]
            return max(5e-5, 2.0**30 * (width if isinstance(width, float) else 0.0))
        return max(EXACT, 3 * self.epsilon) if growth in ("depth", "all") and self.placement == "post" else EXACT


def cases() -> list[Case]:
    """Every class to try, once: the mappings' and the listed ones, sorted by family."""
    found: dict[str, Case] = {}
    mapped = [(kind, {}, name) for kind, names in mapping_families().items() for name in names]
    encoders = [(kind, {}, str(MODEL_MAPPING_NAMES[kind])) for kind in ENCODERS if kind in MODEL_MAPPING_NAMES]
    encoders.append(("blip_text_model", {}, "BlipTextModel"))  # in no mapping
    for kind, extra, name in [*mapped, *listed(), *HIERARCHIES, *encoders]:
        found.setdefault(f"{label_of(name, extra)}{kind}", Case(kind, extra, name))
    parts = [Case(parted_config(name).model_type, {}, name, None, section) for name, section in PARTS]
    return [*sorted(found.values(), key=lambda case: case.kind), *(Case(*case) for case in UNUSUAL), *parts]


def label_of(name: str, extra: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key}={value}" for key, value in extra.items())
    return f"{name} ({options})" if options else name


# ---- one class


def started(case: Case) -> Measured:
    """Nothing measured yet."""
    found = Measured(case.kind, label_of(case.name, case.extra), section=case.section)
    if case[:4] in UNUSUAL:
        found.beyond = (case.change.__doc__ or "") if case.change else "plain inputs"
    return found


def measure(case: Case) -> Measured:
    """Everything about one class. Never raises: one family must not stop the page."""
    found = started(case)
    try:
        transformers.logging.set_verbosity(transformers.logging.CRITICAL)
        logging.disable(logging.WARNING)
        _measure(case, found)
    except UnsupportedFamilyError as error:
        found.refused = str(error)
    except Exception as error:  # whatever a family does with a tiny config
        found.broken = f"{type(error).__name__}: {first_line(error)}"
    return found


def _measure(case: Case, found: Measured) -> None:
    kind, extra, name, change, part = case
    cls = model_class(name)
    try:
        config = parted_config(name) if part else tiny_config(kind, getattr(cls, "main_input_name", ""), **extra)
    except Exception as error:
        # its default config is enough to be refused for what it is
        anatomy_of(transformers.CONFIG_MAPPING[kind](), cls)
        raise ValueError(f"no tiny config: {first_line(error)}") from error
    config.num_labels = config.num_labels if part else 2 if "QuestionAnswering" in name else 5
    sections = sections_of(config, cls)
    part = part or (sections[0] if len(sections) == 1 else section_name(config, cls.main_input_name))
    anatomy = anatomy_of(config, cls, part)
    if anatomy.num_parameters > TINY:
        raise ValueError(f"no tiny config: it still has {anatomy.num_parameters:,} parameters")
    found.placement = "post" if anatomy.post_norm else "pre"
    over_heads = [n for n in anatomy.norms if n.axis == HEADS]
    found.blocker = next((n.name for n in (*anatomy.norms_that_need_multiples(), *over_heads)), other_blocker(anatomy))
    source = model_of(case)
    closing = {n.name for n in anatomy.norms if n.closes_layer and not n.eps_follows_config}
    found.epsilon = max((eps for name, eps in epsilons(source).items() if name in closing), default=0.0)
    inputs = inputs_of(source, change)
    outputs(source, inputs)  # what does not run as it is cannot be compared with anything
    found.shrinks = shrinks(source, anatomy)
    grow_all(case, source, anatomy, found, inputs)


def other_blocker(anatomy: Anatomy) -> str:
    """What makes only whole multiples exact where no norm does."""
    if anatomy.num_stages:
        return "between its stages"
    grouped = (t.template for t in anatomy.templates.values() if t.groups > 1)
    return next((name.replace("{}", "*") for name in (*(t.template for t in anatomy.unseen), *grouped)), "")


def model_of(case: Case, dtype: torch.dtype = torch.float64) -> Any:
    return (
        parted_model(case.name, dtype) if case.section else tiny_model(case.kind, case.name, case.extra, dtype=dtype)
    )


def inputs_of(model: Any, change: Change | None) -> dict[str, torch.Tensor]:
    plain = inputs_for(model)
    return plain if change is None else change(model, plain)


def shrinks(source: Any, anatomy: Anatomy) -> str:
    """`yes`, or what went wrong. A smaller width and depth, of a hierarchy in every stage, by weight selection must run.

    Where the family counts its width together with other fields, or no width works near this one but the source's, it is the
    depth alone.
    """
    # a head that reads several layers of a backbone needs them all
    stages = len(getattr(section(source.config, anatomy.section), "out_indices", None) or ()) > 1
    asked = {"hidden_size": 16} if anatomy.shared_layers or stages else {"hidden_size": 16, "num_hidden_layers": 2}
    if anatomy.num_stages:
        asked = smaller(source)
    try:
        small = resized(source, anatomy, "weight_selection", asked)
        finite = all(bool(t.isfinite().all()) for t in outputs(small, inputs_for(source)).values())
    except LearngeneError as error:
        kept = f"widths that work: {anatomy.sizes['hidden_size']}." if not anatomy.num_stages else "Keep hidden_size"
        if any(said in str(error) for said in ("Keep hidden_size", kept)) and any(own_axes(anatomy)):
            small = resize(source, method="weight_selection", num_hidden_layers=2)
            finite = all(bool(t.isfinite().all()) for t in outputs(small, inputs_for(source)).values())
            return DEPTH_ONLY if finite else "not finite"
        return f"no: {first_line(error)}"
    except Exception as error:
        return f"error: {type(error).__name__}: {first_line(error)}"
    return "yes" if finite else "not finite"


def grow_all(case: Case, source: Any, anatomy: Anatomy, found: Measured, inputs: Mapping[str, torch.Tensor]) -> None:
    alone = stages_alone(source, anatomy) if anatomy.num_stages else growths_alone(anatomy)
    for name, requests in alone.items():
        results = [attempt(source, anatomy, request, inputs) for request in requests]
        if name == "width" and anatomy.head_dim_honoured:
            apart = attempt(
                source, anatomy, heads_alone(anatomy), inputs
            )  # many families refuse heads that leave the width
            results += [apart] if not isinstance(apart, str) or apart.startswith("error") else []
        found.growths[name] = worst(results)
    allowed = {name for name, result in found.growths.items() if not isinstance(result, str)}
    together = stages_together(source, alone, allowed) if anatomy.num_stages else growth_together(anatomy, allowed)
    found.growths["all"] = attempt(source, anatomy, together, inputs)
    single = model_of(case, torch.float32)
    found.growths["float32"] = attempt(single, anatomy, together, inputs_of(single, case.change))


def growths_alone(anatomy: Anatomy) -> dict[str, list[dict[str, int]]]:
    """Requests that grow one thing each. The tiny source has width 24, 3 heads of 8, ffn 40 and 3 layers."""
    sizes = anatomy.sizes
    width, heads, size = sizes["hidden_size"], sizes["num_attention_heads"], sizes["head_dim"]
    larger_heads = [{"hidden_size": 2 * width, "num_attention_heads": heads}]
    if anatomy.head_dim_honoured:
        larger_heads = [{"num_attention_heads": heads, "head_dim": 2 * size}]
    found = {
        "width": [{"hidden_size": 2 * width}, {"hidden_size": 3 * width}],
        "any width": [{"hidden_size": width + 2 * size}],
        "head size": larger_heads,
        "ffn": [wider_ffn(anatomy, 64)],
        "depth": [{"num_hidden_layers": 5}, {"num_hidden_layers": 7}],
    }
    return found


def wider_ffn(anatomy: Anatomy, units: int) -> dict[str, int]:
    return {"mlp_ratio": 3} if "mlp_ratio" in anatomy.fields else {"intermediate_size": units}


def stages_alone(source: Any, anatomy: Anatomy) -> dict[str, list[dict[str, Any]]]:
    """The same of a hierarchy: every stage grows."""
    fields, double = anatomy.stage_fields, wider(source)
    wide = fields["hidden_size"]
    value = getattr(source.config, wide.native)
    half = {wide.native: value * 3 // 2 if isinstance(value, int) else [v * 3 // 2 for v in value]}
    same = {f.native: getattr(source.config, f.native) for n, f in fields.items() if n == "num_attention_heads"}
    ratio = fields["mlp_ratio"].native if "mlp_ratio" in fields else "mlp_ratio"
    own = getattr(source.config, ratio, 1)
    more = int(own) + 1 if isinstance(own, (int, float)) else [int(v) + 1 for v in own]
    return {
        "width": [double, wider(source, 3)],
        "any width": [half | same],
        "head size": [double | (same or {"head_dim": 2})],
        "ffn": [{ratio: more}],
        "depth": [deeper(source), deeper(source, (2, 3, 1, 4))],
    }


def stages_together(source: Any, alone: Mapping[str, list[dict[str, Any]]], allowed: set[str]) -> dict[str, Any]:
    """The largest request of a hierarchy made of everything that is exact alone."""
    request = dict(alone["width"][1]) if "width" in allowed else {}
    for name in ("ffn", "depth"):
        request |= alone[name][-1] if name in allowed else {}
    return request


def heads_alone(anatomy: Anatomy) -> dict[str, int]:
    """Twice the heads at one width."""
    return {"num_attention_heads": 2 * anatomy.sizes["num_attention_heads"], "head_dim": anatomy.sizes["head_dim"]}


def growth_together(anatomy: Anatomy, allowed: set[str]) -> dict[str, int]:
    """The largest request made of everything that is exact alone."""
    width, size = anatomy.sizes["hidden_size"], anatomy.sizes["head_dim"]
    new_size = size + size // 2 if "head size" in allowed else size
    new_width = 5 * new_size if "any width" in allowed else -(-2 * width // (width * new_size)) * width * new_size
    if "any width" not in allowed and new_size != size:
        new_width = 3 * width  # 72: six heads of 12
    if not allowed & {"width", "any width"}:
        new_width, new_size = width, size
    request = {"hidden_size": new_width, "num_attention_heads": new_width // new_size}
    if anatomy.head_dim_honoured:
        request["head_dim"] = new_size
    if "ffn" in allowed:
        request |= wider_ffn(anatomy, 112)
    if "depth" in allowed:
        request["num_hidden_layers"] = 7
    return request


def resized(source: Any, anatomy: Anatomy, method: str, request: Mapping[str, int]) -> Any:
    """The source at other sizes, each named with the section that the anatomy is of."""
    prefix = f"{anatomy.section}." if anatomy.section else ""
    return resize(source, method=method, seed=1, **{prefix + name: size for name, size in request.items()})


def attempt(
    source: Any, anatomy: Anatomy, request: Mapping[str, int], inputs: Mapping[str, torch.Tensor]
) -> float | str:
    """The largest difference after one growth, or why it is refused."""
    try:
        grown = resized(source, anatomy, "lemon", request)
        return difference(source, grown, inputs)
    except LossyGrowthError as error:
        return next((words for key, words in SHORT if key in str(error)), "multiples only")
    except LearngeneError as error:
        return next((words for key, words in SHORT if key in str(error)), f"no: {first_line(error)}")
    except Exception as error:
        return f"error: {type(error).__name__}: {first_line(error)}"


def worst(results: Iterable[float | str]) -> float | str:
    """A refusal before an error before a number: what is refused once is not promised at all."""
    found = list(results)
    words = [r for r in found if isinstance(r, str)]
    if words:
        return next((w for w in words if w.startswith("error")), words[0])
    return max(r for r in found if not isinstance(r, str))


def outputs(model: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every float tensor that a model gives; in float64 without casts to float32."""
    with in_float64() if model.dtype == torch.float64 else contextlib.nullcontext():
        return outputs_of(model, inputs)


def difference(source: Any, grown: Any, inputs: Mapping[str, torch.Tensor]) -> float:
    """Largest |a - b| / max(1, |a|) over all outputs; of a wider hidden state, over the entries of the source."""
    first, second = outputs(source, inputs), outputs(grown, inputs)
    if len(first) != len(second):  # of another depth, nothing says which layer is which
        first = {name: a for name, a in first.items() if ".hidden_states." not in name}
    largest = 0.0
    for name, a in first.items():
        found = compared(name, a, second[name], (width_of(source), width_of(grown)))
        if found is None:
            raise ValueError(f"{name}: {tuple(a.shape)} became {tuple(second[name].shape)}")
        largest = max(largest, found.relative)
    return largest


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "no message"
