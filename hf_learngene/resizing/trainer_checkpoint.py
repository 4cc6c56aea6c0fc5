"""A Trainer's checkpoint grown in the middle of a training: weights, optimizer states, and what else a resumed run reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from hf_learngene.disk import check_space
from hf_learngene.errors import TrainingStateError, first_line, naming
from hf_learngene.hub.files import source_files
from hf_learngene.hub.inputs import read_inputs
from hf_learngene.hub.load import load_whole
from hf_learngene.hub.output import check_output, whole_or_absent
from hf_learngene.methods import Method
from hf_learngene.resizing.calibrating import carry_out
from hf_learngene.resizing.from_pretrained import plan_checkpoint
from hf_learngene.resizing.optimizer_states import (
    AGAIN,
    FollowingStates,
    OptimizerStates,
    check_keeps_training,
    check_reset,
)
from hf_learngene.resizing.spec import ResizeSpec
from hf_learngene.training.resuming import STATE, fault_of, read_json, write_json


OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
# What is the same for any size: random states, the scaler of float16, and the arguments, which are never read here.
_COPIED = (SCHEDULER, "scaler.pt", "rng_state*.pth", "training_args.bin")
_SHARDED = (
    "optimizer.bin",
    "optimizer_*",
    "pytorch_model_fsdp*",
    "global_step*",
    "latest",
    "rank*-of-*",
    "optimizer.pt_*",
)
_BY_GROUP = ("base_lrs", "_last_lr", "lr_lambdas", "min_lrs")
_SMALL_FILES = 1 << 20


def resize_trainer_checkpoint(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    method: str | Method = "auto",
    seed: int = 0,
    reset: str | None = None,
    overwrite: bool = False,
    **sizes_and_options: Any,
) -> Path:
    """Grows a `checkpoint-N` of a Trainer to a checkpoint of a larger model, at the same step and with Adam's moments.

    Training goes on with `trainer.train(resume_from_checkpoint=output)`, a trainer of the model in `output` with the old
    arguments; the loss is what it was. The moments follow as in `resize_with_optimizer`. Learning rates, random states, step and
    logs are the source's; which checkpoint was best is found anew, for the old one is of the old size.

    Args:
        checkpoint (`str` or `os.PathLike`): a folder that a Trainer wrote, with its optimizer (Adam, AdamW or RAdam, not
            sharded). All parameters are trained, in the Trainer's groups or in one; an optimizer of others has to name them
            (`AdamW(model.named_parameters())`).
        output (`str` or `os.PathLike`): the folder to write, whole or not at all.
        method (`str` or `Method`, *optional*, defaults to `"auto"`): one that grows without loss: `lemon` or `hyperclone`.
        seed (`int`, *optional*, defaults to 0): as in `resize`.
        reset (`str`, *optional*): `"copies"` or `"all"`, as in `resize_with_optimizer`.
        overwrite (`bool`, *optional*, defaults to `False`): replace a saved model at `output`.
        **sizes_and_options: larger sizes, and options of the method.

    Returns:
        `Path` of the folder.

    Raises:
        TrainingStateError: no Trainer's checkpoint, states that do not follow, or a resize that changes the function.
        OutputError: the folder exists, or cannot be written.
        LearngeneError: what `resize` refuses. Nothing is written before all is checked.

    Example:
        >>> import torch, transformers
        >>> config = transformers.BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2)
        >>> runs = getfixture("tmp_path")
        >>> args = transformers.TrainingArguments(str(runs), max_steps=2, save_steps=2, report_to="none", disable_tqdm=True)
        >>> texts = [{"input_ids": torch.arange(8), "labels": i % 2} for i in range(8)]
        >>> bert = transformers.BertForSequenceClassification(config)
        >>> transformers.Trainer(bert, args, train_dataset=texts).train().global_step
        {...}
        2
        >>> folder = resize_trainer_checkpoint(runs / "checkpoint-2", runs / "grown" / "checkpoint-2", hidden_size=32)
        >>> grown = transformers.BertForSequenceClassification.from_pretrained(folder)
        >>> args.max_steps, args.output_dir = 4, str(runs / "grown")
        >>> transformers.Trainer(grown, args, train_dataset=texts).train(resume_from_checkpoint=str(folder)).global_step
        {...}
        4
    """
    check_reset(reset)
    path = check_output(output, overwrite, checkpoint)
    folder = _checked(checkpoint)
    spec = ResizeSpec.parse(sizes_and_options, method=method, seed=seed)
    plan, loading = plan_checkpoint(folder, spec)
    check_keeps_training(plan)
    held, scheduler = _read(folder / OPTIMIZER), _read(folder / SCHEDULER)
    model = load_whole(folder, plan.model_class, dtype="auto")
    with naming(folder / OPTIMIZER):
        states = OptimizerStates.of(held, _names(held, model), model)
    with naming(folder / SCHEDULER):
        _check_scheduler(scheduler, states)
    copied = source_files(folder, _COPIED, {})
    following = FollowingStates(states, reset)
    grown = carry_out(plan, model, source=os.fspath(folder), loading=loading, own=True, follow=following)
    inputs = read_inputs(grown, folder, loading)
    grown_states = following.states.in_order_of(grown).state_dict()
    needed = _bytes(grown_states) + sum(t.nbytes for t in {*grown.parameters(), *grown.buffers()}) + inputs.nbytes
    needed += sum(file.stat().st_size for file in copied) + _SMALL_FILES
    check_space(path, needed)
    with whole_or_absent(path, overwrite, needed) as written:
        grown.save_pretrained(written)
        inputs.write(written)
        torch.save(grown_states, written / OPTIMIZER)
        for file in copied:
            shutil.copyfile(file, written / file.name)
        best = {"best_metric": None, "best_global_step": None, "best_model_checkpoint": None}
        write_json(written / STATE, {**read_json(folder / STATE), **best})
    return Path(output)


def _checked(checkpoint: str | os.PathLike[str]) -> Path:
    """The folder, if it is a Trainer's whole checkpoint whose states lie in one file.

    Raises:
        TrainingStateError: says what it is instead.
    """
    folder = Path(checkpoint)
    if not (folder / STATE).is_file():
        raise TrainingStateError(
            f"`{checkpoint}` is no Trainer's checkpoint: it has no {STATE}. Name a `checkpoint-N` below the output_dir of a run; "
            "hf_learngene.resize and `hf-learngene resize` take saved models."
        )
    if (folder / "adapter_config.json").is_file():
        raise TrainingStateError(
            f"`{checkpoint}` holds an adapter, and the moments of its factors do not follow. Carry the adapter alone: "
            "hf_learngene.resize_adapter."
        )
    sharded = sorted(path.name for pattern in _SHARDED for path in folder.glob(pattern))
    if sharded:
        raise TrainingStateError(
            f"`{checkpoint}` holds sharded states (`{sharded[0]}`, as FSDP and DeepSpeed write them), which "
            f"do not follow. {AGAIN}"
        )
    if absent := [name for name in (OPTIMIZER, SCHEDULER) if not (folder / name).is_file()]:
        raise TrainingStateError(
            f"`{checkpoint}` holds no {absent[0]}: the run saved its model alone (save_only_model). {AGAIN}"
        )
    if (fault := fault_of(folder)) is not None:
        raise TrainingStateError(f"`{checkpoint}` is not whole ({fault}): its writing was interrupted.")
    if not isinstance(read_json(folder / STATE), dict):
        raise TrainingStateError(f"{STATE} of `{checkpoint}` is no state of a Trainer.")
    return folder


def _read(file: Path) -> dict[str, Any]:
    """What a file of states holds. Nothing but tensors and plain values is ever read from it."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or foreign pickle makes of the reader
        raise TrainingStateError(
            f"`{file}` holds more than tensors and plain values, or is damaged: {first_line(error)}. {AGAIN}"
        ) from error
    groups = found.get("param_groups") if isinstance(found, dict) else None
    if not isinstance(found, dict) or (
        file.name == OPTIMIZER and not (groups and isinstance(found.get("state"), dict))
    ):
        raise TrainingStateError(f"`{file}` is no state_dict of torch. {AGAIN}")
    return found


