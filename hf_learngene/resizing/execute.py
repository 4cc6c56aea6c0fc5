"""`resize`: a model in memory to a model of another size."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_learngene.anatomy.axes import layer_of
from hf_learngene.budget.search import Allocation, allocated
from hf_learngene.errors import CalibrationError, UnsupportedSourceError
from hf_learngene.hub import provenance
from hf_learngene.maps import apply
from hf_learngene.methods import Calibrated, Method, PruningMethod
from hf_learngene.pruning import Examples
from hf_learngene.resizing.calibration import decided, fit_table, refitted
from hf_learngene.resizing.fresh import drawn
from hf_learngene.resizing.plan import Pass, Plan, make_plan
from hf_learngene.state import quiet, seeded


logger = logging.get_logger(__name__)
reports = logging.get_logger("transformers")  # its verbosity settings are the ones people know


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
    from hf_learngene.resizing.spec import split_options

    check_source(model)
    sizes, options = split_options(sizes_and_options, method)
    provenance.check(model.config)
    made = make_plan(
        model.config,
        type(model),
        sizes,
        method,
        options,
        params,
        seed,
        calibrated=calibration is not None,
        kept_tokens=kept_tokens,
        pad_to_multiple_of=pad_to_multiple_of,
    )
    examples = examples_for(made, calibration, model, processing_class)
    return carry_out(made, model, model.config._name_or_path or None, None, examples=examples)


def within_budget(plan: Plan, model: PreTrainedModel, examples: Examples) -> tuple[Plan, Allocation]:
    """The plan with its budget spent by measured error; and why."""
    method, missing = plan.passes[0].method, plan.passes[0].missing

    def planned(given: Mapping[str, Any]) -> Plan:
        # what is tried has the source's vocabulary, for the examples are in its ids
        tokens = plan.vocabulary if "vocab_size" in given else None
        return make_plan(
            plan.source_config,
            plan.model_class,
            given,
            method,
            seed=plan.seed,
            missing=missing,
            calibrated=True,
            kept_tokens=tokens.kept if tokens is not None else None,
            pad_to_multiple_of=tokens.multiple if tokens is not None else None,
        )

    def shrink(given: Mapping[str, int], part: Any) -> PreTrainedModel:
        with quiet():
            return carry_out(planned(given), model, None, None, examples=part)

    found = allocated(model, plan.source, plan.budget or 1.0, examples, plan.asked, shrink)
    reports.info("\n%s", found)
    return planned(found.full), found


def check_source(model: PreTrainedModel) -> None:
    """Refuses a model whose weights cannot be read as they are.

    Raises:
        UnsupportedSourceError: says what is in the way and how to get rid of it.
    """
    if not isinstance(model, PreTrainedModel):
        hint = " Call merge_and_unload() on it first." if hasattr(model, "merge_and_unload") else ""
        raise UnsupportedSourceError(f"resize takes a transformers model; this is a {type(model).__name__}.{hint}")
    if getattr(model, "is_quantized", False) or getattr(model, "quantization_method", None) is not None:
        raise UnsupportedSourceError(
            "The model is quantized; packed weights cannot be resized. Load it without quantization_config, resize, "
            "then quantize."
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UnsupportedSourceError(
            "The model carries adapters. Merge or delete them, resize, then add adapters anew."
        )
    devices = {p.device for p in model.parameters()}
    if len(devices) > 1 or len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        raise UnsupportedSourceError(
            f"The model is spread over {', '.join(sorted(map(str, devices)))}. Load it on one device (device_map=None), resize, "
            "then spread the result."
        )
    if devices == {torch.device("meta")}:
        raise UnsupportedSourceError("The model is on meta and has no weights. `plan` needs none; `resize` does.")
    sharded = [n for n, p in model.named_parameters() if type(p.data).__name__ == "DTensor"]
    if sharded:
        raise UnsupportedSourceError(f"`{sharded[0]}` is a slice on this process (DTensor). Resize before you shard.")


def carry_out(
    plan: Plan,
    model: PreTrainedModel,
    source: str | None,
    commit: str | None,
    own: bool = False,
    examples: Examples | None = None,
    tell: Callable[[str], Any] | None = None,
) -> PreTrainedModel:
    """Makes the model that a plan describes. A source of our `own` may lend its memory to what is kept."""
    _check_fits(plan, model)
    _check_examples(plan, examples)
    if plan.budget is not None and examples is not None:
        plan = within_budget(plan, model, examples)[0]
    current, fits = _precise(plan, model), []
    for number, stage in enumerate(plan.passes):
        last = number == len(plan.passes) - 1
        if isinstance(stage.method, PruningMethod):
            stage = decided(stage, plan.model_class, current, examples, plan.seed)
            plan = dataclasses.replace(plan, passes=(*plan.passes[:number], stage, *plan.passes[number + 1 :]))
        config = stage.config
        if last:
            config.learngene = plan.record(source, commit)
        # what is refitted is compared with its source, and must not be it
        share = (own or number > 0) and not isinstance(stage.method, Calibrated)
        made = _make(plan.model_class, config, current, stage, plan.seed, share)
        if isinstance(stage.method, Calibrated) and examples is not None:
            fits += refitted(stage, current, made, examples)
        current = made
    if current.dtype != model.dtype:
        current = cast(PreTrainedModel, nn.Module.to(current, dtype=model.dtype))
        current.config.dtype = model.dtype
    if reports.isEnabledFor(logging.INFO):
        reports.info("\n%s", plan)
        if fits:
            reports.info("\n%s", fit_table(fits))
    if fits and tell is not None:
        tell(fit_table(fits))
    fresh = plan.fresh
    if fresh and plan.method != "random":
        logger.warning_once(
            f"Newly initialised, not from the source: {', '.join(fresh[:4])}{', ...' if len(fresh) > 4 else ''}"
        )
    return current


def _precise(plan: Plan, model: PreTrainedModel) -> PreTrainedModel:
    """The model in float32 where it is to be refitted: half precision loses what the examples say."""
    if model.dtype not in (torch.bfloat16, torch.float16) or not any(
        isinstance(s.method, Calibrated) for s in plan.passes
    ):
        return model
    return copy.deepcopy(model).float()


def examples_for(plan: Plan, calibration: Any, model: PreTrainedModel, processing_class: Any) -> Examples | None:
    """The calibration examples as the plan's methods look at them."""
    if calibration is None:
        return None
    if not any(s.method.takes_calibration for s in plan.passes):
        logger.warning("calibration= is not looked at: nothing shrinks here, and %s takes no examples.", plan.method)
    return Examples(calibration, model, processing_class, labels=any(s.method.needs_labels for s in plan.passes))


