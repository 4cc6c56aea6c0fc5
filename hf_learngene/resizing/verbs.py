"""The verbs: `plan` what a resize would do, `resize` a model in memory, `allocate` a parameter budget."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any, TypeVar, cast

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.budget.meter import Meter
from hf_learngene.budget.search import Allocation
from hf_learngene.calibration.examples import Examples
from hf_learngene.errors import InvalidSizeError, UnsupportedSourceError
from hf_learngene.hub import provenance
from hf_learngene.hub.tasks import class_of_checkpoint
from hf_learngene.methods import Method
from hf_learngene.resizing.calibrating import carry_out, examples_for
from hf_learngene.resizing.execute import check_source, spend_budget
from hf_learngene.resizing.from_pretrained import plan_checkpoint
from hf_learngene.resizing.plan import Plan, make_plan
from hf_learngene.resizing.spec import AUTO, SYNTHETIC, ResizeSpec


Model = TypeVar("Model", bound=nn.Module)


def resize(
    model: Model,
    *,
    method: str | Method = "auto",
    params: str | int | float | None = None,
    flops: str | int | float | None = None,
    latency: str | int | float | None = None,
    seed: int = 0,
    calibration: Any = AUTO,
    processing_class: Any = None,
    calibration_column: str | tuple[str, str] | None = None,
    calibration_size: int | None = None,
    calibration_top_up: bool = True,
    kept_tokens: Any = None,
    pad_to_multiple_of: int | None = None,
    train_dataset: Any = None,
    training: Any = None,
    **sizes_and_options: Any,
) -> Model:
    """A model of another size, started from `model`. The source is left as it is.

    Args:
        model (`PreTrainedModel` or `PeftModel`): an encoder of a native transformers class, with any head; or one with an
            adapter, which follows it.
        method (`str` or `Method`, *optional*, defaults to `"auto"`): `auto` grows with `lemon` and shrinks with `calibrated`;
            see `registered_methods()`.
        params (`str`, `int` or `float`, *optional*): a budget (`"20M"`, or a share such as `0.25`), never exceeded. What is
            refitted (`auto`, `calibrated`) shrinks in width, with all heads and layers; else width and depth are chosen in the
            source's proportions; where `calibration` is named, width, head size, ffn and depth by the error that each of them is
            measured to leave (`allocate` shows the measurements).
        flops (`str`, `int` or `float`, *optional*): a budget of FLOPs (`"4G"`, or a share) in place of parameters, of a
            forward pass of one example: an image of the config's size, or a text of 128 tokens. A multiply-add counts two.
        latency (`str`, `int` or `float`, *optional*): a budget of time (`"20ms"`, or a share) of such a pass, measured on this
            machine's CPU with random weights, while it is planned.
        seed (`int`, *optional*, defaults to 0): for every random number: equal seeds give equal models.
        calibration (*optional*, defaults to `"auto"`): what shrinking looks at: a few hundred unlabelled examples (a
            path, a `datasets.Dataset`, a list of dicts with the model's columns, a `DataLoader`, or texts or images).
            `"synthetic"` stands for made-up ones (`synthetic_examples`), which `"auto"` takes where a method needs some; None for
            no examples: `auto` then shrinks with `weight_selection`. Only `taylor` looks at labels.
        processing_class (*optional*): the source's tokenizer or image processor, for texts and images, or the name of a
            checkpoint that has one. Default: that of the checkpoint that the model comes from, if it is here.
        calibration_column (*optional*): the column of `calibration` that holds texts or images, or two names of a pair of texts.
        calibration_size (`int`, *optional*, defaults to 512): how many examples are looked at, spread over all that are given.
        calibration_top_up (`bool`, *optional*, defaults to `True`): whether made-up examples follow the given ones where those
            have too few tokens for the widest matrix and the method refits.
        kept_tokens (*optional*): ids of the tokens that stay, ascending, as `trim_tokenizer` gives them. Their rows of the
            embeddings and of the decoder are the new vocabulary, and the config's token ids follow. It implies `vocab_size`.
        pad_to_multiple_of (`int`, *optional*): with `kept_tokens`: rows are added up to a multiple of it.
        train_dataset (*optional*): what the methods that learn (`ligo`, `mango`) are trained on: the model's own columns, or
            images or texts, with labels unless it masks tokens; a data set, a path, or an id on the Hub.
        training (*optional*): how: `LearngeneTrainingArguments`, or a dict of its fields that differ from the defaults, 100 steps
            of 32 examples at a peak rate of 1e-3. With an `output_dir` it may save, and `resume_from_checkpoint` goes on.
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
        (8, 1, 'calibrated')
    """
    spec = ResizeSpec.parse(
        sizes_and_options,
        method=method,
        params=params,
        flops=flops,
        latency=latency,
        seed=seed,
        calibration=calibration,
        processing_class=processing_class,
        calibration_column=calibration_column,
        calibration_size=calibration_size,
        calibration_top_up=calibration_top_up,
        kept_tokens=kept_tokens,
        pad_to_multiple_of=pad_to_multiple_of,
        train_dataset=train_dataset,
        training=training,
    )
    peft = sys.modules.get("peft")
    if peft is not None and isinstance(model, peft.PeftModel):
        from hf_learngene.resizing.adapted import resize_adapted  # peft takes seconds to import

        return cast(Model, resize_adapted(model, spec))
    source = check_source(model)
    provenance.check(source.config)
    made = make_plan(source.config, type(source), spec)
    return cast(Model, carry_out(made, source, source=source.config._name_or_path or None))


def plan(
    source: str | os.PathLike | PreTrainedConfig | PreTrainedModel,
    *,
    method: str | Method = "auto",
    params: str | int | float | None = None,
    flops: str | int | float | None = None,
    latency: str | int | float | None = None,
    seed: int = 0,
    calibration: Any = AUTO,
    model_class: type[PreTrainedModel] | None = None,
    kept_tokens: Any = None,
    pad_to_multiple_of: int | None = None,
    **sizes_and_options: Any,
) -> Plan:
    """What a resize would do, before any weight is read or downloaded. `print` it.

    Args:
        source: a Hub id or folder (only its config is fetched), a config, or a model.
        method (`str` or `Method`, *optional*, defaults to `"auto"`): as in `resize`.
        params (`str`, `int` or `float`, *optional*): a budget, `"20M"` parameters or a share such as `0.25`: a ceiling.
        flops (`str`, `int` or `float`, *optional*): the same for `"4G"` FLOPs, or a share; see `resize`.
        latency (`str`, `int` or `float`, *optional*): the same for `"20ms"` on this CPU, or a share; see `resize`.
        seed (`int`, *optional*, defaults to 0): noted in the plan.
        calibration (*optional*, defaults to `"auto"`): as in `resize`; None shows what is done without any examples.
        model_class (`type`, *optional*): the class to plan for. Default: the one named in the checkpoint's config.
        kept_tokens (*optional*): ids of the tokens that stay, as in `resize`.
        pad_to_multiple_of (`int`, *optional*): with `kept_tokens`, as in `resize`.
        **sizes_and_options: sizes, options of the method, and Hub keywords (`revision`, `token`, `cache_dir`, ...).

    Returns:
        `Plan` with `target_config`, `num_parameters`, `costs` and `tensors`; `apply(model)` carries it out.

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
        flops=flops,
        latency=latency,
        seed=seed,
        calibration=calibration,
        kept_tokens=kept_tokens,
        pad_to_multiple_of=pad_to_multiple_of,
        loads=isinstance(source, (str, os.PathLike)),
    )
    if isinstance(source, (str, os.PathLike)):
        return _applicable(plan_checkpoint(source, spec, model_class)[0])
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
    return _applicable(make_plan(config, cls, spec))


