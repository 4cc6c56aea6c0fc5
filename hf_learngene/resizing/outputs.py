"""What models are given to compare them, and what they give: every float tensor by name, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from hf_learngene.anatomy.config_fields import native_name, section, section_name
from hf_learngene.anatomy.inputs import example_inputs, main_input, token_rows
from hf_learngene.anatomy.sections import sections_of
from hf_learngene.state import evaluating, seeded


# Outputs over labels, tokens or pixels: no part of a wider one stands for them.
_WHOLE = ("logits", "loss")
_CHARACTERS = 128


@dataclass(frozen=True)
class Difference:
    """How far one output is from another.

    Attributes:
        absolute: largest |a - b|; infinite where one of them is no number.
        relative: largest |a - b| / max(1, |a|).
        size: largest |a|.
    """

    absolute: float
    relative: float
    size: float


def outputs_of(model: PreTrainedModel, inputs: Mapping[str, Any], **options: Any) -> dict[str, Tensor]:
    """Every float tensor that a model gives in eval mode, by name.

    Args:
        model: it is left as it is.
        inputs: keyword inputs; moved to its device, and float ones to its dtype.
        **options: further keywords of its forward pass, such as `output_hidden_states=True`.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
        >>> bert = BertModel(BertConfig(vocab_size=20, **sizes))
        >>> sorted(outputs_of(bert, {"input_ids": torch.tensor([[1, 2]])}, output_hidden_states=True))
        ['hidden_states.0', 'hidden_states.1', 'last_hidden_state', 'pooler_output']
    """
    moved = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in inputs.items()
    }
    with torch.no_grad(), evaluating(model), seeded(0, model.device):  # ViT-MAE masks at random, in eval mode too
        return dict(named_tensors(model(**moved, **options)))


def named_tensors(given: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Float tensors in nested mappings, tuples and lists, each with the path that leads to it.

    Example:
        >>> [name for name, _ in named_tensors({"logits": torch.zeros(2), "feature_maps": (torch.zeros(1), None)})]
        ['logits', 'feature_maps.0']
    """
    if isinstance(given, Tensor):
        if given.is_floating_point():
            yield name or "output", given
        return
    if isinstance(given, Mapping):
        entries = [(str(key), value) for key, value in given.items()]
    elif isinstance(given, (tuple, list)):
        entries = [(str(number), value) for number, value in enumerate(given)]
    else:
        return
    for key, value in entries:
        yield from named_tensors(value, f"{name}.{key}" if name else key)


def difference(name: str, first: Tensor, second: Tensor, widths: tuple[int, int] = (0, 0)) -> Difference | None:
    """How far an output of a grown model is from the source's; None where none of it stands for that.

    Hidden states and feature maps of a wider model hold the source's in the first entries of the one dimension that is longer,
    so these are compared; several states in one vector (RADIO's summary) each by itself. Logits are compared whole. A vector
    of length one that is widened (SigLIP's embeddings) has to hold copies of the source's, each shorter: then every angle stays.

    Args:
        name: of the output.
        first: the source's.
        second: the grown model's.
        widths: the hidden sizes of both, to tell how many states lie in one vector.

    Example:
        >>> difference("last_hidden_state", torch.ones(1, 2, 3), torch.ones(1, 2, 6)).absolute
        0.0
        >>> difference("logits", torch.ones(1, 3), torch.ones(1, 6)) is None
        True
    """
    if first.dim() != second.dim():
        return None
    other = [d for d, (a, b) in enumerate(zip(first.shape, second.shape, strict=True)) if a != b]
    if other:
        dim, (old, new) = other[0], widths
        whole = dim == 0 or any(word in name for word in _WHOLE)
        if whole or len(other) > 1 or second.shape[dim] < first.shape[dim]:
            return None
        states = first.shape[dim] // old if old and first.shape[dim] % old == 0 else 1
        if states > 1 and second.shape[dim] == states * new:
            first, second = (t.unflatten(dim, (states, -1)) for t in (first, second))
            dim += 1
        second = _in_copies(first, second, dim) if _unit(first, dim) and _unit(second, dim) else second
        second = second.narrow(dim, 0, first.shape[dim])
    if not first.numel():
        return Difference(0.0, 0.0, 0.0)
    first = first.detach()
    distance = (first - second.detach().to(first.device)).abs()
    both_infinite = first == second.to(first.device)  # masked scores
    distance = distance.masked_fill(both_infinite, 0.0).nan_to_num(nan=torch.inf)
    size = first.masked_fill(first.isinf(), 0.0).abs()
    return Difference(float(distance.max()), float((distance / size.clamp_min(1)).max()), float(size.max()))


