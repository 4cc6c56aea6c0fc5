"""Config of LeTs."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_learngene.errors import InvalidSizeError
from hf_learngene.learngenes.config import LearngeneConfig, check_count
from hf_learngene.methods.base import Paper


class LetsConfig(LearngeneConfig):
    """A small model's layers, and learned maps that widen and mix them (LeTs, NeurIPS 2024).

    Args:
        learngene_hidden_size (`int`, *optional*): width of the small layers, in whole heads; the smallest width of a descendant.
            Default: half the auxiliary model's heads.
        learngene_layers (`int`, *optional*): how many small layers; default: half the auxiliary model's.
        layer_map (`list[int]`, *optional*): for each layer of a descendant, the layer of the auxiliary model whose pair of small
            layers and mixing coefficients it takes, counted from 0; it holds for descendants of that many layers. The
            paper's descendant of 12 layers, of 16, is `[0, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 14]`. Default, and for all other
            depths: layers spread evenly.

    Raises:
        InvalidSizeError: a width or a depth that is not below the auxiliary model's, or layers that it does not have.
    """

    model_type = "learngene_lets"
    learngene_type: ClassVar[str] = "lets"
    summary: ClassVar[str] = "a small model's layers, and learned maps that widen and mix them"
    reach: ClassVar[str] = "Depth is free. Widths: whole heads, from that of its small layers to its own."
    paper: ClassVar[Paper | None] = Paper(
        "Initializing Variable-sized Vision Transformers from Learngene with Learnable Transformation",
        venue="NeurIPS 2024",  # Xia, Zu, Yang, Geng; not on arXiv
        link="https://github.com/eddiexia98/LeTs",
    )

    learngene_hidden_size: int | None = None
    learngene_layers: int | None = None
    layer_map: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        depth = self.auxiliary_depth
        for name in ("learngene_hidden_size", "learngene_layers"):
            check_count(name, getattr(self, name))
        if self.learngene_layers is None:
            self.learngene_layers = max(1, depth // 2)
        if not 1 <= self.learngene_layers <= depth:
            raise InvalidSizeError(
                f"learngene_layers={self.learngene_layers} lies between 1 and the auxiliary model's {depth} layers."
            )
        if self.layer_map is not None:
            self._check_layer_map(self.layer_map, depth)

    @staticmethod
    def _check_layer_map(layers: Any, depth: int) -> None:
        if not isinstance(layers, list | tuple) or not layers or not all(type(i) is int for i in layers):
            raise InvalidSizeError(f"layer_map is a list of layers of the auxiliary model; it was {layers!r}.")
        beyond = next((i for i in layers if not 0 <= i < depth), None)
        if beyond is not None:
            raise InvalidSizeError(
                f"layer_map names layer {beyond}, and the auxiliary model has {depth}: they are numbered from 0 to {depth - 1}."
            )


__all__ = ["LetsConfig"]
