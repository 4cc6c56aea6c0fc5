"""Learngenes of tiny models, of every kind that comes along."""

from __future__ import annotations

from typing import Any

from hf_learngene import AutoLearngene
from hf_learngene.learngenes import registered_learngenes
from hf_learngene.learngenes.registry import LEARNGENE_MAPPING
from testing.families import tiny_model


# What a kind needs for models of three layers and width 24, where its defaults do not fit them.
TINY: dict[str, dict[str, Any]] = {
    "sws": {"num_stages": 2}, "fine": {"rank": 20}, "wave": {"template_size": 8, "template_share": 0.4},
    "lets": {"learngene_hidden_size": 16, "learngene_layers": 2}, "condensed": {"stored_share": 1},
}  # fmt: skip
# Those that other tests register are theirs.
KINDS = sorted(k for k, config in registered_learngenes().items() if config.__module__.startswith("hf_learngene."))
OPTIONS = {kind: TINY.get(kind, {}) for kind in KINDS}


def kinds_that(**flags: bool) -> list[str]:
    """Kinds whose class variables say so: `kinds_that(changes_width=True)`."""
    models = {kind: LEARNGENE_MAPPING[registered_learngenes()[kind]] for kind in KINDS}
    return [kind for kind, model in models.items() if all(getattr(model, f) == v for f, v in flags.items())]


def fitted(kind, family="vit", name="ViTForImageClassification", extra=None, **options):
    """A learngene fitted to a tiny model in float64."""
    return AutoLearngene.from_ancestry(tiny_model(family, name, extra), kind, **{**OPTIONS[kind], **options})
