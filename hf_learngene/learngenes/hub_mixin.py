"""What a learngene says of itself when it is saved and published: its card, and what was measured of its descendants."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformers import PreTrainedModel

from hf_learngene.disk import scratch
from hf_learngene.hub.push import PUSH_KEYWORDS, push_folder
from hf_learngene.learngenes import growth
from hf_learngene.learngenes.card import learngene_card, write_card


if TYPE_CHECKING:
    from hf_learngene.learngenes.base import Learngene


class HubMixin(PreTrainedModel):
    """Saving and publishing of a learngene."""

    def add_result(self, dataset: str, metrics: Mapping[str, float], *, split: str = "test", **sizes: Any) -> None:
        """Records what was measured of a descendant: it goes into the config, and the card with its `model-index`.

        A figure of the same sizes, data and split takes the older one's place.

        Args:
            dataset (`str`): Hub id or name of the data set.
            metrics (`Mapping[str, float]`): name -> value.
            split (`str`, *optional*, defaults to `"test"`): of the data set.
            **sizes: those given to `initialize`; none is the auxiliary size.

        Raises:
            InvalidSizeError: a size that it cannot make.
        """
        learngene = cast("Learngene", self)
        own, rest = growth.split_sizes(learngene, sizes, None)
        learngene.target(growth.target_config(learngene, own))
        entry = {"dataset": dataset, "split": split, "sizes": {**own, **rest},
                 "metrics": {n: float(v) for n, v in metrics.items()}}  # fmt: skip
        same = ("dataset", "split", "sizes")
        old = [r for r in self.config.results or [] if any(r[k] != entry[k] for k in same)]
        self.config.results = [*old, entry]

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """As in transformers, and the model card beside it. A README.md that somebody else wrote stays."""
        hub = {n: kwargs.pop(n) for n in PUSH_KEYWORDS if n in kwargs} if push_to_hub else {}
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            write_card(cast(Any, self), Path(save_directory))
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
        """As in transformers, with the learngene's own card, and in one commit (`push_folder`).

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
            card = learngene_card(cast(Any, self), repo_id, tags or ())
            (folder / "README.md").write_text(card, encoding="utf-8")
            return push_folder(
                folder, repo_id, token=token, private=private, revision=revision, create_pr=create_pr,
                commit_message=commit_message, commit_description=commit_description,
            )  # fmt: skip

    def validate(
        self,
        eval_dataset: Any,
        sizes: Sequence[Mapping[str, Any]],
        *,
        dataset: str,
        split: str = "test",
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Measures descendants of several sizes as they are initialised, and records the figures (`add_result`).

        Args:
            eval_dataset: as for transformers' `Trainer`, with labels.
            sizes (`Sequence[Mapping]`): of each descendant, as for `initialize`.
            dataset (`str`): Hub id or name of the data, for the record.
            split (`str`, *optional*, defaults to `"test"`): of it.
            **kwargs: fields of `TrainingArguments` (`per_device_eval_batch_size`, ...), and `data_collator`,
                `processing_class` or `compute_metrics` of a `Trainer`. Default metric: the accuracy of every label.

        Returns:
            The records, one for each size.

        Raises:
            InvalidSizeError: a size that it cannot make.
            TrainingDataError: several labels, such as start and end of an answer, without `compute_metrics`.
        """
        from hf_learngene.learngenes.validating import validated  # the Trainer takes long to import

        return validated(cast(Any, self), eval_dataset, sizes, dataset, split, kwargs)
