"""bert2BERT: a larger model whose new units copy this layer's, or the next one's (arXiv 2110.07143, ACL 2022)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.anatomy.types import FFN, HEAD_COUNT, HEADS, KV_HEADS
from hf_learngene.errors import DirectionError, InvalidSizeError, UnknownOptionError
from hf_learngene.maps import LayerMap, Op, Split, Take
from hf_learngene.maps.convolutions import takes
from hf_learngene.maps.task import WIDTHS, ResizeTask, WidthChange, changes, shown, source_axes
from hf_learngene.methods.base import Method, Paper
from hf_learngene.methods.from_above import FromAbove, name_above
from hf_learngene.methods.registry import register_method
from hf_learngene.methods.stack import stacked


EXPANSIONS = ("aki", "fpi")


@register_method
@dataclass(frozen=True)
class Bert2BERT(Method):
    """Widens a model by random copies of its units, heads and entries, and stacks the widened layers.

    Args:
        expansion (`str`, *optional*, defaults to `"aki"`): what new units compute: `aki` (advanced knowledge initialisation)
            takes their weights from the layer above, so that they are no copies and the function changes; `fpi`
            (function-preserving initialisation) takes this layer's. `fpi` without new layers keeps the function where every width
            becomes a whole multiple; other widths change what the norms see.

    Source: paper, sections 3.2 to 3.4. The paper draws each copy by itself; here all units are copied equally often, up to one,
    so that whole multiples are exact. What reads the copies is divided by how many there are, the tied decoder's norm too.
    """

    name: ClassVar[str] = "bert2bert"
    paper: ClassVar[Paper | None] = Paper("bert2BERT: Towards Reusable Pretrained Language Models", "2110.07143")
    grows: ClassVar[bool] = True
    summary: ClassVar[str] = "new units from this layer or the next, and stacked layers"

    expansion: str = "aki"

    def __post_init__(self) -> None:
        if self.expansion not in EXPANSIONS:
            raise UnknownOptionError(f"expansion is one of {', '.join(EXPANSIONS)}; it was {self.expansion!r}.")

    def repeats_positions(self) -> bool:
        return True

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        pairs = changes(source, sizes, (*WIDTHS, "mlp_ratio", "num_hidden_layers", *source_axes(source)))
        smaller = {name: (old, new) for name, (old, new) in pairs.items() if new < old and name != "head_dim"}
        if smaller:
            raise DirectionError(
                f"method='bert2bert' only grows ({shown(smaller)}). method='weight_selection' shrinks; method='auto' shrinks one "
                "axis and grows the other."
            )
        old, new = source.sizes.get("head_dim", 1), sizes.get("head_dim", 1)
        if old != new:
            raise InvalidSizeError(
                f"head_dim {old} → {new}: method='bert2bert' copies heads whole. Keep head_dim at {old} "
                f"(num_attention_heads={max(1, sizes['hidden_size'] // old)} for this width), or use method='lemon'."
            )
        kv = changes(source, sizes, ("num_key_value_heads", "num_attention_heads"))
        if (
            source.sizes.get("num_key_value_heads", source.sizes.get("num_attention_heads"))
            != source.sizes.get("num_attention_heads")
            and kv
        ):
            raise InvalidSizeError(
                f"`{source.model_type}` shares keys and values among heads ({shown(kv)}), and random copies of heads would part "
                "them. method='lemon' grows such heads by a whole factor."
            )
        if sizes["num_hidden_layers"] > source.num_layers and source.shared_layers:
            raise DirectionError(
                f"The layers of `{source.model_type}` share one set of weights: there is nothing to stack. method='front' makes "
                "a deeper one."
            )

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        return LayerMap.pick(range(depth) if source.shared_layers else stacked(source.num_layers, depth))

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        changed = task.width_changes(tensor)
        layer = task.layer_map[tensor.layer].index if tensor.layer is not None else None
        norm = task.source.norm_of.get(tensor.template)
        halved = norm is not None and norm.name in task.source.tied_readers

        def index(change: WidthChange) -> tuple[Tensor, str]:
            return self._copies(change, layer, task), f"copied {change.old} → {change.new}"

        def copy(change: WidthChange) -> Op:
            # the tied decoder sums over the copies of what its norm gives
            return (Split if change.side == "in" or halved else Take)(task.blocks(tensor, change.dim), *index(change))

        steps = takes(tensor, task, index, copy)
        written = [c for c in changed if c.side == "out"]
        above = name_above(tensor, layer, task)
        plain = tensor.groups == 1 and tensor.kind in ("linear", "bias", "conv")
        if self.expansion == "aki" and written and above and plain:
            dim, old = written[0].dim, written[0].old
            return [FromAbove(tuple(steps), above, task.blocks(tensor, dim), old, steps[0].label)]
        return steps

    def _copies(self, change: WidthChange, layer: int | None, task: ResizeTask) -> Tensor:
        """Source entry of each target entry: its own first, then random ones. Heads and units of each layer have their own."""
        _, axis, _, old, new = change
        if axis in (HEADS, KV_HEADS):
            size = task.heads[0].size
            head = _balanced(old // size, new // size, f"{task.seed}|heads|{layer}")
            return (head[:, None] * size + torch.arange(size)).flatten()
        if axis == HEAD_COUNT:
            return _balanced(old, new, f"{task.seed}|heads|{layer}")
        return _balanced(old, new, f"{task.seed}|{axis}|{layer if axis == FFN else None}")


def _balanced(old: int, new: int, key: str) -> Tensor:
    """`old` entries in order, then random ones, each as often as any other up to one."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    generator = torch.Generator("cpu").manual_seed(seed)
    rounds = [torch.randperm(old, generator=generator, device="cpu") for _ in range(-(-new // old) - 1)]
    return torch.cat([torch.arange(old), *rounds])[:new]
