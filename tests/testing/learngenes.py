"""Learngenes of tiny models, of every kind."""

from __future__ import annotations

from hf_learngene import AutoLearngene
from testing.families import tiny_model
from testing.training import OPTIONS


def fitted(kind, family="vit", name="ViTForImageClassification", extra=None, **options):
    return AutoLearngene.from_ancestry(tiny_model(family, name, extra), kind, **{**OPTIONS[kind], **options})
