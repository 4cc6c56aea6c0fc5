"""Where in the output of a layer its last writer lands, and along which dimension a norm runs: tried on the model itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_learngene.calibration.store import tensors_in
from hf_learngene.pruning.moments import normalised
from hf_learngene.pruning.running import run


NEAR = 1e-6  # squared relative error: rounding of a large residual stream beside a small move
CHANNELS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True, eq=False)
class Landing:
    """How the output of a layer follows what a module in it gives: by a factor for each channel, and nothing else.

    Attributes:
        writer: name of the module.
        layer: name of the layer.
        turned: order of the dimensions that brings the layer's output to the module's; empty where both have one.
        channel: dimension of the channels in the module's output.
        scale: the factor of each channel (LayerScale), (width,) float64; 0 where one shuts its channel off.
    """

    writer: str
    layer: str
    turned: tuple[int, ...]
    channel: int
    scale: Tensor

    def written(self, values: Tensor) -> Tensor:
        """What the module gives, (tokens, width)."""
        return rows_along(values, self.channel)

    def stream(self, values: Tensor) -> Tensor:
        """The output of the layer, (tokens, width), in the order of the module's tokens."""
        return self.written(values.permute(self.turned) if self.turned else values)


@torch.no_grad()
def landing_of(
    model: PreTrainedModel, layer: str, writers: Sequence[str], batch: Mapping[str, Tensor]
) -> Landing | None:
    """The last of some modules that moves the output of a layer by what it gives itself, and by nothing else.

    Each is moved by noise, in turn from the last; that behind it stands a norm, another order of tokens (windows) or a pooling
    shows in how the output moves.

    Args:
        model: it is left as it is.
        layer: name of the layer.
        writers: names of modules in it, in order of execution.
        batch: a few examples of the model's inputs.

    Returns:
        The landing, or None where none does.
    """
    plain = _outputs(model, [layer, *writers], batch)
    for writer in reversed(writers):
        if len(plain[writer]) != 1 or len(plain[layer]) != 1:
            continue
        out = plain[writer][0]
        noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        noise = noise * out.double().std().clamp_min(1e-3).to(out)
        moved = _outputs(model, [layer], batch, {writer: noise})[layer][0].double() - plain[layer][0].double()
        for turned in ((), CHANNELS_LAST):
            found = _fits(moved, noise, turned, 1 if isinstance(model.get_submodule(writer), nn.Conv2d) else -1)
            if found is not None:
                channel = 1 if isinstance(model.get_submodule(writer), nn.Conv2d) else -1
                return Landing(writer, layer, turned, channel, found)
    return None


def _fits(moved: Tensor, noise: Tensor, turned: tuple[int, ...], channel: int) -> Tensor | None:
    """The factor of each channel by which the noise shows in what moved; None where something else shows."""
    if turned and moved.dim() != len(turned):
        return None
    moved = moved.permute(turned) if turned else moved
    if moved.shape != noise.shape:
        return None
    y, x = rows_along(moved, channel), rows_along(noise.double(), channel)
    scale = (x * y).sum(0) / (x * x).sum(0).clamp_min(1e-30)
    size = float(y.pow(2).sum())
    off = float((y - x * scale).pow(2).sum())
    return scale if size > 0 and off <= NEAR * size else None


def rows_along(values: Tensor, channel: int) -> Tensor:
    """Values with their channels last, (tokens, channels)."""
    return values.movedim(channel, -1).reshape(-1, values.shape[channel])


@torch.no_grad()
def channel_of_norm(module: nn.Module, given: Tensor, handed: Tensor, centred: bool) -> int | None:
    """The dimension that a norm runs along, from what it was given and what it handed on; None where it is none of one.

    A group norm, or a norm that scales otherwise than its weight says, has none.

    Example:
        >>> x = torch.randn(2, 3, 4)
        >>> norm = nn.LayerNorm(4)
        >>> channel_of_norm(norm, x, norm(x), True), channel_of_norm(nn.GroupNorm(1, 3), x, nn.GroupNorm(1, 3)(x), True)
        (-1, None)
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if weight is None or given.shape != handed.shape:
        return None
    for channel in (-1, 1):
        if given.dim() <= abs(channel) or given.shape[channel] != len(weight):
            continue
        made = normalised(module, given.movedim(channel, -1), centred) * weight
        made = made if bias is None else made + bias
        wanted = handed.movedim(channel, -1)
        if float((made - wanted).double().pow(2).sum()) <= NEAR * float(wanted.double().pow(2).sum()):
            return channel
    return None


def _outputs(
    model: PreTrainedModel,
    names: Sequence[str],
    batch: Mapping[str, Tensor],
    moved: Mapping[str, Tensor] | None = None,
) -> dict[str, list[Tensor]]:
    """The (first) outputs of modules in one pass, call by call, where the outputs of some are moved."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    with ExitStack() as stack:
        for name, by in (moved or {}).items():

            def move(module: nn.Module, args: Any, result: Any, by: Tensor = by) -> Any:
                return result + by

            stack.callback(model.get_submodule(name).register_forward_hook(move).remove)
        for name in names:

            def keep(module: nn.Module, args: Any, result: Any, name: str = name) -> None:
                found[name].append(next(tensors_in(result)).detach().clone())

            stack.callback(model.get_submodule(name).register_forward_hook(keep).remove)
        run(model, batch)
    return found


__all__ = ["Landing", "channel_of_norm", "landing_of", "rows_along"]
