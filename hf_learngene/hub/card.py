"""The model card of a resized model: what it is, where it comes from, and whether it has to be trained."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import known_sizes, section, section_name
from hf_learngene.errors import ProvenanceError
from hf_learngene.hub import card_parts as parts
from hf_learngene.hub import provenance
from hf_learngene.hub.card_parts import Result
from hf_learngene.hub.load import native_class
from hf_learngene.hub.provenance import Planned
from hf_learngene.hub.save import PROCESSOR_FILES, TOKENIZER_FILES, source_files
from hf_learngene.methods import METHODS, Method
from hf_learngene.vocabulary.rows import KeptTokens


# What a change of these makes anew or resamples, so that the outputs cannot be the source's.
_NEW_PARTS = {
    "num_labels": "the head is new",
    "image_size": "position embeddings are interpolated",
    "patch_size": "the patch embedding is resampled",
    "num_channels": "the patch embedding takes other channels",
    "vocab_size": "the vocabulary is another",
}


def model_card(
    resized: PreTrainedModel | Planned,
    *,
    plan: Planned | None = None,
    source: str | os.PathLike | None = None,
    loading: Mapping[str, Any] | None = None,
    folder: str | os.PathLike | None = None,
    name: str | None = None,
    results: Sequence[Result] = (),
) -> str:
    """The text of README.md for a resized model. Names of local folders are cut to their last part.

    Args:
        resized (`PreTrainedModel` or `Plan`): the model, or the plan it will be made by.
        plan (`Plan`, *optional*): the plan a model was made by; adds sizes and parameters of the source.
        source (`str` or `os.PathLike`, *optional*): Hub id or folder of the source; its README.md names the licence.
        loading (`Mapping`, *optional*): `revision`, `token`, `cache_dir`, ... of the source.
        folder (`str` or `os.PathLike`, *optional*): where the model lies, with or without a tokenizer. Default: as at `source`.
        name (`str`, *optional*): what to load the model by. Default: a placeholder.
        results (`Sequence[Result]`, *optional*): what was measured of the model; also the card's `model-index`.

    Returns:
        `str`: YAML metadata and Markdown.

    Raises:
        ProvenanceError: the model was not made by this package.

    Example:
        >>> from hf_learngene import plan
        >>> from transformers import ViTConfig
        >>> card = model_card(plan(ViTConfig(), hidden_size=384), name="me/vit-small")
        >>> [line for line in card.splitlines() if line.startswith("| hidden_size")]
        ['| hidden_size | 768 | 384 |']
    """
    if not isinstance(resized, PreTrainedModel):
        plan, config, cls = resized, resized.target_config, resized.model_class
        record = resized.record(os.fspath(source) if source else None, None)
        parameters = resized.num_parameters
    else:
        config, cls = resized.config, native_class(type(resized))
        record = record_of(config)
        parameters = sum(p.numel() for p in resized.parameters())
    base = record["source"] or f"a {config.model_type} model"
    on_hub = _on_hub(record, source)
    title = os.path.basename(name) if name else f"{os.path.basename(base)}, resized"
    data = parts.metadata(
        name=title,
        base_model=base if on_hub else None,
        task=parts.pipeline_tag(config, cls),
        library="transformers",
        tags=["learngene", "resized", *_methods(record)],
        license=parts.license_of(source, loading or {}),
        results=results,
    )
    sections = [
        f"# {title}",
        _summary(record, cls, base, on_hub),
        _readiness(record, _new_parts(record, cls, plan)),
        _use(cls, *((source, loading or {}) if folder is None else (folder, {})), name),
        parts.results_table(results),
        "## Sizes\n\n" + _sizes(config, cls, plan, parameters),
        "## Method\n\n" + "\n\n".join(parts.method_text(s["method"], s["options"]) for s in record["passes"]),
        "## Provenance\n\n" + _provenance(record),
    ]
    return parts.card_text(data, sections)


def record_of(config: PreTrainedConfig) -> dict[str, Any]:
    """`config.learngene`.

    Raises:
        ProvenanceError: there is none, or a newer version of the package wrote it.
    """
    provenance.check(config)
    record = getattr(config, "learngene", None)
    if not record:
        raise ProvenanceError("The model has no config.learngene: it was not resized by this package.")
    return record


def recorded_source(config: PreTrainedConfig) -> tuple[str | None, dict[str, Any]]:
    """(Hub id of what a model was made from, keywords that load it as it was then); (None, {}) where it was a folder."""
    record = getattr(config, "learngene", None) or {}
    name, commit = record.get("source"), record.get("source_commit")
    if not name or not (commit or "/" in name):
        return None, {}
    return name, {"revision": commit} if commit else {}


def _methods(record: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(stage["method"] for stage in record["passes"]))


def _on_hub(record: Mapping[str, Any], source: str | os.PathLike | None) -> bool:
    """Whether the recorded source is a Hub id: a local folder's name would link to somebody else's repository."""
    name = record["source"]
    if not name:
        return False
    if record["source_commit"] or "/" in name:  # of a folder's path only the last part is recorded
        return True
    return source is not None and not os.path.exists(source) and provenance.public_name(os.fspath(source)) == name


def _summary(record: Mapping[str, Any], cls: type[PreTrainedModel], base: str, on_hub: bool) -> str:
    link = parts.link(base, record["source_commit"], on_hub)
    return f"This is {link} at another size, a plain transformers `{cls.__name__}` made with `hf_learngene`."


def _new_parts(record: Mapping[str, Any], cls: type[PreTrainedModel], plan: Planned | None) -> list[str]:
    kept = ("vocab_size",) if "kept_tokens" in record else ()  # rows that stay give what they gave
    found = [why for size, why in _NEW_PARTS.items() if size in record["sizes"] and size not in kept]
    if record["fresh"] and not found:
        names = ", ".join(f"`{n}`" for n in record["fresh"][:3]) + (", …" if len(record["fresh"]) > 3 else "")
        found.append(f"{names} did not come with its source and started anew")
    saved_from = (plan.source_config.architectures if plan is not None else None) or [cls.__name__]
    if not record["fresh"] and "For" in cls.__name__ and cls.__name__ not in saved_from:  # a plan has seen no weights
        found.append(f"its head is not that of its source (`{saved_from[0]}`)")
    return found


def _readiness(record: Mapping[str, Any], new_parts: list[str]) -> str:
    known: dict[str, type[Method]] = {**METHODS, KeptTokens.name: KeptTokens}
    methods = [(known.get(s["method"]), s["options"]) for s in record["passes"]]
    exact = [m is not None and m.lossless and not options.get("allow_lossy") for m, options in methods]
    lossless = all(exact)
    refitted = all(e or (m is not None and m.refits) for e, (m, _) in zip(exact, methods, strict=True))
    if lossless and not new_parts and "kept_tokens" in record:
        return (
            "**Function-preserving on the tokens that stayed.** On texts of these it computes what its source computes, up to "
            "rounding; its own tokenizer cuts other texts into smaller pieces."
        )
    if lossless and not new_parts:
        return (
            "**Function-preserving.** On the same inputs it computes what its source computes, up to rounding. Use it "
            "as it is, or train on from there; `hf-learngene verify SOURCE THIS` measures the difference."
        )
    if lossless:
        return f"**Needs training.** The encoder was grown without loss, but {' and '.join(new_parts)}."
    if _methods(record) == ["random"]:
        return "**Needs training.** Every weight is random: a control to compare other starts with."
    if refitted and not new_parts:
        return (
            "**Works as it is, less well than its source.** What is left was refitted on examples to compute what the source "
            "computes. Measure it on your own data; training brings back more."
        )
    besides = f" Besides, {' and '.join(new_parts)}." if new_parts else ""
    return (
        "**Needs training.** It is a start for fine-tuning or distillation: its weights come from the source, but its "
        f"outputs are not the source's.{besides}"
    )


def _use(
    cls: type[PreTrainedModel],
    source: str | os.PathLike | None,
    loading: Mapping[str, Any],
    name: str | None,
) -> str:
    name = name or "path/or/repository"
    names, lines = [cls.__name__], [f'model = {cls.__name__}.from_pretrained("{name}")']
    vision = cls.main_input_name == "pixel_values"
    helper, variable = ("AutoImageProcessor", "processor") if vision else ("AutoTokenizer", "tokenizer")
    if source is not None and source_files(source, PROCESSOR_FILES if vision else TOKENIZER_FILES, loading):
        names.append(helper)
        lines.insert(0, f'{variable} = {helper}.from_pretrained("{name}")')
    return parts.code("\n".join([f"from transformers import {', '.join(sorted(names))}", "", *lines]))


def _sizes(config: PreTrainedConfig, cls: type[PreTrainedModel], plan: Planned | None, parameters: int) -> str:
    """A table of every size the config carries, before and after where the source's are known."""

    def read(one: PreTrainedConfig) -> dict[str, Any]:
        part = section(one, section_name(one, cls.main_input_name))
        found = {native: getattr(part, native) for native in known_sizes(part).values()}
        return {**found, "num_labels": one.num_labels} if "For" in cls.__name__ and one.id2label else found

    after = {**read(config), "parameters": f"{parameters:,}"}
    if plan is None:
        rows = [["", "size"], ["---", "---:"], *([name, value] for name, value in after.items())]
    else:
        before = {**read(plan.source_config), "parameters": f"{plan.source_parameters:,}"}
        rows = [["", "source", "this model"], ["---", "---:", "---:"]]
        rows += [[name, before.get(name, "–"), value] for name, value in after.items()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _provenance(record: Mapping[str, Any]) -> str:
    return (
        f"Made by `hf_learngene` {record['package_version']} with seed {record['seed']}. `config.json` says so too, "
        f"under `learngene`:\n\n```json\n{json.dumps(record, indent=2)}\n```"
    )
