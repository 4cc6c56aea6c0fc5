"""To the Hub: a saved model goes up whole, in one commit, with its card and nothing of the machine it was made on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_learngene.card import Result, model_card
from hf_learngene.errors import OutputError, UploadError
from hf_learngene.resizing.plan import Plan
from hf_learngene.resizing.saving import save_resized


# What training leaves beside a model. Pickled files are no part of it either: nobody should have to unpickle.
LEFT_OUT = ("checkpoint-*", "runs/*", "logs/*", "*.bin", "*.pt", "*.pth", "*.pkl", "events.out.*",
            "trainer_state.json", ".*", "*/.*")  # fmt: skip
HUB_KEYWORDS = ("repo_id", "token", "private", "revision", "create_pr", "commit_message", "commit_description")
_READABLE = (".json", ".md", ".txt", ".yaml", ".yml")


def push_resized(
    model: PreTrainedModel,
    repo_id: str,
    *,
    source: str | os.PathLike | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    plan: Plan | None = None,
    results: Sequence[Result] = (),
    loading: Mapping[str, Any] | None = None,
    **hub: Any,
) -> CommitInfo:
    """Publishes a resized model: weights, config, card, and the tokenizer or image processor of its source.

    Args:
        model (`PreTrainedModel`): made by `resize`, `from_pretrained_resized` or `learngene.initialize`.
        repo_id (`str`): `"user/name"`; made if it is not there.
        source (`str` or `os.PathLike`, *optional*): Hub id or folder of the source. Default: what the model was loaded from.
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
    if source is None:
        record = getattr(model.config, "learngene", None) or {}
        source, commit = model.name_or_path or None, record.get("source_commit")
        if commit and not loading:  # the tokenizer of the state that the weights are of
            loading = {"revision": commit}
    card = model_card(model, plan=plan, source=source, loading=loading, name=repo_id, results=results)
    with tempfile.TemporaryDirectory(prefix="learngene_push_") as folder:
        path = Path(folder) / "model"
        save_resized(model, path, source=source, tokenizer=tokenizer, loading=loading, card=card)
        return push_folder(path, repo_id, **hub)


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

    Training's leftovers (`checkpoint-*`, optimizer states, pickled files, hidden files) stay behind.

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
        UploadError: the connection broke off. The repository is as it was.
    """
    folder = check_pushable(folder, repo_id)
    told = next(_tells_of_the_machine(folder), None)
    if told:
        raise OutputError(
            f"`{told[0]}` holds {told[1]!r}, which tells of this machine. Take it out and push again; nothing was uploaded."
        )
    api = HfApi(token=token, library_name="hf_learngene")
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.upload_folder(
            folder_path=folder, repo_id=repo_id, revision=revision, create_pr=create_pr, ignore_patterns=list(LEFT_OUT),
            commit_message=commit_message or "Upload model", commit_description=commit_description,
        )  # fmt: skip
    except (OSError, ValueError):  # refusals of the Hub: the client says what and why
        raise
    except Exception as error:  # a broken connection is an error of whatever HTTP library the client uses
        raise UploadError(
            f"The upload to {repo_id} broke off ({type(error).__name__}: {error}). The repository is as it was: push again."
        ) from error


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


def _tells_of_the_machine(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, what it holds): the home folder, and where this folder, temporary files and the work at hand lie."""
    places = [Path.home(), folder.resolve().parent, Path(tempfile.gettempdir()), Path.cwd()]
    words = {f"{place}{os.sep}" for place in places if len(place.parts) > 1}
    files = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    for file in (folder / name for name in filter_repo_objects(files, ignore_patterns=list(LEFT_OUT))):
        if file.suffix in _READABLE and file.name not in ("tokenizer.json", "vocab.txt", "merges.txt", "vocab.json"):
            content = file.read_text(encoding="utf-8", errors="replace")
        elif file.suffix == ".safetensors":
            with file.open("rb") as handle:
                content = handle.read(int.from_bytes(handle.read(8), "little")).decode("utf-8", errors="replace")
        else:
            continue
        for word in words:
            if word in content:
                yield file.relative_to(folder).as_posix(), word


__all__ = ["push_folder", "push_resized"]
