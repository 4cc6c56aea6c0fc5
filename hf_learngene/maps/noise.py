"""Random numbers for new entries: the same whatever ran before, and many of them soon."""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor


_POOL = 1_000_003


@functools.lru_cache(maxsize=2)
def _pool(seed: int) -> Tensor:
    # One pool serves every later call: it must not take after the caller's default dtype, device or mode. float32: the noise
    # has no digits worth keeping.
    with torch.inference_mode(False), torch.no_grad():
        pool = torch.empty(_POOL, dtype=torch.float32, device="cpu")
        return pool.normal_(generator=torch.Generator("cpu").manual_seed(seed))


def fill(flat: Tensor, std: float, seed: int, name: str) -> None:
    """Fills a vector with normal numbers that depend on nothing but the seed and the name.

    They are read from one pool of random numbers, round and round from a random place. Growing a base-size model
    needs hundreds of millions, and drawing each anew took longer than all the rest. The pool's length is prime, so no
    two rows of a matrix start at the same place.
    """
    start = int.from_bytes(hashlib.sha256(f"{seed}|{name}".encode()).digest()[:7], "big") % _POOL
    pool, done = _pool(seed), 0
    while done < len(flat):
        count = min(len(flat) - done, _POOL - start)
        torch.mul(pool[start : start + count], std, out=flat[done : done + count])
        done, start = done + count, 0
