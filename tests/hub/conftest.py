"""What the tests of loading share."""

from __future__ import annotations

import logging as standard_logging
from pathlib import Path

import pytest
import transformers
from huggingface_hub import CommitInfo, HfApi, RepoUrl
from huggingface_hub.errors import RemoteEntryNotFoundError

from hf_learngene.resizing.execute import logger


@pytest.fixture
def warnings_of_resize(caplog):
    """What a resize says, and each thing anew although it is said once per process."""
    transformers.utils.logging.warning_once.cache_clear()
    caplog.set_level(standard_logging.WARNING, logger=logger.name)
    return caplog


@pytest.fixture
def uploads(monkeypatch):
    """What would have been sent: (repo, file -> content)."""
    sent = []

    def commit(self, repo_id, operations, **_):
        files = {o.path_in_repo: o.path_or_fileobj for o in operations}
        sent.append((repo_id, {n: f if isinstance(f, bytes) else Path(f).read_bytes() for n, f in files.items()}))
        return CommitInfo(
            commit_url="https://huggingface.co/me/there/commit/1", commit_message="", commit_description="", oid="1"
        )

    def absent(*_, **__):
        raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)  # it wants a response

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: RepoUrl(f"https://huggingface.co/{repo_id}"))
    monkeypatch.setattr(HfApi, "hf_hub_download", absent)
    monkeypatch.setattr(HfApi, "create_commit", commit)
    return sent
