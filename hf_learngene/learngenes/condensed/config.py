"""Config of a condensed learngene."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_learngene.errors import InvalidSizeError
from hf_learngene.learngenes.config import LearngeneConfig


SHARE = 1 / 3  # of the ancestry, where neither a share nor sizes are given


class CondensedConfig(LearngeneConfig):
    """A working model of a fraction of the ancestry's size, its core, and every other size made of it without training.

    Args:
        stored_share (`float`, *optional*): of the ancestry's parameters, what the core has at most: a third, where no size is
            given by name either. Depth stays, heads become smaller, ffn and width are cut; sizes that are given by name are
            kept. 1 keeps the ancestry whole.

    Raises:
        InvalidSizeError: a share that is not above 0 and at most 1.
    """

    model_type = "learngene_condensed"
    learngene_type: ClassVar[str] = "condensed"
    summary: ClassVar[str] = "the ancestry shrunk in closed form, and every other size made of it without training"
    reach: ClassVar[str] = (
        "Every size: smaller ones by a calibrated shrink, larger ones by exact growth, both before any training."
    )
    works_untrained: ClassVar[bool] = True

    stored_share: float | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_share(self.stored_share)


def check_share(given: Any) -> None:
    """Refuses what is no share of an ancestry; None is none.

    Raises:
        InvalidSizeError: says what was given.
    """
    if given is None:
        return
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= 1:
        raise InvalidSizeError(
            f"stored_share is a share of the ancestry's parameters, above 0 and at most 1; it was {given!r}."
        )


__all__ = ["SHARE", "CondensedConfig", "check_share"]
