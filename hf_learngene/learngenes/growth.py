"""Sizes of a descendant, and what becomes of a learngene's parts at another width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_learngene.anatomy import Anatomy, TensorInfo, anatomy_of
from hf_learngene.errors import InvalidSizeError, UnknownOptionError
from hf_learngene.learngenes.parts import Target, path_of
from hf_learngene.learngenes.protocol import LearngeneLike
from hf_learngene.maps import LayerMap, Op, Scale, Split, Take
from hf_learngene.maps.ops import Blocks, Context
from hf_learngene.resizing.plan import make_plan
from hf_learngene.resizing.sizes import check_names, target_config
from hf_learngene.resizing.spec import ResizeSpec
from hf_learngene.state import quiet, seeded


# What a learngene changes itself; everything else is left to `resize`.
OWN = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim",
       "intermediate_size", "mlp_ratio")  # fmt: skip
_NONE: dict[str, Tensor] = {}
_CONTEXT = Context(_NONE.__getitem__)  # the ops below draw no numbers and read no other tensor


def split_sizes(
    anatomy: Anatomy, sizes: Mapping[str, Any], stages: Sequence[int] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts sizes by canonical name: those of a learngene's own axes, and the others.

    Raises:
        InvalidSizeError: stages that do not fit the depth, or beside a hierarchy.
    """
    wanted = check_names(anatomy, sizes)
    if stages is not None and anatomy.num_stages:
        native = anatomy.stage_fields["num_hidden_layers"].native
        raise InvalidSizeError(
            f"stages names the layers of one depth, and `{anatomy.model_type}` is a hierarchy, whose {native}= say how many "
            "blocks each of its stages has."
        )
    if stages is not None and wanted.setdefault("num_hidden_layers", len(stages)) != len(stages):
        raise InvalidSizeError(
            f"stages names {len(stages)} layers and num_hidden_layers={wanted['num_hidden_layers']}; leave one of them out."
        )
    own = {n: v for n, v in wanted.items() if n.partition(".")[0] in OWN}
    rest = {n: v for n, v in wanted.items() if n not in own}
    return own, rest


def config_at(base: PreTrainedConfig, anatomy: Anatomy, sizes: Mapping[str, Any]) -> PreTrainedConfig:
    """The auxiliary model's config at other sizes, with everything derived brought along."""
    depth = sizes.get("num_hidden_layers", 0)  # of a hierarchy, the settings of its stages say it
    layers = LayerMap.spread(anatomy.num_layers, depth) if not anatomy.num_stages else LayerMap(())
    return target_config(base, anatomy, sizes, layers, {})


def check_layers(learngene: LearngeneLike, target: Target) -> None:
    """Refuses a target whose layers a learngene cannot make, whatever their width.

    Raises:
        UnknownOptionError: stages, for a learngene that has none.
        InvalidSizeError: a tensor that no layer of the auxiliary model has.
    """
    if target.stages is not None and not learngene.has_stages:
        raise UnknownOptionError(
            f"`{learngene.config.learngene_type}` has no stages; `sws` has. Give num_hidden_layers instead."
        )
    absent = next(
        (t for n, t in target.templates.items() if t.layer is not None and n not in learngene.components), None
    )
    if absent is not None and absent.stage is not None:
        part = learngene.anatomy.of_stage(absent.stage)
        raise InvalidSizeError(
            f"Stage {absent.stage} of the auxiliary model has {part.num_layers} of its {part.lead + part.period} kinds of blocks "
            f"(plain and shifted windows, say), so nothing says what `{absent.name}` is. Keep it at {part.num_layers}, or start "
            f"with at least {part.lead + part.period}."
        )
    if absent is not None:  # what only later layers have, as ModernBERT's attention norms
        raise InvalidSizeError(
            f"No layer of the auxiliary model has `{absent.template}`, which layer {absent.layer} of the target needs. Start "
            f"with more than {learngene.anatomy.num_layers} layers."
        )


