"""Exact digests of data and weights: the same bytes in every process, other bytes for any other value."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from hf_learngene.errors import TrainingDataError


# Reading an example may decode an image, so a large data set is not read whole only to be known again.
LOOKS = 2**16


def of_data(dataset: Any) -> str:
    """A digest of a data set's own fingerprint (`datasets` has one), else of its length and the bytes of its examples.

    All examples up to `LOOKS`, of more as many, evenly spread with both ends: there, a change between them is not seen.

    Example:
        >>> of_data([{"labels": 0}, {"labels": 1}]) == of_data([{"labels": 1}, {"labels": 0}])
        False
    """
    count = len(dataset)
    found = hashlib.sha256(str(count).encode())
    fingerprint = getattr(dataset, "_fingerprint", None)
    if fingerprint:
        found.update(str(fingerprint).encode())
        return found.hexdigest()
    looks = min(count, LOOKS)
    for i in range(looks):
        for piece in pieces(dataset[i * (count - 1) // max(1, looks - 1)]):
            found.update(piece)
    return found.hexdigest()


def of_values(*values: Any) -> str:
    """A digest of any plain values, tensors, and mappings and lists of them."""
    found = hashlib.sha256()
    for piece in pieces(values):
        found.update(piece)
    return found.hexdigest()


def pieces(value: Any) -> Iterator[bytes]:
    """The bytes of a value, whole, each with what they mean (repr shortens a large tensor).

    Raises:
        TrainingDataError: a value that has no bytes.
    """
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        yield f"{plain.dtype} {tuple(plain.shape)}".encode()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype} {value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, Image):
        yield f"{value.mode} {value.size} {value.getpalette()}".encode()
        yield value.tobytes()
    elif isinstance(value, Mapping):
        yield f"{{{len(value)}".encode()
        for key in sorted(value, key=str):
            yield repr(key).encode()
            yield from pieces(value[key])
    elif isinstance(value, (list, tuple)):
        yield f"[{len(value)}".encode()
        for part in value:
            yield from pieces(part)
    elif value is None or isinstance(value, (str, bytes, bool, int, float)):
        yield f"{value!r};".encode()
    else:
        try:
            yield pickle.dumps(value, protocol=4)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise TrainingDataError(
                f"An example holds a {type(value).__name__}, which has no bytes to be known by again. Remove that column."
            ) from error
