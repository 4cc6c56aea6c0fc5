"""Config of WAVE."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_learngene.errors import InvalidSizeError
from hf_learngene.learngenes.config import LearngeneConfig, check_count, check_fit_layers
from hf_learngene.methods.base import Paper


class WaveConfig(LearngeneConfig):
    """Weight templates joined by scalers (WAVE, arXiv 2406.17503).

    Args:
        template_size (`int` or `list[int]`, *optional*): side of the square templates, a multiple or divisor of the head size
            that divides every width. Widths it can make are its multiples. Default: half the width, or the head size where heads
            are odd in number. In a hierarchy every stage has templates of its own: a list, or one number for all.
        template_share (`float`, *optional*, defaults to 0.25): parameters of a component's templates, as a share of what the
            component has in all layers of the auxiliary model.
        num_vectors (`int`, *optional*): shared vectors of `template_size` for each bias and norm; default: half as many as the
            blocks of all layers.
        fit_layers (`str`, *optional*, defaults to `"picked"`): what `from_ancestry` fits: as many whole layers of the ancestry as
            the templates can hold, each standing for its neighbours too, or `"all"` layers, the least residual.

    Raises:
        UnknownOptionError: another fit_layers.
        InvalidSizeError: a share that is not above 0, or a size below 1.
    """

    model_type = "learngene_wave"
    learngene_type: ClassVar[str] = "wave"
    summary: ClassVar[str] = "weight templates joined by scalers"
    reach: ClassVar[str] = "Depth is free. Widths: whole multiples of its templates, or up to its own."
    paper: ClassVar[Paper | None] = Paper(
        "WAVE: Weight Templates for Adaptive Initialization of Variable-sized Models", "2406.17503"
    )

    template_size: int | list | None = None
    template_share: float = 0.25
    num_vectors: int | None = None
    fit_layers: str = "picked"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        share = self.template_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < float("inf"):
            raise InvalidSizeError(f"template_share is above 0 (0.25 stores a quarter); it was {share!r}.")
        check_fit_layers(self.fit_layers)
        sizes, stages = self.template_size, len(self.stage_depths)
        if isinstance(sizes, list) and len(sizes) != stages:
            raise InvalidSizeError(
                f"template_size has {len(sizes)} entries, one for each stage of a hierarchy, and the auxiliary model has "
                f"{stages or 'none'}: give one number, or one for each."
            )
        for size in sizes if isinstance(sizes, list) else [sizes]:
            check_count("template_size", size)
        check_count("num_vectors", self.num_vectors)


__all__ = ["WaveConfig"]
