"""The index of a checkpoint's shards, checked before one is opened: a stranger wrote it, and could name any file here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from hf_learngene.errors import CheckpointError


def check_index(source: str | os.PathLike[str], loading: Mapping[str, Any]) -> None:
    """Refuses a folder whose index of shards names anything but files beside it. Of the Hub, its client sees to that.

    Args:
        source: a folder, or a Hub id, of which nothing is said.
        loading: keywords of `from_pretrained`, of which `subfolder` counts.

    Raises:
        CheckpointError: names the index and the shard.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
        >>> check_index(folder, {})
        Traceback (most recent call last):
        hf_learngene.errors.CheckpointError: ...index.json` names the shard '../model.safetensors', and a shard lies beside it...
    """
    folder = Path(source) / (loading.get("subfolder") or "")
    for path in sorted(folder.glob("*.index*.json")):
        for shard in _shards(path):
            if not _is_name(shard):
                raise CheckpointError(
                    f"`{path}` names the shard {_short(shard)}, and a shard lies beside it. Fetch the checkpoint again."
                )


def _shards(path: Path) -> list[Any]:
    """What an index maps tensors to; nothing where it is none, of which transformers says more."""
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    found = content.get("weight_map") if isinstance(content, dict) else None
    return list(found.values()) if isinstance(found, dict) else []


def _is_name(shard: Any) -> bool:
    """Whether it is the name of a file, and no path to one."""
    if not isinstance(shard, str) or shard in ("", ".."):
        return False
    return PurePosixPath(shard).name == shard and "\\" not in shard and "\0" not in shard


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


__all__ = ["check_index"]