def check_resized(learngene: LearngeneLike, sizes: Mapping[str, Any]) -> None:
    """Refuses sizes to which the auxiliary model cannot be resized, before anything is made.

    Raises:
        InvalidSizeError: with sizes that it can be resized to.
    """
    own, _ = split_sizes(learngene.anatomy, sizes)
    spec = ResizeSpec.parse(own, calibration=None)
    config = make_plan(learngene.base, learngene.base_class, spec).target_config if own else learngene.base
    check_layers(learngene, Target(config, anatomy_of(config, learngene.base_class), learngene.anatomy))


def width_op(dim: int, parts: int, old: int, new: int, side: str) -> Op:
    """The op that takes dimension `dim` from `old` to `new` entries, each of its fused parts alike.

    A growing axis starts over behind its last entry, a shrinking one keeps its first entries. Where the axis is read, the copies
    of an entry share it, so that they sum to it: what is computed stays the same. Differentiable.
    """
    index = torch.arange(new // parts) % (old // parts)
    return Split(Blocks(dim, parts), index) if side == "in" else Take(Blocks(dim, parts), index)


def at_width(tensor: Tensor, dim: int, parts: int, new: int, side: str) -> Tensor:
    """A tensor with `new` entries along `dim`.

    Example:
        >>> at_width(torch.tensor([1.0, 2.0]), 0, 1, 4, "in"), at_width(torch.tensor([1.0, 2.0]), 0, 1, 1, "in")
        (tensor([0.5000, 1.0000, 0.5000, 1.0000]), tensor([1.]))
    """
    old = tensor.shape[dim]
    return tensor if old == new else width_op(dim, parts, old, new, side)(tensor, _CONTEXT)


def tensor_at_width(tensor: Tensor, old: TensorInfo, new: TensorInfo, scale: float = 1.0) -> Tensor:
    """A tensor outside the layers at another width, axis by axis; what it holds for each layer follows the depth.

    Raises:
        InvalidSizeError: a convolution whose groups part the width, which changes as a whole.
    """
    if old.groups > 1 and old.shape != new.shape:
        raise InvalidSizeError(
            f"`{old.name}` is a convolution whose groups part the width, and a learngene has no map of it: keep "
            f"hidden_size={old.dims[0].size}, and resize() the result."
        )
    for dim, (a, b) in enumerate(zip(old.dims, new.dims, strict=True)):
        if a.layers != b.layers:
            block = torch.arange(a.size // a.layers)
            kept = [layer.index * len(block) + block for layer in LayerMap.spread(a.layers, b.layers)]
            tensor = Take(Blocks(dim), torch.cat(kept))(tensor, _CONTEXT)
        tensor = at_width(tensor, dim, b.parts, b.size, a.side)
    return Scale(scale)(tensor, _CONTEXT) if scale != 1.0 else tensor


def at_size(learngene: LearngeneLike, target: Target) -> Any:
    """A copy whose auxiliary size is the target: shared parts frozen, scalers of that size to be trained."""
    values = learngene.config.to_dict()
    rows = learngene.scaler_rows(target)
    for template, info in learngene.components.items():
        scale = learngene.depth_scale(info, target)
        rows |= {n: t * scale for n, t in rows.items() if n.rpartition(".")[0] == path_of(template)}
    shapes = {f"shared.{n}": list(p.shape) for n, p in learngene.shared.named_parameters()}
    shapes |= {f"scalers.{n}": list(t.shape) for n, t in rows.items()}
    values |= {"base_config": target.config.to_dict(), "shapes": shapes, "calibration": None}
    config = cast(Any, type(learngene.config)).from_dict(values)
    with seeded(0), quiet(), torch.inference_mode(False):  # every number that is drawn here is written over
        other = cast(Any, type(learngene))(config)
        nn.Module.to(other, learngene.device, learngene.dtype)
    with torch.inference_mode(False), torch.no_grad():
        for path in learngene.shared.paths():
            other.shared.take(path).copy_(learngene.shared.take(path)).requires_grad_(False)
        for path, value in rows.items():
            other.scalers.take(path).copy_(value)
        state = learngene.weights(target=target)
        for path in other.outside.paths():
            other.outside.take(path).copy_(state[path]).requires_grad_(not target.same_width)
    return other.train(learngene.training)
