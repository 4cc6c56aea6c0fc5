"""Which checkpoint a training goes on from: the last that is whole, and one of the same configuration."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from hf_learngene.errors import ResumeError


STATE = "trainer_state.json"
_NAME = re.compile(r"^checkpoint-(\d+)$")
# What a config says of the run and not of the model.
_NOT_THE_MODEL = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "fitted", "ancestry", "_commit_hash",
                  "ancestry_commit", "license", "results",
                  "_attn_implementation_autoset", "architectures", "problem_type"}  # fmt: skip


def checkpoints_of(folder: str | os.PathLike[str]) -> list[Path]:
    """Every `checkpoint-N` of a folder, whole or not, the last first."""
    found = (path for path in Path(folder).glob("checkpoint-*") if _NAME.match(path.name) and path.is_dir())
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: str | os.PathLike[str]) -> int:
    """The step after which a checkpoint was written.

    Example:
        >>> step_of("runs/vit/checkpoint-500")
        500
    """
    return int(Path(checkpoint).name.rpartition("-")[2])


def last_whole_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """The last checkpoint that nothing interrupted, or None.

    Args:
        folder (`str` or `os.PathLike`): the `output_dir` of a training; it need not exist.

    Example:
        >>> last_whole_checkpoint("no_such_folder") is None
        True
    """
    return next((path for path in checkpoints_of(folder) if fault_of(path) is None), None)


def fault_of(checkpoint: str | os.PathLike[str]) -> str | None:
    """What shows that a checkpoint was cut off while it was written or deleted; None where nothing does.

    Only JSON files are read whole; of weights and optimizer states, what lies at their ends. It is quick at any size.
    """
    folder = Path(checkpoint)
    # The Trainer writes its state last: where it is, all that comes before it was written.
    if not (folder / STATE).is_file():
        return f"{STATE} is missing"
    files = sorted(folder.iterdir())
    if not any(map(_holds_weights, files)):
        return "the weights are missing"
    cut = (f"{path.name} is cut off" for path in files if not _is_whole(path))
    gone = (f"{name} is missing" for name in _shards(folder) if not (folder / name).is_file())
    return next(cut, None) or next(gone, None)


def _holds_weights(path: Path) -> bool:
    # FSDP, DeepSpeed and several adapters at once have folders of their own
    return path.is_dir() or (path.suffix in (".safetensors", ".bin") and path.name != "training_args.bin")


def _is_whole(path: Path) -> bool:
    if path.suffix == ".json":
        return read_json(path) is not None
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):  # refuses a file of another length than its header says
                return True
        except (SafetensorError, OSError):
            return False
    if path.suffix in (".pt", ".pth", ".bin") and path.is_file():
        with path.open("rb") as file:
            start = file.read(2)
        # torch.save makes a zip file, whose directory comes last; an older format cannot be judged by its end
        return not b"PK".startswith(start) or zipfile.is_zipfile(path)
    return True


def _shards(folder: Path) -> Iterator[str]:
    for path in folder.glob("*.index.json"):
        index = read_json(path)
        yield from sorted(set(index.get("weight_map", {}).values())) if isinstance(index, dict) else ()


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is none, or half of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: Any) -> None:
    """A JSON file that is the old one or the new one, whatever interrupts it."""
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(beside, path)


def check_resumable(checkpoint: str | os.PathLike[str]) -> None:
    """Refuses a checkpoint that is not whole.

    Raises:
        ResumeError: says what it lacks, and which one is whole.
    """
    folder = Path(checkpoint)
    fault = fault_of(folder) if folder.is_dir() else None  # the Trainer itself says where there is none
    if fault is not None:
        other = last_whole_checkpoint(folder.absolute().parent)
        hint = f"Resume with {other.name}." if other is not None else "No other beside it is whole: begin anew."
        raise ResumeError(f"{folder.name} is not whole ({fault}): its writing was interrupted. {hint}")


def check_configuration(checkpoint: str | os.PathLike[str], config: PreTrainedConfig) -> None:
    """Refuses a checkpoint of another model.

    Raises:
        ResumeError: says which fields differ.
    """
    folder = Path(checkpoint)
    content = read_json(folder / "config.json")
    if not isinstance(content, dict):
        return
    saved, own = _flat(content), _flat(json.loads(config.to_json_string()))
    other = sorted(k for k in saved.keys() | own.keys() if saved.get(k) != own.get(k))
    if other:
        shown = ", ".join(f"{k}: {_short(saved.get(k))} there, {_short(own.get(k))} here" for k in other[:3])
        raise ResumeError(
            f"{folder.name} was written by another configuration ({shown}). Resume with the same model, or train into "
            "another output_dir."
        )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names, without those that are not the model's."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name not in _NOT_THE_MODEL:
            found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:40]}…"
