"""To the Hub: a saved model goes up whole, in one commit, with its card and nothing of the machine it was made on."""

from __future__ import annotations

import getpass
import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RemoteEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_learngene.errors import OutputError, UploadError
from hf_learngene.hub.card import model_card, record_of, recorded_source
from hf_learngene.hub.card_parts import Result, is_ours, renamed
from hf_learngene.hub.provenance import Planned, public_name
from hf_learngene.hub.save import PROCESSOR_FILES, TOKENIZER_FILES, save_resized, source_files


logger = logging.getLogger(__name__)
# What training leaves beside a model. Pickled files are no part of it either: nobody should have to unpickle.
LEFT_OUT = ("checkpoint-*", "runs/*", "logs/*", "*.bin", "*.pt", "*.pth", "*.pkl", "events.out.*",
            "trainer_state.json", ".*", "*/.*")  # fmt: skip
HUB_KEYWORDS = ("repo_id", "token", "private", "revision", "create_pr", "commit_message", "commit_description")
_BESIDE_WEIGHTS = ("README.md", *TOKENIZER_FILES, *PROCESSOR_FILES)
_READABLE = (".json", ".md", ".txt", ".yaml", ".yml")


def push_resized(
    model: PreTrainedModel,
    repo_id: str,
    *,
    source: str | os.PathLike | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    plan: Planned | None = None,
    results: Sequence[Result] = (),
    loading: Mapping[str, Any] | None = None,
    **hub: Any,
) -> CommitInfo:
    """Publishes a resized model: weights, config, card, and the tokenizer or image processor of its source.

    Args:
        model (`PreTrainedModel`): made by `resize`, `from_pretrained_resized` or `learngene.initialize`.
        repo_id (`str`): `"user/name"`; made if it is not there.
        source (`str` or `os.PathLike`, *optional*): Hub id or folder of the source. Default: what the model was loaded from, or,
            where only weights lay there, the source on record.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): in place of the source's, as `trim_tokenizer` makes one.
        plan (`Plan`, *optional*): the plan it was made by; the card then shows both sizes.
        results (`Sequence[Result]`, *optional*): what was measured, for the card and its `model-index`.
        loading (`Mapping`, *optional*): `revision`, `token`, `cache_dir`, ... of the source.
        **hub: as for `push_folder`.

    Returns:
        `CommitInfo` of huggingface_hub.

    Raises:
        ProvenanceError: the model was not made by this package.
        OutputError: a file would tell of the machine.
    """
    _check_name(repo_id)
    record_of(model.config)  # before anything is written
    if source is None:
        source, pinned = _origin(model)
        loading = {**pinned, **(loading or {})}
    with tempfile.TemporaryDirectory(prefix="learngene_push_") as folder:
        path = Path(folder) / "model"
        save_resized(model, path, source=source, tokenizer=tokenizer, loading=loading)
        card = model_card(model, plan=plan, source=source, loading=loading, folder=path, name=repo_id, results=results)
        (path / "README.md").write_text(card, encoding="utf-8")
        return push_folder(path, repo_id, **hub)


def _origin(model: PreTrainedModel) -> tuple[str | None, dict[str, Any]]:
    """(where a model's tokenizer and licence are, keywords that load them in the state that its weights are of)."""
    place, (recorded, pinned) = model.name_or_path or None, recorded_source(model.config)
    if recorded is not None and ((place == recorded and pinned) or _tells_nothing(place)):
        return recorded, pinned
    commit = getattr(model.config, "_commit_hash", None)  # of the repository that it was loaded from
    return place, {"revision": commit} if commit else {}


