"""The source's tokenizer or image processor, and a sentence encoder's modules, fitted to the sizes of another model."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.config_fields import as_pair, section, section_name
from hf_learngene.anatomy.inputs import reads_image_beside_text, token_rows
from hf_learngene.anatomy.sections import sections_of
from hf_learngene.anatomy.types import POSITIONS
from hf_learngene.errors import (
    CheckpointError,
    UnknownOptionError,
    UnsupportedFamilyError,
    VocabularyError,
    first_line,
)
from hf_learngene.hub import provenance
from hf_learngene.hub.files import PROCESSOR_FILES, input_files, source_files
from hf_learngene.hub.load import load_config, native_class
from hf_learngene.hub.sentence import SentenceModules, embeds_sentences, read_modules


logger = logging.getLogger(__name__)
_TOKEN_BYTES = 128  # of a tokenizer.json, its merges included
_SMALL_PROCESSOR = 1 << 16


@dataclass(frozen=True)
class Inputs:
    """Tokenizer or image processor that goes beside the weights of a model, and what follows it in a sentence encoder.

    Attributes:
        model: the model.
        files: files of the source's tokenizer or image processor; none where `given` takes their place.
        given: a tokenizer or image processor.
        before: config of the source; None where there is no source, or none that can be read.
        modules: of the source, where that is a sentence encoder.
    """

    model: PreTrainedModel
    files: tuple[Path, ...]
    given: Any
    before: PreTrainedConfig | None
    modules: SentenceModules | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it takes on the disk, roughly."""
        besides = self.modules.nbytes if self.modules is not None else 0
        if isinstance(self.given, PreTrainedTokenizerBase):
            return len(self.given) * _TOKEN_BYTES + besides
        return besides + (sum(f.stat().st_size for f in self.files) if self.given is None else _SMALL_PROCESSOR)

    def write(self, folder: Path) -> None:
        """Writes it to a folder. What the source has damaged is left out, with a warning: the model is not lost to it."""
        self._write_inputs(folder)
        if self.modules is not None:
            positions = _table_of_positions(self.model.config, native_class(type(self.model)))
            self.modules.write(folder, getattr(self.model.config, "hidden_size", None), positions)

    def _write_inputs(self, folder: Path) -> None:
        if self.given is not None:
            self._write_given(folder)
            return
        try:
            self._write_files(folder)
        except CheckpointError as error:
            for file in self.files:
                (folder / file.name).unlink(missing_ok=True)
            logger.warning("What prepares the inputs of the source is damaged and left out: %s", first_line(error))

    def _write_given(self, folder: Path) -> None:
        self.given.save_pretrained(folder)
        for file in folder.glob("*_config.json"):
            _forget_paths(file)
        if isinstance(self.given, PreTrainedTokenizerBase):
            new = _table_of_positions(self.model.config, native_class(type(self.model)))
            if self.before is not None:
                self._follow_positions(self.before, folder)
            elif new is not None:
                _limit_tokenizer(folder, new, new)

    def _write_files(self, folder: Path) -> None:
        if not self.files or self.before is None:
            return
        # a model of images and texts has files of both kinds
        images = [f for f in self.files if f.name in PROCESSOR_FILES]
        tokens = [f for f in self.files if f.name not in PROCESSOR_FILES]
        if images:
            self._write_images(images, self.before, folder)
        if tokens:
            self._write_tokens(tokens, self.before, folder)

    def _write_images(self, files: Sequence[Path], before: PreTrainedConfig, folder: Path) -> None:
        old, new = (section(c, section_name(c, "pixel_values")) for c in (before, self.model.config))
        if _box(old) != _box(new):
            _carry_image_processor(files[0].parent, _box(new), folder)
        else:
            _copy(files, folder)

    def _write_tokens(self, files: Sequence[Path], before: PreTrainedConfig, folder: Path) -> None:
        old, new = (section(c, section_name(c, "input_ids")) for c in (before, self.model.config))
        if provenance.vocabularies(before) != provenance.vocabularies(self.model.config):
            logger.warning(
                "The source's tokenizer has other tokens and is left out. Give the trimmed one: processing_class=."
            )
        elif (getattr(new, "vocab_size", None) or 0) < (getattr(old, "vocab_size", None) or 0):
            logger.warning("vocab_size is smaller than the source's, so its tokenizer does not fit and is left out.")
        else:
            _copy(files, folder)
            self._follow_positions(before, folder)

    def _follow_positions(self, before: PreTrainedConfig, folder: Path) -> None:
        old, new = (section(c, section_name(c, "input_ids")) for c in (before, self.model.config))
        if getattr(old, "max_position_embeddings", None) != getattr(new, "max_position_embeddings", None):
            cls = native_class(type(self.model))
            _limit_tokenizer(folder, usable_positions(before, cls), usable_positions(self.model.config, cls))