def _check_examples(plan: Plan, examples: Examples | None) -> None:
    if examples is None and any(s.method.takes_calibration for s in plan.passes):
        labels = "with" if any(s.method.needs_labels for s in plan.passes) else "without"
        raise CalibrationError(
            f"method={plan.method!r} looks at examples: give calibration=, a few hundred of the model's kind, {labels} labels."
        )


def _check_fits(plan: Plan, model: PreTrainedModel) -> None:
    """Refuses a model that is not what its config says: a head replaced by hand, layers wrapped or pruned."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for tensor in plan.source.tensors.values():
        found = tuple(parameters[tensor.name].shape) if tensor.name in parameters else None
        if found != tensor.shape:
            raise UnsupportedSourceError(
                f"The model is not what its config says: `{tensor.name}` "
                f"{f'has shape {found}' if found else 'is absent'}, by the config it is {tensor.shape}. "
                "Merge adapters, undo changes of the modules, build it without arguments that leave parts out "
                "(add_pooling_layer=False), or set the config's sizes to the model's."
            )
    unknown = [name for name in parameters if name not in plan.source.tensors and name not in plan.source.ties]
    if unknown:
        raise UnsupportedSourceError(
            f"The model is not what its config says: it has more parameters ({len(unknown)}), such as `{unknown[0]}`. Set the "
            "config's sizes to the model's (num_hidden_layers, if layers were added), merge adapters, or take out what was added."
        )
    for name, first in plan.source.ties.items():
        if name in parameters and not torch.equal(parameters[name], parameters[first]):
            raise UnsupportedSourceError(
                f"The model is not what its config says: `{name}` and `{first}` are tied there and differ here. "
                "Call model.tie_weights(), or set config.tie_word_embeddings=False."
            )


def _make(model_class, config, model: PreTrainedModel, stage: Pass, seed: int, share: bool) -> PreTrainedModel:
    with torch.no_grad():
        state = dict(apply(_State(model), stage.recipes, seed, share))
        fresh = {r.name for r in stage.recipes if not r.sources}
        drawn_anew = drawn(model_class, config, stage.task.target, fresh, seed)
        state |= {name: tensor.to(model.dtype) for name, tensor in drawn_anew.items()}
    device = next(model.parameters()).device
    with seeded(seed), quiet():
        made = model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=model.dtype,
            attn_implementation=model.config._attn_implementation,
            device_map=None,
        )
    for name, parameter in made.named_parameters():  # a few classes fix the dtype of a parameter in their constructor
        if name in state and parameter.dtype != state[name].dtype:
            parameter.data = state[name]
    _carry_buffers(model, made, stage)
    made.name_or_path = model.name_or_path
    made.config._name_or_path = model.config._name_or_path
    # saved under the names that a model built from scratch is saved under, not those of the tensors above
    vars(made).pop("_weight_conversions", None)
    return made if device.type == "cpu" else cast(PreTrainedModel, nn.Module.to(made, device=device))


def _carry_buffers(model: PreTrainedModel, made: PreTrainedModel, stage: Pass) -> None:
    """Saved buffers of unchanged shape hold what was measured in training (I-BERT's ranges); others follow the config."""
    if stage.method.name == "random":
        return
    buffers = dict(model.named_buffers())
    containers = {t.template.partition(".{}.")[0] for t in stage.task.source.tensors.values() if t.layer is not None}
    for name in made.state_dict().keys() & dict(made.named_buffers()).keys():
        layer, template = layer_of(name, containers)
        origin = name if layer is None else template.format(stage.task.layer_map[layer].index)
        module, _, leaf = name.rpartition(".")
        if origin in buffers and buffers[origin].shape == made.get_buffer(name).shape:
            setattr(made.get_submodule(module), leaf, buffers[origin].clone())


class _State(Mapping):
    """The source's parameters by name, one at a time on the CPU: indices and noise are there."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.tensors = {n: p.detach() for n, p in model.named_parameters(remove_duplicate=False)}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name].cpu()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)