def _names(held: Mapping[str, Any], model: PreTrainedModel) -> Sequence[Sequence[str]]:
    """The parameters of each group of an optimizer that a Trainer made, or that says their names.

    Raises:
        TrainingStateError: it is not told which parameters they are.
    """
    every = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = held["param_groups"]
    if all("param_names" in group for group in groups):
        named = [list(group["param_names"]) for group in groups]
        if all(names == [n for n in every if n in set(names)] for names in named):
            return named
        raise TrainingStateError(
            "The parameters that the optimizer names are not those of the model, or not in its order. Give it a model as it is "
            f"saved, unwrapped, in the order of named_parameters(). {AGAIN}"
        )
    decayed = set(Trainer.get_decay_parameter_names(cast(Any, None), model))
    of_trainer = [[n for n in every if n in decayed], [n for n in every if n not in decayed]]
    for names in (of_trainer, [every]):
        if [len(group["params"]) for group in groups] == [len(group) for group in names]:
            return names
    held_there = sum(len(group["params"]) for group in groups)
    raise TrainingStateError(
        f"The optimizer holds {held_there} parameters in {len(groups)} groups, and the model {len(every)}, in the Trainer's "
        f"groups {len(of_trainer[0])} with weight decay and {len(of_trainer[1])} without: some are frozen, or grouped otherwise, "
        "and the file does not say which. An optimizer that is given named parameters writes their names too: "
        "AdamW(model.named_parameters()). resize_with_optimizer takes a model and its optimizer as they are in memory."
    )


def _check_scheduler(found: Any, states: OptimizerStates) -> None:
    """Refuses a scheduler whose state is of the source's parameters, or of other groups than the optimizer's."""
    names = {name for group in states.names for name in group}
    if isinstance(found, Tensor) and found.dim() > 0:
        raise TrainingStateError(
            f"The scheduler holds tensors of shape {tuple(found.shape)}, which are not resized. {AGAIN}"
        )
    if isinstance(found, str) and found in names:
        raise TrainingStateError(
            f"The scheduler names parameters (`{found}`), and the larger model has others. {AGAIN}"
        )
    if isinstance(found, Mapping):
        for key in _BY_GROUP:
            rates = found.get(key)
            if isinstance(rates, (list, tuple)) and len(rates) != len(states.groups):
                raise TrainingStateError(
                    f"The scheduler knows {len(rates)} groups of parameters (`{key}`), and the optimizer has "
                    f"{len(states.groups)}: they are not of one run. {AGAIN}"
                )
        for pair in found.items():
            _check_scheduler(pair, states)
    elif isinstance(found, (list, tuple, set)):
        for part in found:
            _check_scheduler(part, states)


def _bytes(state_dict: Mapping[str, Any]) -> int:
    return sum(v.nbytes for state in state_dict["state"].values() for v in state.values() if isinstance(v, Tensor))


__all__ = ["resize_trainer_checkpoint"]
