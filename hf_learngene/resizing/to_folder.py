"""`resize_checkpoint`: from a checkpoint to a folder, with no more in memory at once than need be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_learngene.hub.card import model_card
from hf_learngene.hub.files import hub_keywords
from hf_learngene.hub.output import check_output
from hf_learngene.hub.save import save_resized, write_resized
from hf_learngene.hub.shards import SHARD_SIZE, check_shard_size
from hf_learngene.hub.tasks import class_of_checkpoint
from hf_learngene.methods import Method
from hf_learngene.resizing.calibrating import carry_out
from hf_learngene.resizing.from_pretrained import ChooseClass, commit_of, load_planned
from hf_learngene.resizing.plan import Plan
from hf_learngene.resizing.spec import AUTO, ResizeSpec
from hf_learngene.resizing.streaming import Streamed


def resize_checkpoint(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    method: str | Method = "auto",
    params: str | int | float | None = None,
    flops: str | int | float | None = None,
    latency: str | int | float | None = None,
    seed: int = 0,
    calibration: Any = AUTO,
    model_class: type[PreTrainedModel] | None = None,
    overwrite: bool = False,
    max_shard_size: int | str = SHARD_SIZE,
    **sizes_and_options: Any,
) -> Path:
    """A checkpoint of another size, written to a folder with its tokenizer or image processor and its card.

    What is written is what `save_resized(from_pretrained_resized(source, ...), output)` writes, bit by bit. Where a method
    needs neither examples nor a run of the model (`calibration=None`, or a growth), each tensor is made when it is written
    and then forgotten: the source may be larger than memory, and so may the result. Other methods load the source.

    Args:
        source (`str` or `os.PathLike`): a Hub id or a folder.
        output (`str` or `os.PathLike`): the folder to make.
        method (`str` or `Method`, *optional*, defaults to `"auto"`): as in `resize`.
        params (`str`, `int` or `float`, *optional*): a budget, as in `resize`.
        flops (`str`, `int` or `float`, *optional*): a budget of FLOPs, as in `resize`.
        latency (`str`, `int` or `float`, *optional*): a budget of time, as in `resize`.
        seed (`int`, *optional*, defaults to 0): for every random number.
        calibration (*optional*, defaults to `"auto"`): examples, as in `resize`; None for none.
        model_class (`type`, *optional*): the class of the result. Default: the one named in the checkpoint's config.
        overwrite (`bool`, *optional*, defaults to `False`): replace a saved model, once the new one is complete.
        max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`): the largest file of weights, as in `save_pretrained`.
        **sizes_and_options: sizes, options of the method, and keywords of `from_pretrained` (`revision`, `token`, ...).

    Returns:
        `Path` of the folder.

    Raises:
        LearngeneError: as `from_pretrained_resized` and `save_resized`; there is never half a model at `output`.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> folder = getfixture("tmp_path")
        >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2)
        >>> BertModel(config).save_pretrained(folder / "bert")
        >>> made = resize_checkpoint(folder / "bert", folder / "deeper", num_hidden_layers=4)
        >>> BertModel.from_pretrained(made).config.num_hidden_layers
        4
    """
    check_shard_size(max_shard_size)
    check_output(output, overwrite, source)
    spec = ResizeSpec.parse(
        sizes_and_options,
        method=method,
        params=params,
        flops=flops,
        latency=latency,
        seed=seed,
        calibration=calibration,
        loads=True,
    )
    return resize_to_folder(
        source, output, spec, model_class=model_class, overwrite=overwrite, max_shard_size=max_shard_size
    )


def resize_to_folder(
    source: str | os.PathLike,
    output: str | os.PathLike,
    spec: ResizeSpec,
    *,
    plan: Plan | None = None,
    model_class: type[PreTrainedModel] | None = None,
    choose_class: ChooseClass = class_of_checkpoint,
    processing_class: Any = None,
    overwrite: bool = False,
    max_shard_size: int | str = SHARD_SIZE,
    tell: Callable[[str], Any] | None = None,
) -> Path:
    """`resize_checkpoint` for a spec.

    Args:
        source: a Hub id or a folder.
        output: the folder to make.
        spec: what is asked for.
        plan: the plan that the card tells of, sizes of the source included; default: the one that is carried out.
        model_class: of the result; default: what `choose_class` says.
        choose_class: config -> class.
        processing_class: a tokenizer or image processor in place of the source's.
        overwrite: whether a saved model is replaced.
        max_shard_size: the largest file of weights.
        tell: is given what there is to say at the end (`carry_out`).
    """
    planned, loading, model = load_planned(source, spec, model_class, choose_class)
    told, name, commit = plan or planned, os.fspath(source), commit_of(loading)
    hub = hub_keywords(loading)
    streamed = Streamed.of(planned, model, name, commit, max_shard_size)
    made = streamed.model if streamed is not None else carry_out(
        planned, model, source=name, loading=loading, commit=commit, own=True, tell=tell
    )  # fmt: skip
    for field, value in spec.labels.items():
        setattr(made.config, field, value)

    def card_of(_: Path) -> str:
        return model_card(made, plan=told, source=source, loading=hub, name=Path(output).name)

    if streamed is not None:
        write_resized(made, output, source, processing_class, hub, card_of, overwrite, streamed.write)
    else:
        save_resized(
            made,
            output,
            source=source,
            processing_class=processing_class,
            loading=hub,
            card=card_of(Path(output)),
            overwrite=overwrite,
            max_shard_size=max_shard_size,
        )
    return Path(output)


__all__ = ["resize_checkpoint", "resize_to_folder"]
