"""Claims that a card may make of a resized model: exact, usable, or a start for training; none of one that was trained since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from hf_learngene.hub.card_parts import DESCRIBED, Described
from hf_learngene.hub.markdown import code_span
from hf_learngene.hub.provenance import Planned
from hf_learngene.methods import METHODS, Method
from hf_learngene.methods.geometry import Geometry
from hf_learngene.vocabulary import KeptTokens


# What a change of these makes anew or resamples, so that the outputs cannot be the source's.
_NEW_PARTS = {
    "num_labels": "the head is new",
    "image_size": "position embeddings are interpolated",
    "patch_size": "the patch embedding is resampled",
    "num_channels": "the patch embedding takes other channels",
    "vocab_size": "the vocabulary is another",
}
TRAINED = (
    "**Fine-tuned.** Its weights are no longer those that the resize gave, which are told below: what it computes now is that of "
    "its training, and to be measured on your own data."
)


def new_parts(record: Mapping[str, Any], cls: type[PreTrainedModel], plan: Planned | None) -> list[str]:
    """Parts that cannot compute what the source's compute, each with the reason."""
    kept = ("vocab_size",) if "kept_tokens" in record else ()  # rows that stay give what they gave
    sizes = {name.rpartition(".")[2] for name in record["sizes"]}  # of several parts, each stands behind its section
    found = [why for size, why in _NEW_PARTS.items() if size in sizes and size not in kept]
    if record["fresh"] and not found:
        names = ", ".join(map(code_span, record["fresh"][:3])) + (", …" if len(record["fresh"]) > 3 else "")
        found.append(f"{names} did not come with its source and started anew")
    saved_from = (plan.source_config.architectures if plan is not None else None) or [cls.__name__]
    if not record["fresh"] and "For" in cls.__name__ and cls.__name__ not in saved_from:  # a plan has seen no weights
        found.append(f"its head is not that of its source ({code_span(saved_from[0])})")
    return found


def readiness(record: Mapping[str, Any], anew: list[str]) -> str:
    """The claim how far a model can be used untrained, by the methods that made it and the parts that started `anew`."""
    known: dict[str, type[Method]] = {**METHODS, KeptTokens.name: KeptTokens, Geometry.name: Geometry}
    methods = [(known.get(s["method"]), s["options"]) for s in record["passes"]]
    exact = [m is not None and m.lossless and not options.get("allow_lossy") for m, options in methods]
    lossless = all(exact)
    works = [
        m.refits_with(options) if m is not None else DESCRIBED.get(step["method"], Described("")).works
        for step, (m, options) in zip(record["passes"], methods, strict=True)
    ]
    refitted = all(e or w for e, w in zip(exact, works, strict=True))
    if lossless and not anew and "kept_tokens" in record:
        return (
            "**Function-preserving on the tokens that stayed.** On texts of these it computes what its source computes, up to "
            "rounding; its own tokenizer cuts other texts into smaller pieces."
        )
    if lossless and not anew:
        return (
            "**Function-preserving.** On the same inputs it computes what its source computes, up to rounding. Use it "
            "as it is, or train on from there; `hf-learngene verify SOURCE THIS` measures the difference."
        )
    if lossless:
        return f"**Needs training.** The encoder was grown without loss, but {' and '.join(anew)}."
    if [s["method"] for s in record["passes"]] == ["random"]:
        return "**Needs training.** Every weight is random: a control to compare other starts with."
    if refitted and not anew:
        return (
            "**Works as it is, less well than its source.** What is left was refitted on examples to compute what the source "
            "computes. Measure it on your own data; distillation from the source at a small rate may bring back more."
        )
    besides = f" Besides, {' and '.join(anew)}." if anew else ""
    return (
        "**Needs training.** It is a start for fine-tuning or distillation: its weights come from the source, but its "
        f"outputs are not the source's.{besides}"
    )
