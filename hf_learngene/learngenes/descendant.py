"""From the weights that a learngene makes to a plain transformers model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor
from transformers import PreTrainedModel

from hf_learngene.hub import provenance
from hf_learngene.learngenes.parts import Target
from hf_learngene.learngenes.protocol import LearngeneLike
from hf_learngene.learngenes.series import recorded
from hf_learngene.resizing.build_model import build_model


def assemble(
    learngene: LearngeneLike, target: Target, state: dict[str, Tensor], own: Mapping[str, Any], seed: int
) -> PreTrainedModel:
    """Builds a plain model from the weights made for it, with its record in the config."""
    like = cast(PreTrainedModel, learngene)
    model = build_model(learngene.base_class, target.config, state, like, anatomy=target.anatomy, seed=seed)
    config = learngene.config
    source, commit = config._name_or_path, getattr(config, "_commit_hash", None)
    # the name of a folder says nothing to others; its ancestry's, with the commit, does
    unknown = not source or (os.path.isdir(source) and config.ancestry_commit)
    model.config.learngene = provenance.entry(
        source=config.ancestry if unknown else provenance.public_name(source),
        commit=config.ancestry_commit if unknown else commit,
        passes=[(config.learngene_type, config.options())],
        seed=seed,
        sizes=recorded(learngene.anatomy, own),
        fresh=[],
        before=learngene.base,
    )
    provenance.seal(model)
    return model
