"""`plan`, the verb for people: an id, a path, a config or a model."""

from __future__ import annotations

import os
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.errors import UnsupportedSourceError
from hf_learngene.methods import Method
from hf_learngene.resizing import provenance
from hf_learngene.resizing.auto import class_of_checkpoint
from hf_learngene.resizing.loading import plan_checkpoint
from hf_learngene.resizing.plan import Plan, make_plan
from hf_learngene.resizing.request import split_options


def plan(
    source: str | os.PathLike | PreTrainedConfig | PreTrainedModel,
    *,
    method: str | Method = "auto",
    params: str | int | float | None = None,
    seed: int = 0,
    model_class: type[PreTrainedModel] | None = None,
    **sizes_and_options: Any,
) -> Plan:
    """What a resize would do, before any weight is read or downloaded. `print` it.

    Args:
        source: a Hub id or folder (only its config is fetched), a config, or a model.
        method (`str` or `Method`, *optional*, defaults to `"auto"`): as in `resize`.
        params (`str`, `int` or `float`, *optional*): a parameter budget, `"20M"` or a share such as `0.25`.
        seed (`int`, *optional*, defaults to 0): noted in the plan.
        model_class (`type`, *optional*): the class to plan for. Default: the one named in the checkpoint's config.
        **sizes_and_options: sizes, options of the method, and Hub keywords (`revision`, `token`, `cache_dir`, ...).

    Returns:
        `Plan` with `target_config`, `num_parameters` and `tensors`.

    Raises:
        LearngeneError: as `resize`.

    Example:
        >>> from transformers import ViTConfig
        >>> p = plan(ViTConfig(), hidden_size=384)
        >>> p.source_parameters, p.num_parameters, p.target_config.num_attention_heads
        (86389248, 21813504, 6)
    """
    if isinstance(source, (str, os.PathLike)):
        made, _, _ = plan_checkpoint(
            source,
            model_class,
            method=method,
            params=params,
            seed=seed,
            given=sizes_and_options,
            choose_class=class_of_checkpoint,
        )
        return made
    if not isinstance(source, (PreTrainedConfig, PreTrainedModel)):
        raise UnsupportedSourceError(
            f"plan takes a Hub id, a folder, a config or a transformers model; this is a {type(source).__name__}."
        )
    config = source if isinstance(source, PreTrainedConfig) else source.config
    cls = model_class or (type(source) if isinstance(source, PreTrainedModel) else class_of_checkpoint(config))
    wanted: Any = cls.config_class
    if not isinstance(config, wanted):
        raise UnsupportedSourceError(
            f"{cls.__name__} is built from a {wanted.__name__}; this is a {type(config).__name__} (`{config.model_type}`)."
        )
    provenance.check(config)
    sizes, options = split_options(sizes_and_options, method)
    return make_plan(config, cls, sizes, method, options, params, seed)
