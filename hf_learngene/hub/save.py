"""Writing a resized model: the folder is whole or absent, and tokenizer and image processor come along."""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import AutoImageProcessor, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.config_fields import as_pair, section, section_name
from hf_learngene.anatomy.types import POSITIONS
from hf_learngene.errors import CheckpointError, LearngeneError, OutputError, VocabularyError
from hf_learngene.hub import provenance
from hf_learngene.hub.load import load_config, native_class


logger = logging.getLogger(__name__)
# Every vocabulary file that a tokenizer of an encoder in transformers reads. They are copied as they are: a tokenizer
# that was read and written again is not always the same one.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model", "dict.txt", "bpe.codes", "entity_vocab.json", "word_*.json", "chat_template.*",
)  # fmt: skip
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_HUB_KEYWORDS = ("revision", "token", "cache_dir", "local_files_only")
_SMALL_FILES = 1 << 20  # config, card and the headers of the weights
_TOKEN_BYTES = 128  # of a tokenizer.json, its merges included


def save_resized(
    model: PreTrainedModel,
    output: str | os.PathLike,
    *,
    source: str | os.PathLike | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    loading: Mapping[str, Any] | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Saves a model together with what its source has for preparing inputs, fitted to the new sizes.

    It is written beside the target under a hidden name and renamed when it is complete. Whatever interrupts it, there
    is never half a model at `output`.

    Args:
        model (`PreTrainedModel`): the model to save.
        output (`str` or `os.PathLike`): a folder that does not exist yet.
        source (`str` or `os.PathLike`, *optional*): Hub id or folder to take tokenizer and image processor from.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): a tokenizer in place of the source's, as `trim_tokenizer` makes one.
        loading (`Mapping`, *optional*): `revision`, `token`, `cache_dir`, ... of the source.
        card (`str`, *optional*): text of README.md, see `hf_learngene.hub.model_card`.
        overwrite (`bool`, *optional*, defaults to `False`): replace a saved model, once the new one is complete.

    Returns:
        `Path` of the folder.

    Raises:
        OutputError: the folder exists, cannot be written, or the disk is too small.
        VocabularyError: a tokenizer with ids that the model has no rows for.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> model = BertModel(BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1))
        >>> out = save_resized(model, getfixture("tmp_path") / "small", card="A small BERT.")
        >>> sorted(file.name for file in out.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    path = check_output(output, overwrite)
    loading = dict(loading or {})
    if tokenizer is not None:
        _check_tokenizer(model, tokenizer)
    inputs = _input_files(model, source, loading) if source is not None and tokenizer is None else []
    weights = {id(t): t.nbytes for t in (*model.parameters(), *model.buffers())}
    vocabulary = len(tokenizer) * _TOKEN_BYTES if tokenizer is not None else sum(f.stat().st_size for f in inputs)
    needed = sum(weights.values()) + vocabulary + _SMALL_FILES
    if needed > _free(path):
        raise OutputError(_too_small(path, needed))
    with whole_or_absent(path, overwrite, needed) as folder:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
            _forget_paths(folder / "tokenizer_config.json")
            positions = _table_of_positions(model.config, native_class(type(model)))
            if source is None and positions is not None:
                _limit_tokenizer(folder, positions, positions)
        if source is not None:
            _carry(model, source, loading, inputs, folder)
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
    return Path(output)


def check_output(output: str | os.PathLike, overwrite: bool = False) -> Path:
    """The real path to write to. Cheap: call it before anything is loaded.

    Raises:
        OutputError: it exists already, is no folder of a saved model, or nothing can be written there.
    """
    path = Path(os.path.realpath(output))
    if path.exists():
        if not path.is_dir():
            raise OutputError(f"`{output}` is a file. Name a folder that does not exist yet.")
        if not overwrite:
            raise OutputError(
                f"The folder `{output}` exists already. Name another, or replace it (overwrite=True, --overwrite)."
            )
        if any(path.iterdir()) and not (path / "config.json").is_file():
            # Replacing deletes everything below; a mistyped home folder must not be lost to it.
            raise OutputError(
                f"The folder `{output}` holds no config.json: it is no saved model, and is not replaced."
            )
    above = _existing(path.parent)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"`{output}` cannot be made: `{above}` is not a folder that you can write to.")
    return path


def source_files(source: str | os.PathLike, patterns: tuple[str, ...], loading: Mapping[str, Any]) -> list[Path]:
    """Files of a local folder or of a Hub repository (fetched if need be) whose names match one of `patterns`.

    A repository that cannot be reached gives none, with a warning.
    """
    folder = Path(source)
    inside = loading.get("subfolder") or ""
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        wanted = [f"{inside}/{p}" if inside else p for p in patterns]
        keywords = {k: v for k, v in loading.items() if k in _HUB_KEYWORDS}
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=wanted, **keywords))
        except Exception as error:  # the client's own, the network's, those of whatever HTTP library it uses
            logger.warning("%s of `%s` could not be fetched: %s", ", ".join(patterns), source, _first_line(error))
            return []
    folder /= inside
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_file() and any(fnmatch(f.name, p) for p in patterns))


