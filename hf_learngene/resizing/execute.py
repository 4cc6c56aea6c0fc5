"""Carrying out a plan: from a model in memory to a model of another size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging
from transformers.utils.logging import is_progress_bar_enabled

from hf_learngene.budget.meter import Meter
from hf_learngene.budget.search import Allocation, allocated
from hf_learngene.calibration.examples import Batches, Examples
from hf_learngene.errors import RefitError, UnsupportedSourceError
from hf_learngene.pruning.refit import Fitted
from hf_learngene.resizing.build_model import build_model, cast_to
from hf_learngene.resizing.learning import learned
from hf_learngene.resizing.passes import Pass
from hf_learngene.resizing.plan import Plan, make_plan
from hf_learngene.resizing.table import fit_table
from hf_learngene.resizing.weights import Transfer
from hf_learngene.state import quiet, without_autocast


logger = logging.get_logger(__name__)
reports = logging.get_logger("transformers")  # its verbosity settings are the ones people know


@torch.inference_mode(False)  # its tensors could never be trained
@without_autocast()  # it would round what recipes multiply, too
def execute(
    plan: Plan,
    model: PreTrainedModel,
    *,
    source: str | None = None,
    commit: str | None = None,
    examples: Batches | None = None,
    own: bool = False,
    tell: Callable[[str], Any] | None = None,
    seen: Callable[[Pass, Pass, PreTrainedModel, PreTrainedModel], Any] | None = None,
    follow: Callable[[Pass, PreTrainedModel], Any] | None = None,
) -> PreTrainedModel:
    """The model that a plan describes.

    Args:
        plan: what is to be done.
        model: the source; it is left as it is.
        source: its name, for `config.learngene`.
        commit: the state of the Hub that it comes from.
        examples: calibration examples.
        own: whether the source may lend its memory to what is kept, since nobody else holds it.
        tell: is given the table of what each step of a refit left.
        seen: is given a pass that refits, the last of those that cut its result further (mostly itself), the source of the one
            and the result of the other.
        follow: is given each pass as it is run, and its source.

    Raises:
        UnsupportedSourceError: the model is not what its config says.
        CalibrationError: a method needs examples, and there are none, or they do not fit the model.
    """
    check_fits(plan, model)
    disable_progress = not is_progress_bar_enabled()
    current, fits, trained = _precise(plan, model), list[Fitted](), dict[str, Any]()
    refitted: tuple[Pass, PreTrainedModel] | None = (
        None  # a pass that refits and its source, until its result is compared
    )
    for number, step in enumerate(plan.passes):
        selection = step.method.select(step.task, current, examples, disable_progress)
        if selection is not None:
            step = step.keeping(selection)
            plan = plan.replacing(number, step)
        if number == len(plan.passes) - 1:
            step.config.learngene = plan.record(source, commit)
        if follow is not None:
            follow(step, current)
        # what is refitted or trained is compared with its source, and must not be it
        transfer = Transfer(current, step, share=(own or number > 0) and not _writes(step))
        made = build_model(
            step.model_class, step.config, transfer.weights(), current, anatomy=step.task.target, seed=plan.seed
        )
        transfer.carry_buffers(made)
        if step.method.learns:
            trained = learned(step, plan.spec, current, made)
        fits += step.method.refine(step.task, current, made, examples, disable_progress)
        refitted = (step, current) if step.method.refits else refitted
        # a hierarchy's widths may be cut behind what was calibrated: only then it shows what is left
        cut_later = any(p.method.shrinks and not p.method.refits for p in plan.passes[number + 1 :])
        if seen is not None and refitted is not None and not cut_later:
            seen(refitted[0], step, refitted[1], made)
            refitted = None
        current = made
    if current.dtype != model.dtype:
        _check_range(cast_to(current, model.dtype))
    if trained:
        current.config.learngene = {**current.config.learngene, "training": trained}
    report(plan, fits, tell)
    return current


def report(plan: Plan, fits: list[Fitted], tell: Callable[[str], Any] | None = None) -> None:
    """Logs a plan and what its refits left, tells the latter, and warns of what starts anew."""
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


def spend_budget(plan: Plan, model: PreTrainedModel, examples: Examples) -> tuple[Plan, Allocation]:
    """The plan with its budget spent by measured error; and why."""
    method, missing = plan.passes[0].method, plan.passes[0].task.missing

    def planned(sizes: Mapping[str, Any]) -> Plan:
        # what is tried has the source's vocabulary, for the examples are in its ids
        tokens = plan.vocabulary if "vocab_size" in sizes else None
        spec = plan.spec.with_sizes(
            sizes,
            method=method,
            kept_tokens=tokens.kept if tokens is not None else None,
            pad_to_multiple_of=tokens.multiple if tokens is not None else None,
        )
        return make_plan(plan.source_config, plan.model_class, spec, missing)

    def shrink(sizes: Mapping[str, int], part: Any) -> PreTrainedModel:
        with quiet():
            return execute(planned(sizes), model, examples=part)

    found = allocated(model, plan.source, cast(Meter, plan.budget), examples, plan.sizes, shrink)
    reports.info("\n%s", found)
    return planned(found.full), found


def _check_range(model: PreTrainedModel) -> None:
    """Refuses refitted weights that the source's own dtype cannot hold."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise RefitError(
                f"Refitted, `{name}` holds weights beyond the range of {str(model.dtype).removeprefix('torch.')}. Load the "
                "source in float32 or bfloat16 (dtype=)."
            )


def check_numbers(model: PreTrainedModel, source: str | None = None) -> None:
    """Refuses weights that are no numbers, before examples are looked at: whatever they are, nothing comes of them.

    Args:
        model: the source.
        source: its name, for the message.

    Raises:
        UnsupportedSourceError: names the first parameter.
    """
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise UnsupportedSourceError(
                f"`{name}` of {f'`{source}`' if source else 'the model'} is not all finite numbers: the model gives none either. "
                "It is damaged, or was saved in a dtype too narrow for it."
            )


def check_source(model: nn.Module) -> PreTrainedModel:
    """The model, if its weights can be read as they are.

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
            "The model carries adapters. Merge or delete them, resize, then add adapters anew; or give a PeftModel, whose "
            "adapter follows: resize(PeftModel.from_pretrained(base, adapter), ...)."
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
    return model


def _writes(step: Pass) -> bool:
    """Whether a pass writes into the model that it made, once that is there."""
    return step.method.refits or step.method.learns


def _precise(plan: Plan, model: PreTrainedModel) -> PreTrainedModel:
    """The model in float32 where it is to be refitted or trained: half precision loses what the examples say."""
    if model.dtype not in (torch.bfloat16, torch.float16) or not any(map(_writes, plan.passes)):
        return model
    return cast_to(copy.deepcopy(model), torch.float32)


def check_fits(plan: Plan, model: PreTrainedModel) -> None:
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
        # the very same tensor need not be read
        if name in parameters and not _same(parameters[name], parameters[first]):
            raise UnsupportedSourceError(
                f"The model is not what its config says: `{name}` and `{first}` are tied there and differ here. "
                "Call model.tie_weights(), or set config.tie_word_embeddings=False."
            )


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or torch.equal(one, other)
