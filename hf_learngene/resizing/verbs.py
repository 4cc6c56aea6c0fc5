"""The verbs: `plan` what a resize would do, `resize` a model in memory, `allocate` a parameter budget."""

from __future__ import annotations

import os
from typing import Any, cast

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.budget.search import Allocation
from hf_learngene.calibration.examples import Examples
from hf_learngene.errors import InvalidSizeError, UnsupportedSourceError
from hf_learngene.hub import provenance
from hf_learngene.hub.tasks import class_of_checkpoint
from hf_learngene.methods import Method
from hf_learngene.resizing.execute import check_source, examples_for, execute, spend_budget
from hf_learngene.resizing.from_pretrained import plan_checkpoint
from hf_learngene.resizing.plan import Plan, make_plan
from hf_learngene.resizing.spec import ResizeSpec


def resize(
    model: PreTrainedModel,
    *,
    method: str | Method = "auto",
    params: str | int | float | None = None,
    seed: int = 0,
    calibration: Any = None,
    processing_class: Any = None,
    kept_tokens: Any = None,
    pad_to_multiple_of: int | None = None,
    **sizes_and_options: Any,
) -> PreTrainedModel:
    """A model of another size, started from `model`. The source is left as it is.

    Args:
        model (`PreTrainedModel`): an encoder of a native transformers class, with any head.
        method (`str` or `Method`, *optional*, defaults to `"auto"`): `auto` grows with `lemon` and shrinks with
            `weight_selection`, or with `calibrated` where `calibration` is given; see `registered_methods()`.
        params (`str`, `int` or `float`, *optional*): a parameter budget (`"20M"`, or a share such as `0.25`): width and
            depth are chosen in the source's proportions; where `calibration` shrinks, width, heads, ffn and depth by the error
            that each of them is measured to leave (`allocate` shows the measurements).
        seed (`int`, *optional*, defaults to 0): for every random number: equal seeds give equal models.
        calibration (*optional*): a few hundred unlabelled examples for methods that look at some: a `datasets.Dataset` or a list
            of dicts with the model's columns, a `DataLoader`, or texts or images. Only `taylor` looks at labels.
        processing_class (*optional*): the source's tokenizer or image processor, where `calibration` holds texts or images.
        kept_tokens (*optional*): ids of the tokens that stay, ascending, as `trim_tokenizer` gives them. Their rows of the
            embeddings and of the decoder are the new vocabulary, and the config's token ids follow. It implies `vocab_size`.
        pad_to_multiple_of (`int`, *optional*): with `kept_tokens`: rows are added up to a multiple of it.
        **sizes_and_options: sizes by the config's own field names (`hidden_size=384`, `num_hidden_layers=6`, ...), and
            options of the method (`element_selection="consecutive"`).

    Returns:
        `PreTrainedModel` of the same class, in eval mode, in the source's dtype and on its device, with
        `config.learngene` telling where it comes from.

    Raises:
        LearngeneError: a `ValueError` for everything that cannot be done, before any weight is touched.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2)
        >>> big = BertModel(config)
        >>> small = resize(big, hidden_size=8, num_hidden_layers=1)
        >>> small.config.hidden_size, small.config.num_attention_heads, small.config.learngene["passes"][0]["method"]
        (8, 1, 'weight_selection')
    """
    spec = ResizeSpec.parse(
        sizes_and_options,
        method=method,
        params=params,
        seed=seed,
        calibration=calibration,
        processing_class=processing_class,
        kept_tokens=kept_tokens,
        pad_to_multiple_of=pad_to_multiple_of,
    )
    check_source(model)
    provenance.check(model.config)
    made = make_plan(model.config, type(model), spec)
    with examples_for(made, model) as examples:
        resized = execute(made, model, source=model.config._name_or_path or None, examples=examples)
    provenance.seal(resized)
    return resized