def _tells_nothing(place: str | None) -> bool:
    """Whether a model came from nowhere, or from a folder that is gone or holds but its weights and config."""
    if place is None or not os.path.isdir(place):
        return place is None or public_name(place) != place
    return not source_files(place, _BESIDE_WEIGHTS, {})


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    token: bool | str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
) -> CommitInfo:
    """Uploads the folder of a saved model or learngene in one commit: all of it arrives, or nothing does.

    Training's leftovers (`checkpoint-*`, optimizer states, pickled files, hidden files) stay behind. A card that this package
    wrote goes up under the repository's name, and only where the Hub has none that somebody else wrote or took over.

    Args:
        folder (`str` or `os.PathLike`): with `config.json` and safetensors weights.
        repo_id (`str`): `"user/name"`; made if it is not there.
        token (`bool` or `str`, *optional*): the one to log in with; default: the stored one.
        private (`bool`, *optional*): whether a repository that is made here is private.
        revision (`str`, *optional*): branch to push to; made if it is not there.
        create_pr (`bool`, *optional*, defaults to `False`): open a pull request instead.
        commit_message (`str`, *optional*): first line of the commit.
        commit_description (`str`, *optional*): the rest of it.

    Returns:
        `CommitInfo` of huggingface_hub.

    Raises:
        OutputError: no saved model, or a file that would tell of the machine. Nothing was uploaded.
        UploadError: the connection broke off. A repository or branch that was to be made may be there.
    """
    folder = check_pushable(folder, repo_id)
    _check_private(folder)
    files: dict[str, Path | bytes] = {name: folder / name for name in _files(folder)}
    card = (folder / "README.md").read_text(encoding="utf-8", errors="replace") if "README.md" in files else ""
    api = HfApi(token=token, library_name="hf_learngene")
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        if is_ours(card):
            files["README.md"] = renamed(card, repo_id).encode()
            if _written_by_others(api, repo_id, revision):
                logger.warning("README.md of %s was written or taken over by somebody, and stays as it is.", repo_id)
                del files["README.md"]
        # upload_folder would make several commits of what takes long
        return api.create_commit(
            repo_id, [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()],
            revision=revision, create_pr=create_pr, commit_message=commit_message or "Upload model",
            commit_description=commit_description,
        )  # fmt: skip
    except LocalEntryNotFoundError as error:  # an OSError for a connection that broke while the card was asked for
        raise _broken_off(repo_id, error) from error
    except (OSError, ValueError):  # refusals of the Hub: the client says what and why
        raise
    except Exception as error:  # a broken connection is an error of whatever HTTP library the client uses
        raise _broken_off(repo_id, error) from error


def _broken_off(repo_id: str, error: Exception) -> UploadError:
    said = f"{type(error).__name__}: {error}"
    return UploadError(f"The upload to {repo_id} broke off ({said}). All of it is there or nothing is: push again.")


def _written_by_others(api: HfApi, repo_id: str, revision: str | None) -> bool:
    """Whether the branch has a README.md that is not ours to replace."""
    with tempfile.TemporaryDirectory(prefix="learngene_push_") as folder:
        try:
            found = api.hf_hub_download(repo_id, "README.md", revision=revision, local_dir=folder)
        except RemoteEntryNotFoundError:
            return False
        return not is_ours(Path(found).read_text(encoding="utf-8", errors="replace"))


def check_pushable(folder: str | os.PathLike, repo_id: str) -> Path:
    """The folder of a saved model, to be pushed under this name. Cheap.

    Raises:
        OutputError: it is no saved model, or the name is none that the Hub takes.
    """
    _check_name(repo_id)
    folder = Path(folder)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise OutputError(
            f"`{folder}` is no saved model: it needs config.json and model.safetensors (save_pretrained)."
        )
    return folder


def _check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise OutputError(f"{repo_id!r} is no name for a repository ('user/name'): {error}") from error


def _files(folder: Path) -> list[str]:
    names = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    return list(filter_repo_objects(names, ignore_patterns=list(LEFT_OUT)))


def _check_private(folder: Path) -> None:
    """Refuses files that tell of the machine."""
    pattern = _places(folder)
    for file in (folder / name for name in _files(folder)):
        if file.suffix in _READABLE and file.name not in ("tokenizer.json", "vocab.txt", "merges.txt", "vocab.json"):
            content = file.read_text(encoding="utf-8", errors="replace")
        elif file.suffix == ".safetensors":
            with file.open("rb") as handle:
                content = handle.read(int.from_bytes(handle.read(8), "little")).decode("utf-8", errors="replace")
        else:
            continue
        if told := pattern.search(content):
            raise OutputError(
                f"`{file.relative_to(folder).as_posix()}` holds {told[0]!r}, which tells of this machine. Take it out and push "
                "again; nothing was uploaded."
            )


def _places(folder: Path) -> re.Pattern[str]:
    """The home folder, and what lies where this folder, temporary files and the work at hand lie.

    A path stands by itself or after `file://`: `https://host/data/` tells of no `/data`.
    """
    above = (folder.resolve().parent, Path(tempfile.gettempdir()), Path.cwd())
    found = [re.escape(f"{place}{os.sep}") for place in above if len(place.parts) > 1]
    with suppress(RuntimeError):  # there is no home
        found += [rf"{re.escape(str(home))}(?![\w-])" for home in [Path.home()] if len(home.parts) > 1]
    paths = [rf"(?:(?<![\w.~/-])|(?<=file://))(?:{'|'.join(found)})"] if found else []
    with suppress(OSError, KeyError):  # the user has no name
        paths.append(rf"[/\\](?:home|Users)[/\\]+{re.escape(getpass.getuser())}(?![\w-])")
    return re.compile("|".join(paths) or "(?!)")


__all__ = ["push_folder", "push_resized"]
