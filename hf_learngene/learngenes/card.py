"""The model card of a learngene: what it is made from, what it makes, and what was measured."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from hf_learngene._version import __version__
from hf_learngene.anatomy.stages import listed
from hf_learngene.hub import card_parts as parts
from hf_learngene.learngenes.protocol import LearngeneLike
from hf_learngene.learngenes.series import smaller_sizes


def learngene_card(learngene: LearngeneLike, name: str | None = None, tags: Sequence[str] = ()) -> str:
    """The text of README.md for a learngene.

    Args:
        learngene (`Learngene`): its config holds ancestry, licence and measured figures.
        name (`str`, *optional*): what to load it by. Default: a placeholder.
        tags (`Sequence[str]`, *optional*): more tags.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from hf_learngene import AutoLearngene
        >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=4)
        >>> card = learngene_card(AutoLearngene.from_ancestry(BertModel(config), "tleg"), "me/bert-tleg")
        >>> 'AutoLearngene.from_pretrained("me/bert-tleg")' in card
        True
    """
    config, cls = learngene.config, learngene.base_class
    kind, ancestry = config.learngene_type, config.ancestry
    on_hub = "/" in (ancestry or "") or bool(ancestry and config.ancestry_commit)
    title = os.path.basename(name) if name else f"{os.path.basename(ancestry or config.base.model_type)}-{kind}"
    results = [parts.Result(**r) for r in config.results or ()]
    data = parts.metadata(
        name=title,
        base_model=ancestry if on_hub else None,
        task=parts.pipeline_tag(config.base, cls),
        library="hf_learngene",
        tags=["learngene", kind, config.base.model_type, *tags],
        license=config.license or {},
        results=results,
    )
    origin = f"of {parts.link(ancestry, config.ancestry_commit, on_hub)}" if ancestry else "of no recorded ancestry"
    works = "which works before any training" if config.works_untrained else "a start for fine-tuning"
    kept = sum(p.numel() for tree in (learngene.shared, learngene.outside) for p in tree.parameters())
    sections = [
        f"# {title}",
        f"This is a learngene (`{kind}`) {origin}: what its models of many sizes are made from. It stores {kept:,} "
        f"parameters, {learngene.stored_share:.1%} of the `{cls.__name__}` it was made with. What it initialises is a plain "
        f"transformers model, {works}.",
        ""
        if config.fitted
        else "**It was neither fitted nor trained yet**: what it would make is random, and is refused.",
        parts.code(_use(learngene, name or "path/or/repository")),
        parts.results_table(results) or "## Measured\n\nNothing was recorded yet: no size is validated.",
        "## Sizes\n\n" + _sizes(learngene),
        "## Method\n\n" + parts.method_text(kind, config.options()),
        "## Provenance\n\n" + _provenance(learngene),
    ]
    return parts.card_text(data, sections)


def write_card(learngene: LearngeneLike, folder: Path) -> None:
    """Writes README.md into a saved learngene's folder; one that somebody else wrote stays."""
    path = folder / "README.md"
    if not path.exists() or parts.is_ours(path.read_text(encoding="utf-8")):
        path.write_text(learngene_card(learngene), encoding="utf-8")


def _use(learngene: LearngeneLike, name: str) -> str:
    sizes = ", ".join(f"{n}={v}" for n, v in smaller_sizes(learngene.anatomy).items())
    return (
        "from hf_learngene import AutoLearngene\n\n"
        f'learngene = AutoLearngene.from_pretrained("{name}")\n'
        f"model = learngene.initialize({sizes})  # a plain {learngene.base_class.__name__}"
    )


def _sizes(learngene: LearngeneLike) -> str:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "mlp_ratio", "num_labels")
    known = {n: v for n, v in listed(learngene.anatomy.sizes).items() if n in names}
    reach = learngene.config.reach if not learngene.anatomy.num_stages else "The depth of every stage is free."
    rows = ["| size | of the auxiliary model |", "| --- | ---: |", *(f"| {n} | {v} |" for n, v in known.items())]
    return "\n".join(rows) + f"\n\nThe auxiliary model is the one it was made as. {reach}"


def _provenance(learngene: LearngeneLike) -> str:
    config = learngene.config
    record = {
        "package_version": __version__,
        "ancestry": config.ancestry,
        "ancestry_commit": config.ancestry_commit,
        "learngene_type": config.learngene_type,
        "options": config.options(),
        "calibration": config.calibration,
    }
    return f"Made by `hf_learngene` {__version__}.\n\n```json\n{json.dumps(record, indent=2)}\n```"
