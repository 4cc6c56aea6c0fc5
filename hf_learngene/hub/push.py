"""To the Hub: a saved model goes up whole, in one commit, with its card and nothing of the machine it was made on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RemoteEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.disk import scratch
from hf_learngene.errors import LearngeneError, OutputError, UploadError
from hf_learngene.hub.card import model_card
from hf_learngene.hub.card_parts import Result, is_ours, renamed, with_introduction
from hf_learngene.hub.load import load_whole
from hf_learngene.hub.origin import origin
from hf_learngene.hub.privacy import check_private
from hf_learngene.hub.provenance import Planned, as_made, record_of
from hf_learngene.hub.save import write_resized
from hf_learngene.state import quiet


logger = logging.getLogger(__name__)
# What training leaves beside a model. Pickled files are no part of it either: nobody should have to unpickle.
LEFT_OUT = ("checkpoint-*", "runs/*", "logs/*", "*.bin", "*.pt", "*.pth", "*.pkl", "events.out.*",
            "trainer_state.json", ".*", "*/.*")  # fmt: skip
PUSH_KEYWORDS = ("repo_id", "token", "private", "revision", "create_pr", "commit_message", "commit_description")


def push_resized(
    model: PreTrainedModel,
    repo_id: str,
    *,
    source: str | os.PathLike | None = None,
    processing_class: Any = None,
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
        processing_class (`PreTrainedTokenizerBase` or image processor, *optional*): in place of the source's, as
            `trim_tokenizer` makes one.
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
        source, pinned = origin(model)
        loading = {**pinned, **(loading or {})}

    def card_of(folder: Path) -> str:
        return model_card(
            model, plan=plan, source=source, loading=loading, folder=folder, name=repo_id, results=results
        )

    with scratch("push") as folder:
        path = folder / "model"
        write_resized(model, path, source, processing_class, loading or {}, card_of)
        return _upload(path, repo_id, **hub)


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
    wrote goes up under the repository's name, and only where the Hub has none that somebody else wrote or took over. Where the
    model was trained after it was written, it no longer claims what held of the resize.

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
        UploadError: the connection broke off, or an answer makes no sense. A repository or branch that was to be made may be
            there.
    """
    folder = check_pushable(folder, repo_id)
    return _upload(
        folder, repo_id, token=token, private=private, revision=revision, create_pr=create_pr,
        commit_message=commit_message, commit_description=commit_description, card=_card(folder, repo_id),
    )  # fmt: skip


def _card(folder: Path, repo_id: str) -> str | None:
    """The card of a folder with what it may still claim; None where it has none, or one that is not ours."""
    path = folder / "README.md"
    card = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if not is_ours(card):
        return None
    if not PreTrainedConfig.get_config_dict(folder)[0].get("learngene"):
        return card  # a learngene's
    with quiet():
        model = load_whole(folder)
    return card if as_made(model) else with_introduction(card, model_card(model, folder=folder, name=repo_id))


def _upload(
    folder: Path,
    repo_id: str,
    *,
    token: bool | str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    card: str | None = None,
) -> CommitInfo:
    """The commit of a folder's files, with `card` for its README.md."""
    names = _files(folder)
    check_private(folder, names)
    files: dict[str, Path | bytes] = {name: folder / name for name in names}
    if card is None:
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
    except (OSError, HFValidationError, LearngeneError):  # refusals of the Hub: the client says what and why
        raise
    except Exception as error:  # a broken connection or half an answer is an error of whatever library the client uses
        raise _broken_off(repo_id, error) from error


def _broken_off(repo_id: str, error: Exception) -> UploadError:
    said = f"{type(error).__name__}: {error}"
    return UploadError(f"The upload to {repo_id} broke off ({said}). All of it is there or nothing is: push again.")


def _written_by_others(api: HfApi, repo_id: str, revision: str | None) -> bool:
    """Whether the branch has a README.md that is not ours to replace."""
    with scratch("push") as folder:
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
    """Names of the files that go up."""
    names = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    return list(filter_repo_objects(names, ignore_patterns=list(LEFT_OUT)))


__all__ = ["push_folder", "push_resized"]
