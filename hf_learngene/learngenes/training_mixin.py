"""What training asks of a learngene, and the verbs that take it to another size, train or measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch

from hf_learngene.errors import InvalidSizeError, UnfittedError
from hf_learngene.learngenes.growth import at_size, split_sizes
from hf_learngene.learngenes.parts import Target, path_of
from hf_learngene.learngenes.protocol import LearngeneLike
from hf_learngene.learngenes.sampling import depths_to_draw, drawn_depths


class TrainingMixin:
    """Sandwich sizes, weight decay, `for_size`, `adapt` and `validate` of a learngene."""

    def sample_target(
        self, generator: torch.Generator, depths: tuple[int | None, int | None], widths: Sequence[int] | None
    ) -> Target:
        """Draws another size: what sandwich training trains beside the auxiliary model.

        Args:
            generator: for the drawing.
            depths: least and largest depth, in a hierarchy of each stage; by default a third of the auxiliary model's, and one
                less than it (of each stage, its own).
            widths: to draw from; None keeps the width.

        Raises:
            InvalidSizeError: depths or widths that cannot be made.
        """
        learngene = cast(LearngeneLike, self)
        sizes = drawn_depths(depths_to_draw(learngene.anatomy, depths, widths), learngene.anatomy.sizes, generator)
        if widths:
            sizes["hidden_size"] = int(widths[int(torch.randint(len(widths), (), generator=generator))])
        return learngene.target(learngene.config_at(sizes))

    def check_samples(self, depths: tuple[int | None, int | None], widths: Sequence[int] | None) -> None:
        """Refuses, before a training, sizes that `sample_target` may draw in the middle of it and cannot make.

        Raises:
            InvalidSizeError: depths or widths that cannot be made.
        """
        learngene = cast(LearngeneLike, self)
        choices = depths_to_draw(learngene.anatomy, depths, widths)
        for end in (0, -1):
            for width in [{"hidden_size": w} for w in widths or ()] or [{}]:
                learngene.target(learngene.config_at({**{n: each[end] for n, each in choices.items()}, **width}))

    def decay_parameter_names(self) -> list[str]:
        """Names of the parameters that weight decay is for: those that make matrices and tables.

        Neither scalers nor what makes biases and norms is among them.
        """
        learngene = cast(LearngeneLike, self)
        flat = {path_of(t) for t, i in learngene.components.items() if len(i.dims) < 2}
        flat |= {n for n, i in learngene.tensors.items() if i.layer is None and len(i.dims) < 2}
        shared = [n for n in learngene.shared.paths() if n.rpartition(".")[0] not in flat]
        outside = [n for n in learngene.outside.paths() if n not in flat]
        return [*(f"shared.{n}" for n in shared), *(f"outside.{n}" for n in outside)]

    def for_size(self, **sizes: Any) -> Self:
        """A copy at another auxiliary size: the same shared parts, frozen, and scalers of that size to be trained.

        The scalers start as straight lines through depth. What stands outside the layers stays as it is at the same width,
        and is trained with the scalers at another.

        Raises:
            InvalidSizeError: a size that it cannot make, or a learngene without scalers.
            UnfittedError: nothing was fitted or trained yet.
        """
        learngene = cast(LearngeneLike, self)
        if next(learngene.scalers.paths(), None) is None:
            raise InvalidSizeError(
                f"`{learngene.config.learngene_type}` has no scalers: it makes every size at once. Call initialize() and "
                "fine-tune."
            )
        if not learngene.config.fitted:
            raise UnfittedError("Fit or train this learngene before it is taken to another size.")
        own, rest = split_sizes(learngene.anatomy, sizes)
        if rest:
            raise InvalidSizeError(f"{', '.join(rest)} cannot change here; give them to initialize() afterwards.")
        return cast(Self, at_size(learngene, learngene.target(learngene.config_at(own))))

    def adapt(self, train_dataset: Any, *, teacher: Any = None, steps: int = 200, **kwargs: Any) -> Self:
        """Learns the scalers of a new size on a little data, with everything shared frozen: `for_size(**sizes)`, trained.

        Random state is as it was afterwards.

        Args:
            train_dataset: as for `LearngeneTrainer`.
            teacher (`PreTrainedModel` or `str`, *optional*): teaches beside the labels.
            steps (`int`, *optional*, defaults to 200): optimizer steps of AdamW without decay: a tenth of warm-up, then a
                cosine from 1e-3. 0 trains nothing: scalers are fitted in closed form to what the auxiliary model's calibrated
                shrink computes on the data, which then needs no labels (`initialize(calibration=...)` gives that one itself).
            **kwargs: sizes of the target; fields of `LearngeneTrainingArguments` (`learning_rate`, `seed`, ...); and
                `data_collator` or `processing_class`.

        Returns:
            This learngene at that size, in eval mode. Its `initialize()` gives the plain model.

        Raises:
            InvalidSizeError: a size that it cannot make, or a learngene without scalers.
            UnknownOptionError: what only training reads, with `steps=0`.
        """
        from hf_learngene.learngenes.adapting import adapted  # the Trainer takes long to import

        return cast(Self, adapted(cast(LearngeneLike, self), train_dataset, teacher, steps, kwargs))

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

        Random state is as it was afterwards.

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

        return validated(cast(LearngeneLike, self), eval_dataset, sizes, dataset, split, kwargs)


__all__ = ["TrainingMixin"]
