"""Data sets from what people have: a folder of images, a file or folder of tables or texts, a saved data set, a Hub id."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from hf_learngene.errors import CalibrationError, first_line


if TYPE_CHECKING:  # a quarter of a second, which a resize without examples need not wait for
    from datasets import Dataset


LOADERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}
TRAIN = "train"
_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")  # of `save_to_disk`
_LOOKED_AT = 10_000  # files of a folder by which it is told what it holds


def read_examples(
    source: str | os.PathLike[str], split: str = TRAIN, config_name: str | None = None, token: str | bool | None = None
) -> Dataset:
    r"""One split of a data set.

    Args:
        source: a parquet, csv, json, jsonl or txt file (a text on each line), a folder of such files or of images, a folder that
            `save_to_disk` made, or an id on the Hub. What exists here is read from here.
        split (`str`, *optional*, defaults to `"train"`): of a folder or an id; a file is one split.
        config_name (`str`, *optional*): of an id.
        token (*optional*): of an id.

    Raises:
        CalibrationError: nothing is there, or nothing that can be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "questions.txt").write_text("Who?\nWhen?\n")
        >>> read_examples(folder / "questions.txt")["text"]
        Column(['Who?', 'When?'])
    """
    from datasets import load_dataset, load_from_disk

    path = Path(source).expanduser()
    check_there(source)
    if not path.exists():
        return _from_hub(str(source), split, config_name, token)
    try:
        if path.is_file():
            return _read(_loader(path), [str(path)])
        if any((path / name).is_file() for name in _SAVED):
            return _one_split(load_from_disk(str(path)), path, split)
        kind = _kind(path)
        if kind == "imagefolder":
            return load_dataset(kind, data_dir=str(path), split=split)
        endings = [e for e, loader in LOADERS.items() if loader == kind]
        files = sorted(str(f) for f in _files(path) if f.suffix.lower() in endings)
        return _read(kind, files)
    except CalibrationError:
        raise
    except Exception as error:  # what a damaged file makes of the readers
        raise CalibrationError(f"{os.fspath(source)!r} cannot be read as a data set: {_cause(error)}") from error


def check_there(source: str | os.PathLike[str]) -> None:
    """Refuses a path where nothing lies, before anything is loaded for it; a name on the Hub passes.

    Raises:
        CalibrationError: names what lies there in its place.
    """
    path = Path(source).expanduser()
    if not path.exists() and (isinstance(source, os.PathLike) or _is_local(str(source))):
        raise CalibrationError(f"{os.fspath(source)} does not exist.{_beside(path)}")


def _read(loader: str, files: list[str]) -> Dataset:
    from datasets import load_dataset

    found = load_dataset(loader, data_files=files, split=TRAIN)
    # paragraphs of a text stand apart by empty lines
    return found.filter(lambda text: bool(text.strip()), input_columns="text") if loader == "text" else found


def _loader(file: Path) -> str:
    if file.suffix.lower() in LOADERS:
        return LOADERS[file.suffix.lower()]
    alone = " It is one image: give the folder." if file.suffix.lower() in _image_endings() else ""
    raise CalibrationError(f"{file.name} ends in none of {', '.join(LOADERS)}.{alone}")


def _kind(folder: Path) -> str:
    """What a folder holds, by the name of what reads it. Tables beside images describe the images."""
    images = _image_endings()
    found: Counter[str] = Counter()
    for number, file in enumerate(_files(folder)):
        if file.suffix.lower() in images:
            return "imagefolder"
        found[LOADERS.get(file.suffix.lower(), "")] += 1
        if number > _LOOKED_AT:
            break
    kinds = [k for k in found if k and k != "text"] or [k for k in found if k]
    if len(kinds) > 1:
        raise CalibrationError(
            f"The folder {str(folder)!r} holds {' and '.join(sorted(kinds))} files: name one of them."
        )
    if not kinds:
        raise CalibrationError(
            f"The folder {str(folder)!r} holds no images, no files that end in {', '.join(LOADERS)}, and no saved data set."
        )
    return kinds[0]


def _files(folder: Path) -> Iterator[Path]:
    """Every file in a folder and below, but hidden ones."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__")))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith((".", "__")))


def _image_endings() -> set[str]:
    return set(Image.registered_extensions())


def _one_split(found: Any, path: Path, split: str) -> Dataset:
    from datasets import DatasetDict

    if not isinstance(found, DatasetDict):
        return found
    if split in found:
        return found[split]
    if len(found) == 1 and split == TRAIN:
        return next(iter(found.values()))
    raise CalibrationError(
        f"The data set in {str(path)!r} has no split {split!r}; it has {', '.join(found)}. Give the folder of one of them."
    )


def _is_local(source: str) -> bool:
    """Whether a string that names nothing here was meant to: no Hub id looks like it."""
    named = Path(source).suffix.lower() in {*LOADERS, *_image_endings()}
    return named or source.startswith((".", "~", "/", "\\")) or source.endswith(("/", "\\")) or source.count("/") > 1


def _beside(path: Path) -> str:
    near = path.parent
    while not near.is_dir() and near != near.parent:
        near = near.parent
    held = sorted(f.name for f in near.iterdir() if not f.name.startswith("."))[:6] if near.is_dir() else []
    return f" {str(near)!r} holds {', '.join(held)}." if held else ""


def _from_hub(source: str, split: str, config_name: str | None, token: str | bool | None) -> Dataset:
    from datasets import load_dataset

    try:
        return load_dataset(source, config_name, split=split, token=token)
    except ImportError:  # says what to install
        raise
    except Exception as error:  # the client's own, the network's, those of the readers
        raise CalibrationError(
            f"There is no file or folder {source!r}, and no data set of that name could be read from the Hub: {_cause(error)}"
        ) from error


def _cause(error: BaseException) -> str:
    """What an error says in one line; that of its cause, which names what is wrong, where there is one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


__all__ = ["LOADERS", "check_there", "read_examples"]