def _input_files(model: PreTrainedModel, source: str | os.PathLike, loading: Mapping[str, Any]) -> list[Path]:
    return source_files(source, PROCESSOR_FILES if _sees(model) else TOKENIZER_FILES, loading)


def _sees(model: PreTrainedModel) -> bool:
    return model.main_input_name == "pixel_values"


def _check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    embeddings = model.get_input_embeddings() if not _sees(model) else None
    if embeddings is None:
        raise VocabularyError(
            f"{type(model).__name__} reads no tokens, so no tokenizer goes with it. Leave tokenizer= out."
        )
    rows, last = cast(nn.Embedding, embeddings).weight.shape[0], max(tokenizer.get_vocab().values())
    if last >= rows:
        raise VocabularyError(
            f"The tokenizer has ids up to {last}, the model rows for {rows} tokens. Take the tokenizer and the kept_tokens that "
            "one call of trim_tokenizer gave."
        )


def _carry(
    model: PreTrainedModel, source: str | os.PathLike, loading: Mapping[str, Any], files: list[Path], folder: Path
) -> None:
    """Copies `files` to `folder`, and fits what lies there to the model where its sizes differ from the source's."""
    if not files and not (folder / "tokenizer_config.json").exists():
        return
    try:
        before = load_config(source, dict(loading))
    except CheckpointError as error:
        if files:
            raise
        logger.warning("The tokenizer was not fitted to the positions of the model: %s", _first_line(error))
        return
    before = getattr(before, "base_config", None) or before  # a learngene's auxiliary model
    old, new = (section(c, section_name(c, model.main_input_name)) for c in (before, model.config))
    if _sees(model):
        if _box(old) != _box(new):
            _carry_image_processor(files[0].parent, _box(new), folder)
            return
    elif files and provenance.vocabularies(before) != provenance.vocabularies(model.config):
        logger.warning("The source's tokenizer has other tokens and is left out. Give the trimmed one: tokenizer=.")
        return
    elif files and (getattr(new, "vocab_size", None) or 0) < (getattr(old, "vocab_size", None) or 0):
        logger.warning("vocab_size is smaller than the source's, so its tokenizer does not fit and is left out.")
        return
    for file in files:
        shutil.copyfile(file, folder / file.name)
        if file.name.endswith("_config.json"):
            _forget_paths(folder / file.name)
    if not _sees(model) and getattr(old, "max_position_embeddings", None) != getattr(
        new, "max_position_embeddings", None
    ):
        cls = native_class(type(model))
        _limit_tokenizer(folder, usable_positions(before, cls), usable_positions(model.config, cls))


def usable_positions(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> int:
    """How many tokens a text model takes: its position table, less the rows that no token gets (RoBERTa's first two)."""
    found = _table_of_positions(config, model_class)
    return section(config, section_name(config, "input_ids")).max_position_embeddings if found is None else found


def _table_of_positions(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> int | None:
    for tensor in anatomy_of(config, model_class).tensors.values():
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
        if truncation and truncation.get("max_length", 0) > new:
            truncation["max_length"] = new
            _write(core, content)


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
    except (OSError, ValueError, ImportError) as error:
        logger.warning("The image processor of the source could not be read and is left out: %s", _first_line(error))
        return
    for name, value in fitted_sizes(processor.to_dict(), image).items():
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


@contextmanager
def whole_or_absent(path: Path, overwrite: bool, needed: int) -> Iterator[Path]:
    """A hidden folder beside `path` that takes its place at the end, or is gone."""
    partial = _beside(path, "partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        _sync(partial)
        _put(partial, path, overwrite)
    except LearngeneError:
        raise
    except Exception as error:  # safetensors reports a full disk by an error of its own, which is no OSError
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or f"os error {errno.ENOSPC}" in str(
            error
        )
        shutil.rmtree(partial, ignore_errors=True)
        if full:
            raise OutputError(_too_small(path, needed)) from error
        if isinstance(error, OSError):
            raise OutputError(
                f"`{path}` could not be written: {_first_line(error)}. Nothing was left behind."
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put(partial: Path, path: Path, overwrite: bool) -> None:
    if not overwrite and path.exists():  # somebody else made it meanwhile
        raise OutputError(f"The folder `{path}` came into being while this one was written. It was left as it is.")
    old = _beside(path, "old")
    try:
        if path.exists():
            os.rename(path, old)
        os.rename(partial, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


def _sync(folder: Path) -> None:
    """The rename must not reach the disk before the content does."""
    for file in folder.rglob("*"):
        if file.is_file():
            # safetensors writes for the owner only; whoever may read the folder may read the weights.
            file.chmod(folder.stat().st_mode & 0o666)
            with file.open("r+b") as handle:
                os.fsync(handle.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _free(path: Path) -> int:
    return shutil.disk_usage(_existing(path)).free


def _too_small(path: Path, needed: int) -> str:
    free = _free(path)
    return (
        f"There is too little space for `{path}`: it needs about {needed:,} bytes ({needed / 1e6:,.1f} MB), and {free:,} bytes "
        f"({free / 1e6:,.1f} MB) are free. Nothing was written."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
