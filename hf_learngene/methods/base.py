"""What a method is: its options, its paper, and what it answers about a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.maps import LayerMap, Op
from hf_learngene.maps.task import ResizeTask


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    arxiv: str = ""
    venue: str = ""  # "NeurIPS 2024", of a paper that is not on arXiv
    link: str = ""  # to that paper, or to its authors' code

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.link


@dataclass(frozen=True)
class Method:
    """Base of every method: a frozen dataclass whose fields are its options.

    A method says which sizes it can make (`check`), where each target layer comes from (`depth_map`), what is done to
    the widths of one tensor (`steps`), and what it edits in the config (`edits`).
    """

    name: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    grows: ClassVar[bool] = False
    shrinks: ClassVar[bool] = False
    lossless: ClassVar[bool] = False
    takes_calibration: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False  # of the calibration examples
    refits: ClassVar[bool] = False  # what is left to what the source computes
    summary: ClassVar[str] = ""

    @classmethod
    def option_names(cls) -> list[str]:
        return [f.name for f in fields(cls)]

    def options(self) -> dict[str, Any]:
        """The options as plain data, for provenance."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def implied_sizes(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes that the options themselves ask for, given the source's."""
        return {}

    def check(self, source: Anatomy, sizes: Mapping[str, int]) -> None:
        """Refuses sizes that this method cannot make. `sizes` are the target's, by canonical name."""

    def depth_map(self, source: Anatomy, depth: int) -> LayerMap:
        """Where each of `depth` target layers comes from."""
        return LayerMap.pick(range(depth))

    def edits(self, source: Anatomy, sizes: Mapping[str, int], config: Mapping[str, Any]) -> dict[str, Any]:
        """Config fields that the target needs beyond its sizes. `config` is the size section as plain data."""
        return {}

    def keeps(self, tensor: TensorInfo, task: ResizeTask) -> bool:
        """Whether `tensor` comes from the source at all."""
        return True

    def ops(self, tensor: TensorInfo, task: ResizeTask) -> list[Op]:
        """What is done to one target tensor after its source layer was taken and its geometry fitted."""
        return []

    def repeats_positions(self) -> bool:
        """Whether a longer text table keeps its rows and starts over, instead of being interpolated."""
        return False


__all__ = ["Method", "Paper"]
