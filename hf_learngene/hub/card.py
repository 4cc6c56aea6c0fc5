"""The model card of a resized model: what it is, where it comes from, and whether it has to be trained."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import known_sizes, section
from hf_learngene.anatomy.inputs import reads_image_beside_text
from hf_learngene.anatomy.sections import sections_of
from hf_learngene.anatomy.stages import OF_STAGES, stage_fields
from hf_learngene.hub import card_parts as parts
from hf_learngene.hub import provenance
from hf_learngene.hub.card_calibration import calibrated_on, distilled_on, learned_on
from hf_learngene.hub.card_parts import Result
from hf_learngene.hub.files import input_files, source_files
from hf_learngene.hub.load import native_class
from hf_learngene.hub.markdown import plain, table
from hf_learngene.hub.provenance import Planned
from hf_learngene.hub.readiness import TRAINED, new_parts, readiness
from hf_learngene.hub.sentence import MODULES, embeds_sentences, module_folders


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
        record = provenance.record_of(config)
        parameters = sum(p.numel() for p in resized.parameters())
    # a plan has no weights yet that could be others
    trained = isinstance(resized, PreTrainedModel) and not provenance.as_made(resized)
    base = record["source"] or f"a {config.model_type} model"
    on_hub = _on_hub(record, source)
    title = os.path.basename(name) if name else f"{os.path.basename(base)}, resized"
    place, keywords = (source, loading or {}) if folder is None else (folder, {})
    beside = _files_beside(config, cls, place, keywords)
    sentences = MODULES in beside and embeds_sentences(cls) and bool(module_folders(beside[MODULES].parent))
    data = parts.metadata(
        name=title,
        base_model=base if on_hub and parts.is_repository(base) else None,
        task="sentence-similarity" if sentences else parts.pipeline_tag(config, cls),
        library="sentence-transformers" if sentences else "transformers",
        tags=["learngene", "resized", *_methods(record), *(["sentence-transformers"] if sentences else [])],
        license=parts.license_of(source, loading or {}),
        results=results,
    )
    sections = [
        f"# {plain(title)}",
        _summary(record, cls, base, on_hub, trained),
        TRAINED if trained else readiness(record, new_parts(record, cls, plan)),
        "" if trained else " ".join(filter(None, (learned_on(record), calibrated_on(record), distilled_on(record)))),
        _use_sentences(name) if sentences else _use(config, cls, bool(beside.keys() - {MODULES}), name),
        parts.results_table(results),
        "## Sizes\n\n" + _sizes(config, cls, plan, parameters),
        "## Method\n\n" + "\n\n".join(parts.method_text(s["method"], s["options"]) for s in record["passes"]),
        "## Provenance\n\n" + _provenance(record),
    ]
    return parts.card_text(data, sections)


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


def _summary(record: Mapping[str, Any], cls: type[PreTrainedModel], base: str, on_hub: bool, trained: bool) -> str:
    link = parts.link(base, record["source_commit"], on_hub)
    if trained:
        return (
            f"This was fine-tuned from a resized {link}: a plain transformers `{cls.__name__}` of another size than its source, "
            "whose first weights were made with `hf_learngene`."
        )
    return f"This is {link} at another size, a plain transformers `{cls.__name__}` made with `hf_learngene`."


def _files_beside(
    config: PreTrainedConfig, cls: type[PreTrainedModel], place: str | os.PathLike | None, loading: Mapping[str, Any]
) -> dict[str, Path]:
    """Name -> file of what prepares inputs, and of the list of a sentence encoder's modules."""
    if place is None:
        return {}
    return {file.name: file for file in source_files(place, (*input_files(config, cls), MODULES), loading)}


def _use(config: PreTrainedConfig, cls: type[PreTrainedModel], has_inputs: bool, name: str | None) -> str:
    place = _quoted(name)
    names, lines = [cls.__name__], [f"model = {cls.__name__}.from_pretrained({place})"]
    vision = cls.main_input_name == "pixel_values"
    helper, variable = ("AutoImageProcessor", "processor") if vision else ("AutoTokenizer", "tokenizer")
    if reads_image_beside_text(config, cls):
        helper, variable = "AutoProcessor", "processor"
    if has_inputs:
        names.append(helper)
        lines.insert(0, f"{variable} = {helper}.from_pretrained({place})")
    return parts.code("\n".join([f"from transformers import {', '.join(sorted(names))}", "", *lines]))


def _use_sentences(name: str | None) -> str:
    return parts.code(
        "from sentence_transformers import SentenceTransformer\n\n"
        f"model = SentenceTransformer({_quoted(name)})\n"
        'vectors = model.encode(["One sentence.", "Another one."])'
    )


def _quoted(name: str | None) -> str:
    return json.dumps(name or "path/or/repository", ensure_ascii=False)


def _sizes(config: PreTrainedConfig, cls: type[PreTrainedModel], plan: Planned | None, parameters: int) -> str:
    """A table of every size the config carries, before and after where the source's are known."""

    def read(one: PreTrainedConfig) -> dict[str, Any]:
        parts = sections_of(one, cls)
        found: dict[str, Any] = {}
        for name in parts:
            part = section(one, name)
            prefix = f"{name}." if len(parts) > 1 else ""
            stages = [field.native for field in stage_fields(part).values()]
            sizes = [field for size, field in known_sizes(part).items() if not stages or size not in OF_STAGES]
            found |= {prefix + native: getattr(part, native) for native in (*stages, *sizes)}
        return {**found, "num_labels": one.num_labels} if "For" in cls.__name__ and one.id2label else found

    after = {**read(config), "parameters": f"{parameters:,}", "dtype": _dtype(config)}
    if plan is None:
        rows = [["", "size"], ["---", "---:"], *([name, value] for name, value in after.items())]
    else:
        before = {
            **read(plan.source_config),
            "parameters": f"{plan.source_parameters:,}",
            "dtype": _dtype(plan.source_config),
        }
        rows = [["", "source", "this model"], ["---", "---:", "---:"]]
        rows += [[name, before.get(name, "–"), value] for name, value in after.items()]
    return table(rows)


def _dtype(config: PreTrainedConfig) -> str:
    return str(config.dtype).removeprefix("torch.") if config.dtype is not None else "–"


def _provenance(record: Mapping[str, Any]) -> str:
    digests = " `weights` are digests by which a later training is noticed." if record.get("weights") else ""
    return (
        f"Made by `hf_learngene` {plain(record['package_version'])} with seed {record['seed']}. `config.json` says so too, "
        f"under `learngene`.{digests}\n\n```json\n{json.dumps(record, indent=2)}\n```"
    )