def _applicable(made: Plan) -> Plan:
    def apply(plan: Plan, model: PreTrainedModel) -> PreTrainedModel:
        source = check_source(model)
        provenance.check(source.config)
        return carry_out(plan, source, source=source.config._name_or_path or None)

    return dataclasses.replace(made, carry_out=apply)


def allocate(
    model: PreTrainedModel,
    params: str | int | float | None = None,
    calibration: Any = SYNTHETIC,
    *,
    flops: str | int | float | None = None,
    latency: str | int | float | None = None,
    processing_class: Any = None,
    calibration_column: str | tuple[str, str] | None = None,
    calibration_size: int | None = None,
    calibration_top_up: bool = True,
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
        flops (`str`, `int` or `float`, *optional*): the same for FLOPs, in place of `params`.
        latency (`str`, `int` or `float`, *optional*): the same for time.
        calibration (*optional*, defaults to `"synthetic"`): a few hundred unlabelled examples, as in `resize`, or made-up ones.
        processing_class (*optional*): tokenizer or image processor, as in `resize`.
        calibration_column (*optional*): which column of `calibration` holds texts or images.
        calibration_size (`int`, *optional*, defaults to 512): how many examples are looked at.
        calibration_top_up (`bool`, *optional*, defaults to `True`): whether made-up examples follow too few.
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
        flops=flops,
        latency=latency,
        seed=seed,
        calibration=calibration,
        processing_class=processing_class,
        calibration_column=calibration_column,
        calibration_size=calibration_size,
        calibration_top_up=calibration_top_up,
    )
    check_source(model)
    provenance.check(model.config)
    if spec.budget is None:
        raise InvalidSizeError("allocate spends a budget: give params, such as 0.5, or flops= or latency=.")
    made = make_plan(model.config, type(model), spec)
    if made.budget is None:
        meter, name = cast(Meter, made.meter), spec.budget.quantity
        raise InvalidSizeError(
            f"{name}={spec.budget.amount!r} is no less than the model's {meter.told(meter.source)}: there is nothing to shrink. "
            f"resize(model, {name}=...) grows it."
        )
    with examples_for(made, model) as examples:
        return spend_budget(made, model, cast(Examples, examples))[1]
