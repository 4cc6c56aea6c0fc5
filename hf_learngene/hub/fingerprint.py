"""A fingerprint of a model's weights: the same wherever and in whatever dtype they are saved, another once they are trained."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


# What a weight is rounded to before it is hashed. Casting to one of them afterwards changes nothing then, and what is
# loaded again is still among the two: float32 weights match by both, those that were cast to one of them by that one.
_ROUNDED = {"bfloat16": torch.bfloat16, "float16": torch.float16}
WORD = 4  # half-precision numbers of one word
BLOCKS, BLOCK = 4, 1024  # of a large parameter, so many stretches of so many numbers are read
ROW = 8  # numbers that are read of each row of a large embedding table


def fingerprint(model: PreTrainedModel) -> dict[str, str]:
    """Digests of all parameters, by the dtype that they were rounded to.

    Large parameters are read in evenly spread stretches: training changes a matrix everywhere, and a resize that reads no
    weight otherwise (more layers) need not wait for all of them. Of an embedding table some of every row is read, since
    training may change a few of its rows, but then changes them whole.

    Names of parameters do not enter (transformers renames modules from version to version), nor whether a tensor that
    is used twice is stored twice. A model without weights, on meta, has no digests.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> model = BertModel(BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1))
        >>> same_weights(fingerprint(model), fingerprint(model.bfloat16()))
        True
    """
    parameters = [parameter.detach() for parameter in model.parameters()]
    if any(parameter.is_meta for parameter in parameters):
        return {}
    tables = table_shapes(model)
    return fingerprint_of([Excerpt.of(p, tables) for p in parameters])


@dataclass(frozen=True)
class Excerpt:
    """What a fingerprint reads of one parameter.

    Attributes:
        values: the numbers, one after the other.
        shape: of the whole parameter.
    """

    values: Tensor
    shape: torch.Size

    @classmethod
    def of(cls, parameter: Tensor, tables: Collection[torch.Size]) -> Excerpt:
        """The excerpt of a parameter; `tables` are the shapes of the model's embedding tables."""
        return cls(_read(parameter, parameter.shape in tables).reshape(-1), parameter.shape)

    def copied(self) -> Excerpt:
        """The same without a hold on the parameter's memory."""
        return Excerpt(self.values.detach().clone(), self.shape)


def table_shapes(model: nn.Module) -> set[torch.Size]:
    """The shapes of a model's embedding tables: a tied one may be stored twice, and as another module's."""
    return {module.weight.shape for module in model.modules() if isinstance(module, nn.Embedding)}


def fingerprint_of(read: Sequence[Excerpt]) -> dict[str, str]:
    """The fingerprint of a model from excerpts of all its parameters, in any order."""
    # by way of float32, as a float64 model that is saved in float32 and then cast; all at once, since each cast takes a while
    exact = torch.cat([one.values.cpu().float() for one in read]) if read else torch.empty(0)
    lengths = [len(one.values) for one in read]
    found: dict[str, set[bytes]] = {}
    for name, dtype in _ROUNDED.items():
        parts = exact.to(dtype).view(torch.int16).split(lengths)
        found[name] = {_digest(part, one.shape) for part, one in zip(parts, read, strict=True)}
    return {
        name: hashlib.sha1(b"".join(sorted(one)), usedforsecurity=False).hexdigest()[:16]
        for name, one in found.items()
    }


def same_weights(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    """Whether two fingerprints are of the same weights, up to a cast to half precision."""
    return any(first[name] == second.get(name) for name in first)


def _read(values: Tensor, table: bool) -> Tensor:
    """What is read: all of a small parameter, of a large one evenly spread stretches, the last of which ends it."""
    flat = values.reshape(-1)
    if len(flat) <= BLOCKS * BLOCK:
        return flat
    if table:
        return values[:, :ROW]
    step = (len(flat) - BLOCK) // (BLOCKS - 1)
    return flat[(len(flat) - BLOCK) % step :].unfold(0, BLOCK, step)


def _digest(values: Tensor, shape: torch.Size) -> bytes:
    """The shape and a checksum: the sum of all words of 16-bit numbers, which any training changes."""
    numbers = values.numpy()
    whole = len(numbers) // WORD * WORD
    told = tuple(shape), int(numbers[:whole].view(np.uint64).sum(dtype=np.uint64)), numbers[whole:].tolist()
    return hashlib.sha1(str(told).encode(), usedforsecurity=False).digest()
