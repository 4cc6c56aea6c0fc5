"""Rows of a vocabulary that are kept, and what follows them: token ids in the config, and where positions begin."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.config_fields import section, section_name
from hf_learngene.anatomy.probe import build
from hf_learngene.anatomy.types import POSITIONS, VOCAB
from hf_learngene.errors import InvalidSizeError, UnsupportedFamilyError, VocabularyError
from hf_learngene.methods import Method


# `pad_token_id`, `visual_indicator_token_ids`, `image_token_index`, XLM's `mask_index`
_ID_FIELD = re.compile(r"_token_(id|ids|index)$|^(bos|eos|pad|unk|mask)_index$")


@dataclass(frozen=True)
class KeptTokens(Method):
    """A pass that prunes the vocabulary and changes nothing else."""

    name: ClassVar[str] = "kept_tokens"
    lossless: ClassVar[bool] = True
    summary: ClassVar[str] = "the rows of the tokens that are kept"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a model that are kept, and the rows of its tables that are theirs.

    Attributes:
        kept: old ids, ascending; the new id of each is its index. Shape (number of kept tokens,).
        multiple: the number of rows is padded to a multiple of it.
        padding: table over tokens or positions -> its padding index, for those that have one.
        positions: table over positions -> its rows.
    """

    kept: Tensor
    multiple: int
    padding: Mapping[str, int]
    positions: Mapping[str, int]

    @property
    def size(self) -> int:
        """Number of rows of the new vocabulary, padding included."""
        return -(-len(self.kept) // self.multiple) * self.multiple

    @property
    def rows(self) -> Tensor:
        """Old id of each new row, -1 for padding. Shape (`size`,)."""
        return torch.cat([self.kept, self.kept.new_full((self.size - len(self.kept),), -1)])

    def agreed(self, vocab_size: int | None) -> int:
        """The number of rows, where the caller named it too.

        Raises:
            InvalidSizeError: it is another one.
        """
        if vocab_size not in (None, self.size):
            raise InvalidSizeError(
                f"vocab_size={vocab_size} contradicts kept_tokens, which make {self.size} rows. Leave vocab_size out."
            )
        return self.size

    def new_id(self, old: int) -> int | None:
        """New id of a token; None if it is not kept."""
        place = int(torch.searchsorted(self.kept, old))
        return place if place < len(self.kept) and int(self.kept[place]) == old else None

    @property
    def shift(self) -> int:
        """Number of pruned ids before the padding token, where positions are counted from it (RoBERTa), else 0."""
        counted = [index for name, index in self.padding.items() if name in self.positions]
        return max((index - (self.new_id(index) or 0) for index in counted), default=0)

    @property
    def position_rows(self) -> dict[str, slice]:
        """Kept rows of each table over positions: the first position moves with the padding token that it follows."""
        shift = self.shift
        return {
            name: slice(shift, rows) if name in self.padding else slice(0, rows - shift)
            for name, rows in self.positions.items()
            if shift
        }

    def record(self) -> dict[str, Any]:
        """Entry of `config.learngene`: a count and a digest, for the ids themselves could be megabytes."""
        digest = hashlib.sha256(",".join(map(str, self.kept.tolist())).encode()).hexdigest()
        return {"count": len(self.kept), "sha256": digest[:16]}


def read_vocabulary(
    kept_tokens: Any,
    pad_to_multiple_of: int | None,
    source: Anatomy,
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
) -> Vocabulary | None:
    """The vocabulary that `kept_tokens` asks for; None where it is None.

    Raises:
        VocabularyError: no ascending ids of the model's, or without one that the model needs.
        UnsupportedFamilyError: a table over tokens whose rows are not the vocabulary's ids.
    """
    if kept_tokens is None:
        if pad_to_multiple_of is not None:
            raise VocabularyError(
                "pad_to_multiple_of rounds up the number of kept_tokens; give them, or leave it out."
            )
        return None
    tables = [t for t in source.tensors.values() if any(d.axis == VOCAB for d in t.dims)]
    if not tables or "vocab_size" not in source.sizes:
        raise VocabularyError(
            f"`{source.model_type}` has no vocabulary, so there are no tokens to keep. Leave kept_tokens out."
        )
    size = source.sizes["vocab_size"]
    odd = [t.name for t in tables if any(d.axis == VOCAB and (d.size, d.parts) != (size, 1) for d in t.dims)]
    if odd:
        raise UnsupportedFamilyError(
            f"`{odd[0]}` does not have one row for each of the {size} tokens of `{source.model_type}`."
        )
    kept = _ids(kept_tokens, size)
    multiple = 1 if pad_to_multiple_of is None else pad_to_multiple_of
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise VocabularyError(f"pad_to_multiple_of is a whole number of at least 1; it was {pad_to_multiple_of!r}.")
    positions = {t.name: d.size for t in source.tensors.values() for d in t.dims if d.axis == POSITIONS}
    padding = _padding(source, build(model_class, config))
    vocabulary = Vocabulary(kept, multiple, padding, positions)
    for index, name in named_tokens(config).items():
        if index < size and vocabulary.new_id(index) is None:
            raise VocabularyError(
                f"kept_tokens leaves out {index}, which is the config's {name}. Give trim_tokenizer the config "
                "(config=model.config), add the token, or set the field to None before."
            )
    if gone := [i for i in padding.values() if vocabulary.new_id(i) is None]:
        raise VocabularyError(f"kept_tokens leaves out {gone[0]}, with which `{source.model_type}` pads. Add it.")
    return vocabulary


def named_tokens(config: PreTrainedConfig) -> dict[int, str]:
    """Token ids that a config names -> the field that names each.

    Example:
        >>> from transformers import RobertaConfig
        >>> named_tokens(RobertaConfig())
        {1: 'pad_token_id', 0: 'bos_token_id', 2: 'eos_token_id'}
    """
    size = getattr(section(config, section_name(config, "input_ids")), "vocab_size", None) or 0
    fields = [field for part in _parts(config, size) for field in _named(part)]
    return {index: name for name, value in fields for index in _listed(value) if index >= 0}


def _ids(given: Any, size: int) -> Tensor:
    """Token ids as a tensor, checked."""
    try:
        ids = torch.as_tensor(list(given) if isinstance(given, range) else given).cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise VocabularyError(
            f"kept_tokens is a list of token ids; it was a {type(given).__name__}: {error}"
        ) from error
    if ids.dim() != 1 or not len(ids) or ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        raise VocabularyError(
            f"kept_tokens is a list of at least one token id, whole numbers; it has shape {tuple(ids.shape)} and type "
            f"{str(ids.dtype).removeprefix('torch.')}."
        )
    ids = ids.to(torch.int64)
    down = (ids[1:] <= ids[:-1]).nonzero()
    if len(down):
        first, second = ids[int(down[0]) : int(down[0]) + 2].tolist()
        raise VocabularyError(
            f"kept_tokens ascends without repetition; {second} follows {first}. sorted(set(...)) makes it so."
        )
    if int(ids[0]) < 0 or int(ids[-1]) >= size:
        wrong = int(ids[0]) if int(ids[0]) < 0 else int(ids[-1])
        raise VocabularyError(f"kept_tokens lie between 0 and {size - 1}, the model's last; {wrong} does not.")
    return ids


def _padding(anatomy: Anatomy, model: PreTrainedModel) -> dict[str, int]:
    """Padding index of each table over tokens or positions that has one."""
    tables = [t for t in anatomy.tensors.values() if any(d.axis in (VOCAB, POSITIONS) for d in t.dims)]
    found = {t.name: getattr(model.get_submodule(t.module), "padding_idx", None) for t in tables}
    return {name: index for name, index in found.items() if index is not None}


def _parts(config: PreTrainedConfig, size: int) -> Iterator[PreTrainedConfig]:
    """A config, and those nested in it that are of the same vocabulary."""
    yield config
    for inner in vars(config).values():
        if isinstance(inner, PreTrainedConfig) and getattr(inner, "vocab_size", None) == size:
            yield inner


def _named(config: PreTrainedConfig) -> list[tuple[str, Any]]:
    return [(n, v) for n, v in vars(config).items() if _ID_FIELD.search(n) and _listed(v)]


def _listed(value: Any) -> list[int]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool)]