def read_inputs(
    model: PreTrainedModel, source: str | os.PathLike | None, loading: Mapping[str, Any], processing_class: Any = None
) -> Inputs:
    """The source's tokenizer or image processor, or the `processing_class` in its place; nothing is written yet.

    Raises:
        VocabularyError: a tokenizer with ids that the model has no rows for.
        UnknownOptionError: no tokenizer or image processor, or one of the other kind.
        CheckpointError: a file that is a link to elsewhere.
        InvalidSizeError: a module of a sentence encoder that the model's sizes do not fit.
    """
    if processing_class is not None:
        _check_processing_class(model, processing_class)
    files: list[Path] = []
    if source is not None and processing_class is None:
        files = source_files(source, input_files(model.config, native_class(type(model))), loading)
    modules = read_modules(source, loading) if source is not None and embeds_sentences(type(model)) else None
    before = None
    if source is not None and (files or modules or isinstance(processing_class, PreTrainedTokenizerBase)):
        try:
            before = load_config(source, dict(loading))
            before = getattr(before, "base_config", None) or before  # a learngene's auxiliary model
        except CheckpointError as error:
            logger.warning(
                "The config of `%s` cannot be read, so its tokenizer or image processor is not fitted to the model%s: %s",
                source,
                " and left out" if files else "",
                first_line(error),
            )
    if modules is not None and before is not None:
        modules.check(before, model.config)
    return Inputs(model, tuple(files), processing_class, before, modules)


def sees(model: PreTrainedModel) -> bool:
    """Whether a model takes images; else it takes tokens."""
    return model.main_input_name == "pixel_values"


def _check_processing_class(model: PreTrainedModel, given: Any) -> None:
    if not isinstance(given, (PreTrainedTokenizerBase, BaseImageProcessor, ProcessorMixin)):
        raise UnknownOptionError(
            f"processing_class is a tokenizer or an image processor; it was a {type(given).__name__}."
        )
    name = type(model).__name__
    both = reads_image_beside_text(model.config, type(model))
    if not isinstance(given, PreTrainedTokenizerBase):
        if not sees(model) and not both:
            raise UnknownOptionError(f"{name} takes tokens, so no {type(given).__name__} goes with it.")
        return
    rows = token_rows(model) if both or not sees(model) else None
    if rows is None:
        raise VocabularyError(f"{name} reads no tokens, so no tokenizer goes with it. Leave processing_class= out.")
    last = max(given.get_vocab().values(), default=0)
    if last >= rows:
        raise VocabularyError(
            f"The tokenizer has ids up to {last}, the model rows for {rows} tokens. Take the tokenizer and the kept_tokens that "
            "one call of trim_tokenizer gave."
        )