def plan(
    source: str | os.PathLike | PreTrainedConfig | PreTrainedModel,
    *,
    method: str | Method = "auto",
    params: str | int | float | None = None,
    seed: int = 0,
    model_class: type[PreTrainedModel] | None = None,
    kept_tokens: Any = None,
    pad_to_multiple_of: int | None = None,
    **sizes_and_options: Any,
) -> Plan:
    """What a resize would do, before any weight is read or downloaded. `print` it.

    Args:
        source: a Hub id or folder (only its config is fetched), a config, or a model.
        method (`str` or `Method`, *optional*, defaults to `"auto"`): as in `resize`.
        params (`str`, `int` or `float`, *optional*): a parameter budget, `"20M"` or a share such as `0.25`.
        seed (`int`, *optional*, defaults to 0): noted in the plan.
        model_class (`type`, *optional*): the class to plan for. Default: the one named in the checkpoint's config.
        kept_tokens (*optional*): ids of the tokens that stay, as in `resize`.
        pad_to_multiple_of (`int`, *optional*): with `kept_tokens`, as in `resize`.
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
    spec = ResizeSpec.parse(
        sizes_and_options,
        method=method,
        params=params,
        seed=seed,
        kept_tokens=kept_tokens,
        pad_to_multiple_of=pad_to_multiple_of,
        loads=isinstance(source, (str, os.PathLike)),
    )
    if isinstance(source, (str, os.PathLike)):
        return plan_checkpoint(source, spec, model_class)[0]
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
    return make_plan(config, cls, spec)


def allocate(
    model: PreTrainedModel,
    params: str | int | float,
    calibration: Any,
    *,
    processing_class: Any = None,
    seed: int = 0,
    ridge: float = 1e-3,
    **sizes: Any,
) -> Allocation:
    """The sizes that `resize(model, params=..., calibration=...)` chooses for a parameter budget, and why. `print` it.

    Sensitivity first: each size is pruned alone, and its error measured on held-out examples. Then the combinations within the
    budget whose errors add up to least are pruned and measured. Layers are uniform, as in a stock config.

    Args:
        model (`PreTrainedModel`): the source.
        params (`str`, `int` or `float`): the budget, `"10M"` or a share such as `0.25`.
        calibration: a few hundred unlabelled examples, as in `resize`.
        processing_class (*optional*): tokenizer or image processor, where `calibration` holds texts or images.
        seed (`int`, *optional*, defaults to 0): as in `resize`.
        ridge (`float`, *optional*, defaults to 0.001): of the `calibrated` method.
        **sizes: sizes that are fixed at what is given.

    Returns:
        `Allocation` with `sizes`, `full` (keywords for `resize`), `axes` and `tried`.

    Raises:
        LearngeneError: a budget that no combination meets, or that is not smaller than the source.

    Example:
        >>> import torch, transformers
        >>> config = transformers.ViTConfig(hidden_size=32, num_attention_heads=4, intermediate_size=64, num_hidden_layers=4,
        ...                                 image_size=16, patch_size=4)
        >>> vit = transformers.ViTForImageClassification(config)
        >>> examples = [{"pixel_values": torch.randn(3, 16, 16)} for _ in range(96)]
        >>> found = allocate(vit, 0.5, examples, hidden_size=32)
        >>> found.sizes["hidden_size"], found.tried[0].parameters <= 0.5 * vit.num_parameters()
        (32, True)
    """
    spec = ResizeSpec.parse(
        {**sizes, "ridge": ridge},
        method="calibrated",
        params=params,
        seed=seed,
        calibration=calibration,
        processing_class=processing_class,
    )
    check_source(model)
    provenance.check(model.config)
    made = make_plan(model.config, type(model), spec)
    if made.budget is None:
        raise InvalidSizeError(
            f"params={params!r} is no less than the model's {made.source_parameters:,} parameters: there is nothing to shrink. "
            "resize(model, params=...) grows it."
        )
    with examples_for(made, model) as examples:
        return spend_budget(made, model, cast(Examples, examples))[1]
