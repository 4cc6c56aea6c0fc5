"""What makes a sentence encoder of a model: the pooling and other modules of a sentence-transformers folder, carried along."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.errors import CheckpointError, InvalidSizeError, first_line
from hf_learngene.hub.files import source_files
from hf_learngene.hub.provenance import public_name


logger = logging.getLogger(__name__)
MODULES = "modules.json"
_SETTINGS = ("config_sentence_transformers.json", "sentence_*_config.json")
_PICKLED = "pytorch_model.bin"
_OF_A_MODULE = ("*.json", "*.safetensors", _PICKLED)
_ANY_WIDTH = ("Transformer", "Pooling", "Normalize", "Dropout")
_ANY_DEPTH = ("Dense", "LayerNorm", "WordWeights", "CNN", "LSTM")
_NESTED = ("Asym", "Router")  # with folders in their folders
_WIDTH_FIELDS = ("word_embedding_dimension", "embedding_dimension")
_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean",  # of the same direction
}


@dataclass(frozen=True)
class SentenceModules:
    """The modules that follow the model in a sentence encoder, and its settings.

    Attributes:
        source: where they lie, for messages.
        kinds: folder -> kind of each module after the model, such as `{"1_Pooling": "Pooling"}`, in order.
        files: name relative to the folder of the encoder -> file.
    """

    source: str
    kinds: Mapping[str, str]
    files: Mapping[str, Path]

    @property
    def nbytes(self) -> int:
        """Bytes that they take on the disk."""
        return sum(file.stat().st_size for file in self.files.values())

    @property
    def pooling(self) -> str:
        """How tokens become one vector: `"mean"`, `"cls"` or `"max"`; the mean where several of them do."""
        for folder, kind in self.kinds.items():
            file = self.files.get(f"{folder}/config.json")
            if kind == "Pooling" and file is not None:
                settings = json.loads(file.read_text(encoding="utf-8"))
                named = settings.get("pooling_mode")
                on = {named} if isinstance(named, str) else {_POOLINGS[n] for n in _POOLINGS if settings.get(n)}
                return next(iter(on)) if len(on) == 1 and on <= {"mean", "cls", "max"} else "mean"
        return "mean"

    def check(self, before: PreTrainedConfig, after: PreTrainedConfig) -> None:
        """Refuses sizes that a module cannot take; pooling follows the width, and normalising does not mind.

        Args:
            before: config of the source.
            after: config of the model.

        Raises:
            InvalidSizeError: names the module, and the size that it needs.
        """
        for size, others in (("hidden_size", ()), ("num_hidden_layers", _ANY_DEPTH)):
            old, new = getattr(before, size, None), getattr(after, size, None)
            for folder, kind in self.kinds.items():
                if old != new and kind not in _ANY_WIDTH and (not others or kind not in others):
                    raise InvalidSizeError(
                        f"The sentence encoder `{public_name(self.source)}` goes on with a {kind} module ({folder}) made for "
                        f"{size}={old}, so it cannot follow a model of {size}={new}. Keep {size}={old} and shrink "
                        f"{'intermediate_size or num_hidden_layers' if size == 'hidden_size' else 'intermediate_size'}; "
                        "model.save_pretrained() saves a model without what follows it."
                    )

    def write(self, folder: Path, width: int | None, positions: int | None) -> None:
        """Writes them beside a model that gives vectors of this width and reads so many tokens, where that is known."""
        for name, file in self.files.items():
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            if target.name == _PICKLED:
                _without_pickle(file, target.with_name("model.safetensors"))
                continue
            shutil.copyfile(file, target)
            if target.suffix == ".json":
                _fit(target, width if self.kinds.get(target.parent.name) == "Pooling" else None, positions)


def read_modules(source: str | os.PathLike[str], loading: Mapping[str, Any]) -> SentenceModules | None:
    """The modules of a sentence-transformers folder or Hub repository; None where it is none, or one that cannot be carried.

    Args:
        source: a folder, or a Hub id.
        loading: `revision`, `token`, `cache_dir`, ... of the source.

    Raises:
        CheckpointError: a file that is a link to elsewhere.
    """
    files = {file.name: file for file in source_files(source, (MODULES, *_SETTINGS), loading)}
    if MODULES not in files:
        return None
    try:
        kinds = _kinds(files[MODULES])
    except (CheckpointError, OSError) as error:
        logger.warning("The modules of the sentence encoder `%s` are left out: %s", source, first_line(error))
        return None
    above = loading.get("subfolder")
    for folder in kinds:
        inside = {**loading, "subfolder": f"{above}/{folder}" if above else folder}
        found = {file.name: file for file in source_files(source, _OF_A_MODULE, inside)}
        if "model.safetensors" in found:
            found.pop(_PICKLED, None)
        files |= {f"{folder}/{name}": file for name, file in found.items()}
    return SentenceModules(str(source), kinds, files)


def embeds_sentences(model_class: type[PreTrainedModel]) -> bool:
    """Whether models of a class give what a sentence encoder pools: they read tokens, and have no head."""
    return model_class.main_input_name == "input_ids" and "For" not in model_class.__name__


def holds_width(
    source: str | os.PathLike[str], loading: Mapping[str, Any], model_class: type[PreTrainedModel]
) -> bool:
    """Whether a checkpoint is a sentence encoder, whose vectors others have stored: a budget leaves it its width."""
    return embeds_sentences(model_class) and bool(source_files(source, (MODULES,), loading))


def check_modules(
    source: str | os.PathLike[str],
    loading: Mapping[str, Any],
    model_class: type[PreTrainedModel],
    before: PreTrainedConfig,
    after: PreTrainedConfig,
) -> None:
    """Refuses sizes that a sentence encoder's modules cannot follow, before any work; says nothing of other sources.

    Raises:
        InvalidSizeError: names the module, and the size that it needs.
    """
    if embeds_sentences(model_class) and (modules := read_modules(source, loading)) is not None:
        modules.check(before, after)


def module_folders(folder: Path) -> set[str]:
    """Names of the folders that a saved sentence encoder keeps its modules in."""
    if not (folder / MODULES).is_file():
        return set()
    try:
        return set(_kinds(folder / MODULES))
    except (CheckpointError, OSError):
        return set()


def _kinds(path: Path) -> dict[str, str]:
    """Folder -> kind of the modules after the first, which is the model.

    Raises:
        CheckpointError: it lists something else.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{MODULES} is no JSON: {error}") from error
    found: dict[str, str] = {}
    for number, module in enumerate(listed if isinstance(listed, list) else [None]):
        place, kind = (module.get("path"), module.get("type")) if isinstance(module, dict) else (None, None)
        if not isinstance(place, str) or not isinstance(kind, str):
            raise CheckpointError(f"{MODULES} does not list modules with their path and type.")
        if not kind.startswith("sentence_transformers.") or kind.endswith(_NESTED):
            raise CheckpointError(f"`{kind}` is code of its own, or several encoders in one.")
        if number == 0:
            if place or not kind.endswith(".Transformer"):
                raise CheckpointError(f"its model lies in `{place}`, or is no Transformer ({kind}).")
        elif place in ("", ".", "..") or PurePosixPath(place).name != place or "\\" in place:
            raise CheckpointError(f"`{place}` is no folder beside {MODULES}.")
        else:
            found[place] = kind.rpartition(".")[2]
    return found


def _fit(path: Path, width: int | None, positions: int | None) -> None:
    """Sets what follows the model: the width that pooling reads, and the longest text."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(settings, dict):
        return
    fitted = dict(settings)
    for name in _WIDTH_FIELDS if width is not None else ():
        if name in fitted:
            fitted[name] = width
    longest = fitted.get("max_seq_length")
    if isinstance(longest, int) and positions is not None and longest > positions:
        fitted["max_seq_length"] = positions
    if fitted != settings:
        path.write_text(json.dumps(fitted, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_pickle(file: Path, target: Path) -> None:
    """A module's weights as safetensors: nobody should have to unpickle them."""
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        save_file({name: value.contiguous() for name, value in weights.items()}, target)
    except Exception as error:  # whatever a damaged or foreign pickle ends in
        raise CheckpointError(f"{file.name} of the module in {file.parent.name} cannot be read: {error}") from error


__all__ = [
    "MODULES",
    "SentenceModules",
    "check_modules",
    "embeds_sentences",
    "holds_width",
    "module_folders",
    "read_modules",
]
