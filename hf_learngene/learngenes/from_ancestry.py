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
from hf_learngene.calibration.processing import resolved_processor
from hf_learngene.errors import UnknownOptionError
from hf_learngene.hub import provenance
from hf_learngene.hub.card_parts import license_of
from hf_learngene.hub.load import load_whole, pinned
from hf_learngene.learngenes.ancestry_mixin import EXAMPLES, check_read, lasting
from hf_learngene.learngenes.base import Learngene
from hf_learngene.learngenes.parts import path_of
from hf_learngene.learngenes.refit import check_one_depth, refit
from hf_learngene.learngenes.registry import config_class_of, learngene_class_of, registered_learngenes
from hf_learngene.learngenes.series import depth_and_width
from hf_learngene.resizing.calibrating import examples_of
from hf_learngene.resizing.execute import check_source
from hf_learngene.resizing.sizes import canonical
from hf_learngene.resizing.spec import AUTO, LOADING, ResizeSpec
from hf_learngene.resizing.stage_sizes import stage_size
from hf_learngene.state import seeded
from hf_learngene.tables import render


logger = logging.get_logger("transformers")


def fitted_learngene(
    model: PreTrainedModel | str | os.PathLike[str],
    learngene_type: str,
    options: Mapping[str, Any],
    seed: int,
    origin: Mapping[str, Any] | None = None,
) -> Learngene:
    """A learngene fitted to a model, see `AutoLearngene.from_ancestry`; `origin` (of `origin_of`) tells of a model in memory."""
    config_class, model_class, source = config_class_of(learngene_type), learngene_class_of(learngene_type), None
    examples, default = {n: v for n, v in options.items() if n in EXAMPLES}, model_class.default_calibration
    if isinstance(examples.setdefault("calibration", AUTO), str) and examples["calibration"] == AUTO:
        examples["calibration"] = default
    _check_examples(model_class, examples)
    examples["calibration"] = lasting(examples["calibration"], examples.get("calibration_size"))
    loading = {n: v for n, v in options.items() if n in LOADING}
    if isinstance(model, PreTrainedModel):
        _check_no_loading(model, loading)
        origin = origin_in_memory(model) if origin is None else origin
    else:
        source, loading = os.fspath(model), pinned(model, loading)
        with seeded(seed):
            model = load_whole(source, **loading)
        origin = origin_of(source, loading)
    check_source(model)
    own = {n: v for n, v in options.items() if n in config_class.option_names()}
    sizes = {n: v for n, v in options.items() if n not in own and n not in LOADING and n not in examples}
    anatomy = anatomy_of(model.config, type(model))
    model_class.check_family(anatomy)
    if examples["calibration"] is not None:
        check_one_depth(anatomy)
    config_class.check_options(
        {n: v for n, v in sizes.items() if canonical(anatomy, n) is stage_size(anatomy, n) is None}
    )
    if examples["calibration"] is not None or default is not None or "processing_class" in examples:
        given = examples.get("processing_class")
        examples["processing_class"] = resolved_processor(given, model, source, loading)
    auxiliary, found = model_class.auxiliary_of(model, sizes, own, seed, examples)
    config = config_class(
        base_config=auxiliary.config.to_dict(),
        base_architecture=type(model).__name__,
        ancestry_parameters=anatomy.num_parameters,
        **origin,
        **own,
        **found,
    )
    dtype = model.dtype if model.dtype in (torch.float32, torch.float64) else torch.float32
    with seeded(seed), torch.inference_mode(False):  # what no component is fitted to keeps what was drawn
        learngene = cast(Any, model_class)(config)
        learngene.to(device=model.device, dtype=dtype)
        learngene.fit_to(auxiliary)
    learngene.processing_class = examples.get("processing_class")
    if examples["calibration"] is not None and model_class.refits:
        with examples_of(ResizeSpec.parse({}, seed=seed, **examples), auxiliary) as seen, seeded(seed):
            refit(learngene, auxiliary, seen)
    logger.info(report(learngene))
    return learngene.eval()


def _check_examples(model_class: type[Learngene], examples: Mapping[str, Any]) -> None:
    """Refuses examples for a kind that looks at none, and what says how examples are read where there are none."""
    given = [n for n, v in examples.items() if n != "processing_class" and v is not None]
    if given and not model_class.refits and model_class.default_calibration is None:
        known = {kind: learngene_class_of(kind) for kind in registered_learngenes()}
        takers = [kind for kind, each in known.items() if each.refits or each.default_calibration is not None]
        raise UnknownOptionError(
            f"`{model_class.config_class.learngene_type}` looks at no examples, so {given[0]}= would do nothing; "
            f"{', '.join(takers)} do."
        )
    check_read(
        examples["calibration"], **{n: v for n, v in examples.items() if n not in ("calibration", "processing_class")}
    )


def origin_of(source: str, loading: Mapping[str, Any], commit: str | None = None) -> dict[str, Any]:
    """Fields that a learngene's config holds of its ancestry: name, commit, and licence, which goes with the weights.

    Args:
        source: a Hub id or a folder.
        loading: keywords it was loaded with, `pinned`; README.md is fetched with them.
        commit: where it is known otherwise.
    """
    return {
        "ancestry": provenance.public_name(source),
        "ancestry_commit": commit or getattr(loading.get("revision"), "resolved", None),
        "license": license_of(source, loading),
    }


def origin_in_memory(model: PreTrainedModel) -> dict[str, Any]:
    """Fields of `origin_of` for a model that somebody else loaded, as far as its config tells."""
    name, commit = model.config._name_or_path, getattr(model.config, "_commit_hash", None)
    if not name:
        return {}
    # without a commit, it may be the name of a folder that is gone, and the Hub's model of that name another's
    return origin_of(name, {"revision": commit} if commit else {"local_files_only": True}, commit)


def _check_no_loading(model: PreTrainedModel, loading: Mapping[str, Any]) -> None:
    given = [name for name, value in loading.items() if value is not None]
    if given:
        raise UnknownOptionError(
            f"{given[0]!r} says how a checkpoint is loaded, and this {type(model).__name__} is loaded already: give the "
            "checkpoint's id or folder, or load the model with it."
        )


def report(learngene: Learngene) -> str:
    """A table of what is kept of each component, and how far the fit is from it."""
    config = learngene.config
    table = Table(box=None, pad_edge=False)
    for column in ("component", "in all layers", "kept", "residual"):
        table.add_column(column, justify="left" if column == "component" else "right")
    for template, info in learngene.components.items():
        path = path_of(template)
        dense = info.numel * len(learngene.places[template])
        kept = sum(p.numel() for n, p in learngene.shared.named_parameters() if n.startswith(f"{path}."))
        table.add_row(path, f"{dense:,}", f"{kept:,}", f"{learngene.residuals.get(path, float('nan')):.3f}")
    head = (
        f"{type(learngene).__name__} of {config.base_architecture} ({depth_and_width(learngene.anatomy)}): stores "
        f"{learngene.stored_share:.1%} of the dense model's parameters"
    )
    return f"{head}\n\n{render(table)}"
