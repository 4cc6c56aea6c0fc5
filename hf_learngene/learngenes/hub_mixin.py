"""Saving, loading and publishing of a learngene: with its card, and with what was measured of its descendants."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from transformers import PreTrainedModel

from hf_learngene.disk import scratch
from hf_learngene.hub.push import PUSH_KEYWORDS, push_folder
from hf_learngene.learngenes.card import learngene_card, write_card
from hf_learngene.learngenes.loading import load_learngene
from hf_learngene.learngenes.protocol import LearngeneLike


class HubMixin(PreTrainedModel):
    """`from_pretrained`, `save_pretrained` and `push_to_hub` of a learngene, and `add_result`."""

    @classmethod
    def from_pretrained(  # type: ignore[override]  # transformers names each keyword
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Self:
        """Loads a saved learngene whole: with the keywords of transformers' `from_pretrained`.

        Raises:
            CheckpointError: an ordinary model, a learngene of another kind, or a checkpoint with tensors that are absent, of
                another shape or not the learngene's: what it would make is partly random.
        """
        return load_learngene(cls, super().from_pretrained, pretrained_model_name_or_path, args, kwargs)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Saves as transformers does, and the model card beside it. A README.md that somebody else wrote stays."""
        hub = {n: kwargs.pop(n) for n in PUSH_KEYWORDS if n in kwargs} if push_to_hub else {}
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            reads = cast(LearngeneLike, self).input_processor()
            if hasattr(reads, "save_pretrained"):
                reads.save_pretrained(save_directory)
            write_card(cast(LearngeneLike, self), Path(save_directory))
        if push_to_hub:
            push_folder(save_directory, hub.pop("repo_id", Path(save_directory).name), **hub)

    def push_to_hub(  # type: ignore[override]  # transformers wraps its own
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | None = None,
    ) -> str:
        """Uploads the learngene with its own card, in one commit (`hf_learngene.push_folder`).

        Args:
            repo_id (`str`): `"user/name"`; made if it is not there.
            commit_message (`str`, *optional*): first line of the commit.
            commit_description (`str`, *optional*): the rest of it.
            private (`bool`, *optional*): whether a repository that is made here is private.
            token (`bool` or `str`, *optional*): the one to log in with; default: the stored one.
            revision (`str`, *optional*): branch to push to; made if it is not there.
            create_pr (`bool`, *optional*, defaults to `False`): open a pull request instead.
            max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`): of a file of weights.
            tags (`list[str]`, *optional*): more tags for the card.

        Returns:
            `CommitInfo`, the commit's address as a string with its parts as attributes.
        """
        with scratch("push") as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            card = learngene_card(cast(LearngeneLike, self), repo_id, tags or ())
            (folder / "README.md").write_text(card, encoding="utf-8")
            return push_folder(
                folder, repo_id, token=token, private=private, revision=revision, create_pr=create_pr,
                commit_message=commit_message, commit_description=commit_description,
            )  # fmt: skip

    def add_result(self, dataset: str, metrics: Mapping[str, float], *, split: str = "test", **sizes: Any) -> dict:
        """Records what was measured of a descendant: it goes into the config, and the card with its `model-index`.

        A figure of the same sizes, data and split takes the older one's place.

        Args:
            dataset (`str`): Hub id or name of the data set.
            metrics (`Mapping[str, float]`): name -> value.
            split (`str`, *optional*, defaults to `"test"`): of the data set.
            **sizes: those given to `initialize`; none is the auxiliary size.

        Returns:
            The record.

        Raises:
            InvalidSizeError: a size that it cannot make.
        """
        entry = {"dataset": dataset, "split": split, "sizes": cast(LearngeneLike, self).check_sizes(sizes),
                 "metrics": {n: float(v) for n, v in metrics.items()}}  # fmt: skip
        same = ("dataset", "split", "sizes")
        old = [r for r in self.config.results or [] if any(r[k] != entry[k] for k in same)]
        self.config.results = [*old, entry]
        return entry


__all__ = ["HubMixin"]