def renumbered(config: PreTrainedConfig, vocabulary: Vocabulary, size: int) -> PreTrainedConfig:
    """A copy of a config, whose vocabulary has `size` tokens, with new token ids in place of the old. Its sizes stay."""

    def new(old: Any) -> Any:
        place = vocabulary.new_id(old) if _listed(old) else None
        return old if place is None else place  # -1 and the like are no tokens

    copied = copy.deepcopy(config)
    for part in list(_parts(copied, size)):
        for name, value in _named(part):
            setattr(part, name, type(value)(map(new, value)) if isinstance(value, (list, tuple)) else new(value))
    return copied


def check_padding(
    vocabulary: Vocabulary, target: Anatomy, config: PreTrainedConfig, model_class: type[PreTrainedModel]
) -> None:
    """Refuses a family that has its padding token somewhere else than its config says.

    Raises:
        VocabularyError: names the ids that have to stay before it.
    """
    found = _padding(target, build(model_class, config))
    for name, old in vocabulary.padding.items():
        if found.get(name) != vocabulary.new_id(old):
            before = ", ".join(str(i) for i in range(old) if vocabulary.new_id(i) is None)
            raise VocabularyError(
                f"`{target.model_type}` has its padding token at {found.get(name)} whatever its config says, so every id before "
                f"it has to stay. Add {before} to kept_tokens."
            )
