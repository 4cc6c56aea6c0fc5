"""Config of a condensed learngene."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from hf_learngene.errors import InvalidSizeError, UnknownOptionError
from hf_learngene.learngenes.config import LearngeneConfig


DIRECTIONS, ENTRIES = "directions", "entries"  # what the residual stream of a sorted core is sorted by
STREAMS = (DIRECTIONS, ENTRIES, None)
SHARE = 1 / 3  # of the ancestry, where neither a share nor sizes are given


class CondensedConfig(LearngeneConfig):
    """A working model of a fraction of the ancestry's size, its core, and every other size made of it without training.

    Args:
        stored_share (`float`, *optional*): of the ancestry's parameters, what the core has at most: a third, where no size is
            given by name either. Depth stays, heads become smaller, ffn and width are cut; sizes that are given by name are
            kept. 1 keeps the ancestry whole.
        nested (`bool`, *optional*, defaults to `True`): whether the core is sorted, without loss, by what would leave it first,
            so that `weights(config)` of a smaller size is made of its first parts. It is seen on the same examples; without
            any (`calibration=None`), the core stays as it is.
        order (`dict`, *optional*): of a core that is sorted: `layers`, those that stay longest first, and `stream`. It is found
            when the core is made.

    Raises:
        InvalidSizeError: a share that is not above 0 and at most 1.
        UnknownOptionError: an order that none can be.
    """

    model_type = "learngene_condensed"
    learngene_type: ClassVar[str] = "condensed"
    summary: ClassVar[str] = "the ancestry shrunk in closed form, and every other size made of it without training"
    reach: ClassVar[str] = (
        "Every size: smaller ones by a calibrated shrink, larger ones by exact growth, both before any training."
    )
    works_untrained: ClassVar[bool] = True

    stored_share: float | None = None
    nested: bool = True
    order: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_share(self.stored_share)
        self._check_order()

    def _check_order(self) -> None:
        if self.order is None:
            return
        layers = self.order.get("layers") if isinstance(self.order, dict) else None
        whole = isinstance(layers, list) and all(type(layer) is int for layer in layers)
        if not whole or sorted(cast(list, layers)) != list(range(self.auxiliary_depth)):
            raise UnknownOptionError(f"order names every layer of the core once; it was {self.order!r}.")
        if self.order.get("stream") not in STREAMS:
            raise UnknownOptionError(f"order names a stream of {STREAMS}; it was {self.order!r}.")

    @classmethod
    def option_names(cls) -> list[str]:
        return [name for name in super().option_names() if name != "order"]


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


__all__ = ["DIRECTIONS", "ENTRIES", "SHARE", "CondensedConfig", "check_share"]