def _unit(states: Tensor, dim: int) -> bool:
    lengths = states.detach().norm(dim=dim)
    return bool(((lengths - 1).abs() < 1e-4).all()) and states.shape[dim] > 1


def _in_copies(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """The copy in a wide unit vector that is furthest from the narrow one, at its length; the vector itself if it holds none."""
    times, rest = divmod(second.shape[dim], first.shape[dim])
    if rest:
        return second
    copies = [copy * times**0.5 for copy in second.chunk(times, dim)]
    return max(copies, key=lambda copy: float((copy.to(first.device) - first).abs().max()))


def random_inputs(model: PreTrainedModel, seed: int = 0, tokens: int = 16) -> dict[str, Tensor]:
    """Two random inputs of the model's own kinds, or two random texts of which one is padded.

    Args:
        model: what takes them.
        seed: of the random numbers.
        tokens: the length of a text, where the model takes it.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, example in example_inputs(model, model.config, tokens=tokens).items():
        shape = (2 * len(example), *example.shape[1:])  # an image may be many rows
        if example.is_floating_point():
            found[name] = torch.randn(shape, generator=generator)
        elif name == "input_ids":
            found |= _random_texts(model, example, generator)
        else:
            found[name] = example.repeat(2, *[1] * (example.dim() - 1))
    return found


def _random_texts(model: PreTrainedModel, example: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Random ids where the example repeats itself; what else stands in it (separators) stays, and occurs nowhere else."""
    vocabulary = vocabulary_of(model)
    length, filler = example.shape[-1], int(example.flatten()[0])
    ids = torch.randint(min(5, vocabulary - 1), vocabulary, (2, *example.shape[1:]), generator=generator)
    special = example != filler
    ids[torch.isin(ids, example[special])] = filler
    ids = torch.where(special, example, ids)
    mask = torch.ones_like(ids)
    mask[1, ..., length - length // 4 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def vocabulary_of(model: PreTrainedModel) -> int:
    """Rows of a text model's embedding; of one without, which hashes characters (CANINE), those of the smallest alphabet."""
    return token_rows(model) or _CHARACTERS


def width_of(model: PreTrainedModel) -> int:
    """The hidden size of a model; 0 where its config has none, or several."""
    if len(sections_of(model.config, type(model))) > 1:
        return 0
    part = section(model.config, section_name(model.config, main_input(type(model))))
    return getattr(part, native_name(part, "hidden_size") or "", 0)


class in_float64(TorchFunctionMode):
    """Float64 throughout a float64 model: no casts to float32, and what a forward pass makes of its own is float64 too.

    RMS norms, DeBERTa's norm and its score scale cast to float32: such a model differs from itself by 1e-8, so a float64 figure
    of it means nothing. A function mode belongs to its thread; the default dtype is everybody's.

    Example:
        >>> with in_float64():
        ...     torch.zeros(2).dtype, torch.ones(2, dtype=torch.float64).float().dtype
        (torch.float64, torch.float64)
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(_LIFTED.get(a, a) if isinstance(a, torch.dtype) else a for a in args)
        kwargs = {k: _LIFTED.get(v, v) if isinstance(v, torch.dtype) else v for k, v in (kwargs or {}).items()}
        result = func(*args, **kwargs)
        single = isinstance(result, Tensor) and result.dtype == torch.float32 and "dtype" not in kwargs
        if not single:
            return result
        # not a cast, which would keep the rounding
        if func in _FACTORIES:
            return func(*args, **kwargs, dtype=torch.float64)
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if not tensors or func is torch.where or any(t.is_floating_point() for t in tensors):
            return result.double()
        return func(*map(_as_double, args), **{name: _as_double(a) for name, a in kwargs.items()})


def _as_double(value: Any) -> Any:
    """A mask or counts, as they meet a Python float."""
    return value.double() if isinstance(value, Tensor) else value


_LIFTED = {torch.float32: torch.float64}
_FACTORIES = {
    getattr(torch, name)
    for name in ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros")
}
