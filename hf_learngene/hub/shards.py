"""Weights written tensor by tensor, in the files that `save_pretrained` writes, without the model in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import StateDictSplit, split_torch_state_dict_into_shards
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hf_learngene.errors import UnknownOptionError
from hf_learngene.write_behind import WriteBehind


SHARD_SIZE = "50GB"  # what transformers takes

# Names of dtypes in the format, in the order in which its files hold them: the widest first, so that all are aligned.
_DTYPES = {
    torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_RANK = {dtype: place for place, dtype in enumerate(_DTYPES)}
_ALIGNED = 8


def check_shard_size(size: int | str) -> int | str:
    """A `max_shard_size`, if it is one.

    Raises:
        UnknownOptionError: it is no size.
    """
    whole = isinstance(size, int) and not isinstance(size, bool) and size > 0
    try:
        fits = whole or (isinstance(size, str) and bool(_split({"one": torch.empty(1)}, size)))
    except ValueError:  # what huggingface_hub says of a text that is no size
        fits = False
    if not fits:
        raise UnknownOptionError(f"max_shard_size is a size such as '5GB' or a number of bytes; it was {size!r}.")
    return size


@dataclass(frozen=True)
class Shards:
    """The files of a model's weights, and what each holds.

    Attributes:
        files: file name -> (name on disk -> name in memory).
        tensors: name in memory -> the tensor there, of which shape and dtype count.
        index: content of the index of several files; None for one.
    """

    files: Mapping[str, Mapping[str, str]]
    tensors: Mapping[str, Tensor]
    index: Mapping[str, object] | None

    @classmethod
    def of(cls, model: PreTrainedModel, max_shard_size: int | str = SHARD_SIZE) -> Shards | None:
        """The files that `model.save_pretrained` would write, for a model that may be on meta.

        None where a tensor on disk is not one of the model's under another name: a family whose files hold what its modules
        cut or join, or a dtype that the format has not.
        """
        state = model.state_dict()
        names = {id(tensor): name for name, tensor in state.items()}
        for name in model._keys_to_ignore_on_save or ():
            state.pop(name, None)
        on_disk = revert_weight_conversion(model, remove_tied_weights_from_state_dict(state, model))
        if any(id(tensor) not in names or tensor.dtype not in _DTYPES for tensor in on_disk.values()):
            return None
        split = _split(on_disk, max_shard_size)
        index = None
        if split.is_sharded:
            metadata = {"total_parameters": model.num_parameters(), **split.metadata}
            index = {"metadata": metadata, "weight_map": split.tensor_to_filename}
        files = {
            file: {name: names[id(on_disk[name])] for name in found}
            for file, found in split.filename_to_tensors.items()
        }
        return cls(files, {names[id(tensor)]: tensor for tensor in on_disk.values()}, index)

    def write(
        self, folder: Path, read: Callable[[str], Tensor], written: Callable[[str], object] = lambda _: None
    ) -> None:
        """Writes all files, one tensor after the other in the order of the files.

        Args:
            folder: where to.
            read: name in memory -> tensor, on the CPU; it is asked once for each, and may forget it then. The one before it may
                still be read: it is written meanwhile.
            written: is told each name once that is so, by the thread that writes.

        Raises:
            ValueError: what is read has another shape or dtype than the model has.
        """
        for file, names in self.files.items():
            ordered = sorted(names, key=lambda name: (_RANK[self.tensors[names[name]].dtype], name))
            with (folder / file).open("wb") as out:
                out.write(_header([(name, self.tensors[names[name]]) for name in ordered]))
                with WriteBehind(out) as behind:
                    for name in ordered:
                        self._write(behind, names[name], read, written)
        if self.index is not None:
            text = json.dumps(self.index, indent=2, sort_keys=True) + "\n"
            (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(text, encoding="utf-8")

    def _write(
        self, out: WriteBehind, name: str, read: Callable[[str], Tensor], written: Callable[[str], object]
    ) -> None:
        tensor, wanted = read(name), self.tensors[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise ValueError(
                f"`{name}` is {tuple(tensor.shape)} of {tensor.dtype}, and the model has {tuple(wanted.shape)} of {wanted.dtype}."
            )
        if tensor.numel():
            data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
            out.write(data, partial(written, name))


def _split(tensors: dict[str, Tensor], max_shard_size: int | str) -> StateDictSplit:
    pattern = SAFE_WEIGHTS_NAME.replace(".safetensors", "{suffix}.safetensors")
    return split_torch_state_dict_into_shards(tensors, filename_pattern=pattern, max_shard_size=max_shard_size)


def _header(tensors: Iterable[tuple[str, Tensor]]) -> bytes:
    """What a file of safetensors begins with: its length in 8 bytes, then what stands where, up to a multiple of 8 bytes.

    Source: the format's description, https://github.com/huggingface/safetensors#format.
    """
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors:
        place = [start, start := start + tensor.numel() * tensor.element_size()]
        fields[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text
