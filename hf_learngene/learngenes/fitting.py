"""`from_ancestry`: a pretrained model brought to the auxiliary size, and a learngene fitted to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import torch
from rich.table import Table
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_learngene.anatomy import anatomy_of
from hf_learngene.card.parts import license_of
from hf_learngene.learngenes.model import Learngene
from hf_learngene.learngenes.registry import LEARNGENE_MAPPING, config_class_of
from hf_learngene.resizing import provenance, resize
from hf_learngene.resizing.auto import load_whole
from hf_learngene.resizing.fresh import quiet
from hf_learngene.resizing.loading import pinned
from hf_learngene.resizing.run import check_source
from hf_learngene.resizing.sizes import canonical
from hf_learngene.resizing.table import render


logger = logging.get_logger("transformers")


def fitted_learngene(
    model: PreTrainedModel | str | os.PathLike[str], learngene_type: str, options: Mapping[str, Any], seed: int
) -> Learngene:
    """See `AutoLearngene.from_ancestry`."""
    config_class = config_class_of(learngene_type)
    commit = None
    if not isinstance(model, PreTrainedModel):
        loading = pinned(model, {})
        commit = getattr(loading.get("revision"), "resolved", None)
        model = load_whole(model, **loading)
    check_source(model)
    own = {n: v for n, v in options.items() if n in config_class.option_names()}
    sizes = {n: v for n, v in options.items() if n not in own}
    anatomy = anatomy_of(model.config, type(model))
    config_class.check_options({n: v for n, v in sizes.items() if canonical(anatomy, n) is None})
    auxiliary = at_auxiliary_size(model, sizes, seed)
    name = model.config._name_or_path
    config = config_class(
        base_config=auxiliary.config.to_dict(),
        base_architecture=type(model).__name__,
        ancestry=provenance.public_name(name) if name else None,
        ancestry_commit=commit,
        license=license_of(name, {"local_files_only": True}) if name else None,
        **own,
    )
    learngene = cast(Any, LEARNGENE_MAPPING[config_class])(config)
    dtype = model.dtype if model.dtype in (torch.float32, torch.float64) else torch.float32
    learngene.to(device=model.device, dtype=dtype)
    learngene.fit_to(auxiliary)
    logger.info(report(learngene))
    return learngene.eval()


def at_auxiliary_size(model: PreTrainedModel, sizes: Mapping[str, Any], seed: int) -> PreTrainedModel:
    """The ancestry model itself, or resized: fewer layers are picked evenly, new ones change nothing."""
    if not sizes:
        return model
    with quiet():
        depth = sizes.get("num_hidden_layers")
        old = anatomy_of(model.config, type(model)).num_layers
        if set(sizes) == {"num_hidden_layers"} and isinstance(depth, int) and 0 < depth < old:
            return resize(model, method="weight_selection", layer_selection="uniform", seed=seed, **sizes)
        return resize(model, seed=seed, **sizes)


def report(learngene: Learngene) -> str:
    """A table of what is kept of each component, and how far the fit is from it."""
    config, anatomy = learngene.config, learngene.anatomy
    table = Table(box=None, pad_edge=False)
    for column in ("component", "in all layers", "kept", "residual"):
        table.add_column(column, justify="left" if column == "component" else "right")
    for template, info in learngene.components.items():
        path = template.replace(".{}", "")
        dense = info.numel * sum(t.template == template for t in anatomy.tensors.values())
        kept = sum(p.numel() for n, p in learngene.shared.named_parameters() if n.startswith(f"{path}."))
        table.add_row(path, f"{dense:,}", f"{kept:,}", f"{learngene.residuals.get(path, float('nan')):.3f}")
    head = (
        f"{type(learngene).__name__} of {config.base_architecture} ({anatomy.num_layers} layers, width "
        f"{anatomy.sizes['hidden_size']}): stores {learngene.stored_share:.1%} of the dense model's parameters"
    )
    return f"{head}\n\n{render(table)}"