def usable_positions(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> int:
    """Number of tokens that a text model takes: its position table, less the rows that no token gets (RoBERTa's first two)."""
    found = _table_of_positions(config, model_class)
    return section(config, section_name(config, "input_ids")).max_position_embeddings if found is None else found


def _table_of_positions(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> int | None:
    sections = sections_of(config, model_class)
    texts = section_name(config, "input_ids") if len(sections) > 1 else sections[0]
    try:
        anatomy = anatomy_of(config, model_class, texts)
    except UnsupportedFamilyError:  # a part that is not resized, such as a decoder
        return None
    for tensor in anatomy.tensors.values():
        for dim in tensor.dims:
            if dim.axis == POSITIONS:
                return dim.size - dim.prefix
    return None


def _limit_tokenizer(folder: Path, old: int, new: int) -> None:
    """Sets `model_max_length`. A limit below what the source could take was somebody's choice, and stays if it can."""
    path = folder / "tokenizer_config.json"
    settings = _read(path) if path.exists() else {}
    limit = settings.get("model_max_length")
    settings["model_max_length"] = min(limit, new) if isinstance(limit, int) and limit < old else new
    _write(path, settings)
    core = folder / "tokenizer.json"  # read by itself outside of transformers, and holds a limit of its own
    if core.exists():
        content = _read(core)
        truncation = content.get("truncation")
        if isinstance(truncation, dict) and truncation.get("max_length", 0) > new:
            truncation["max_length"] = new
            _write(core, content)


def _copy(files: Sequence[Path], folder: Path) -> None:
    for file in files:
        shutil.copyfile(file, folder / file.name)
        if file.name.endswith("_config.json"):
            _forget_paths(folder / file.name)


def _forget_paths(path: Path) -> None:
    """Drops where on somebody's machine a tokenizer once lay, which older versions of transformers wrote down."""
    settings = _read(path)
    private = [
        k
        for k, v in settings.items()
        if (k == "name_or_path" or k.endswith("_file"))
        and isinstance(v, str)
        and (os.path.isabs(v) or v.startswith("~"))
    ]
    if private:
        _write(path, {k: v for k, v in settings.items() if k not in private})


def _carry_image_processor(source: Path, image: tuple[int, int], folder: Path) -> None:
    try:
        # Pillow is always there; torchvision is not, and both backends write the same file.
        processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        fields = fitted_sizes(processor.to_dict(), image)
    except Exception as error:  # whatever a class that a damaged file names makes of the rest of it
        logger.warning("The image processor of the source could not be read and is left out: %s", first_line(error))
        return
    for name, value in fields.items():
        setattr(processor, name, value)
    processor.save_pretrained(folder)


def fitted_sizes(settings: Mapping[str, Any], image: tuple[int, int]) -> dict[str, Any]:
    """`size` and `crop_size` of an image processor for images of (height, width) `image`, in the form they have.

    What reaches the model is exactly `image`; a margin that is resized to first and then cropped off keeps its ratio.

    Example:
        >>> crop = {"height": 224, "width": 224}
        >>> fitted_sizes({"size": {"shortest_edge": 256}, "crop_size": crop, "do_center_crop": True}, (112, 112))
        {'size': {'shortest_edge': 128}, 'crop_size': {'height': 112, 'width': 112}}
    """
    fields = {k: settings[k] for k in ("size", "crop_size") if settings.get(k)}
    final = fields["crop_size"] if settings.get("do_center_crop") and "crop_size" in fields else fields.get("size")
    if final is None:
        return {}
    edge = next(iter(final.values()))
    height, width = image[0] / final.get("height", edge), image[1] / final.get("width", edge)
    # An edge of unknown direction has to suffice for both, or the crop would pad with black.
    ratio = {"height": height, "max_height": height, "width": width, "max_width": width}
    return {
        n: {k: round(v * ratio.get(k, max(height, width))) for k, v in field.items()} for n, field in fields.items()
    }


def _box(config: PreTrainedConfig) -> tuple[int, int]:
    return as_pair(getattr(config, "image_size", None) or 0)


def _read(path: Path) -> dict[str, Any]:
    """The content of a JSON file.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds no fields but a {type(content).__name__}.")
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
