"""Files of a checkpoint beside its weights, in a folder or on the Hub, and the keywords that say where they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.inputs import reads_image_beside_text
from hf_learngene.calibration.processing import HUB_KEYWORDS
from hf_learngene.errors import CheckpointError, first_line


logger = logging.getLogger(__name__)
# Every vocabulary file that a tokenizer of an encoder in transformers reads. They are copied as they are: a tokenizer
# that was read and written again is not always the same one.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model", "dict.txt", "bpe.codes", "entity_vocab.json", "word_*.json", "chat_template.*",
)  # fmt: skip
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def hub_keywords(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of the Hub client among those of `from_pretrained`."""
    return {name: value for name, value in given.items() if name in HUB_KEYWORDS}


def input_files(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> tuple[str, ...]:
    """Names of the files that prepare a model's inputs: an image processor's, a tokenizer's, or those of both."""
    if reads_image_beside_text(config, model_class):
        return (*PROCESSOR_FILES, *TOKENIZER_FILES)
    return PROCESSOR_FILES if model_class.main_input_name == "pixel_values" else TOKENIZER_FILES


def source_files(source: str | os.PathLike, patterns: tuple[str, ...], loading: Mapping[str, Any]) -> list[Path]:
    """Files of a local folder or of a Hub repository (fetched if need be) whose names match one of `patterns`.

    A repository that cannot be reached gives none, with a warning.

    Raises:
        CheckpointError: a link that leads out of the folder, to a file that its author may not have.
    """
    folder = Path(source)
    inside = loading.get("subfolder") or ""
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        wanted = [f"{inside}/{p}" if inside else p for p in patterns]
        keywords = {k: v for k, v in hub_keywords(loading).items() if k not in ("subfolder", "proxies")}
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=wanted, **keywords))
        except Exception as error:  # the client's own, the network's, those of whatever HTTP library it uses
            logger.warning("%s of `%s` could not be fetched: %s", ", ".join(patterns), source, first_line(error))
            return []
    home = folder
    folder /= inside
    if not folder.is_dir():
        return []
    found = sorted(f for f in folder.iterdir() if f.is_file() and any(fnmatch(f.name, p) for p in patterns))
    for file in found:
        _check_inside(file, home)
    return found


def _check_inside(file: Path, folder: Path) -> None:
    """Refuses a link to elsewhere: a folder from a stranger must not copy what lies on this machine into an output."""
    target, home = file.resolve(), folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":  # of the Hub's cache, whose files are links to blobs/ beside snapshots/
        allowed.append(home.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"`{file}` is a link that leads out of its folder, to `{target}`. Put the file itself there, or take the link away."
        )
