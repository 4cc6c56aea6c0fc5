"""Config of SWS."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from hf_learngene.errors import InvalidSizeError
from hf_learngene.learngenes.config import LearngeneConfig, check_count, check_fit_layers
from hf_learngene.methods.base import Paper


class SwsConfig(LearngeneConfig):
    """Stages whose layers share all weights (SWS, arXiv 2404.16897).

    Args:
        num_stages (`int` or `list[int]`, *optional*): stages of the auxiliary model; what is stored is one layer for each.
            Default: as many as `stages` names, else 5 as in the paper, or the depth if it is less. In a hierarchy, whose own
            stages share nothing, it says how many groups of blocks each of those has: a list, or one number for all (at most
            one for each block). Blocks that alternate (shifted windows) are counted, and shared, in pairs. Default there: one
            for every three, about the paper's 5 for 16.
        stages (`list[int]`, *optional*): the stage of each layer of the auxiliary model, where it is not the rule's (the
            paper's 3, 3, 4, 3, 3 layers for 16). Every stage has a layer. Not of a hierarchy.
        fit_layers (`str`, *optional*, defaults to `"picked"`): what `from_ancestry` fits: as many whole layers of the ancestry as
            there are stages, each standing for its neighbours too, or `"all"` layers, the least residual.

    Raises:
        UnknownOptionError: another fit_layers.
        InvalidSizeError: fewer than one stage, more stages than layers, or stages that no layer uses; for a hierarchy,
            `stages`, or a list of another length than its own stages.
    """

    model_type = "learngene_sws"
    learngene_type: ClassVar[str] = "sws"
    summary: ClassVar[str] = "stages whose layers share all weights"
    paper: ClassVar[Paper | None] = Paper(
        "Exploring Learngene via Stage-wise Weight Sharing for Initializing Variable-sized Models", "2404.16897"
    )

    num_stages: int | list | None = None
    stages: list[int] | None = None
    fit_layers: str = "picked"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_fit_layers(self.fit_layers)
        if self.stage_depths:
            self._check_groups()
            return
        depth = self.auxiliary_depth
        if self.stages is not None:
            self._check_stages(self.stages, depth)
        check_count("num_stages", self.num_stages)
        count = cast(int | None, self.num_stages)
        if count is None:
            count = max(self.stages) + 1 if self.stages is not None else min(5, depth)
        if not 1 <= count <= depth:
            raise InvalidSizeError(
                f"num_stages={count} does not fit an auxiliary model of {depth} layers; it lies between 1 and {depth}."
            )
        if self.stages is not None and count != max(self.stages) + 1:
            raise InvalidSizeError(
                f"stages uses {max(self.stages) + 1} stages and num_stages={count}; leave num_stages out."
            )
        self.num_stages = count

    def _check_groups(self) -> None:
        """Checks the groups of a hierarchy as far as its config tells; which blocks alternate, the model knows."""
        depths, given = self.stage_depths, self.num_stages
        if self.stages is not None:
            raise InvalidSizeError(
                f"stages names the layers of one depth; of a hierarchy, num_stages says how many groups each stage has, such as "
                f"num_stages={[1] * len(depths)}."
            )
        for name, count in _named(given):
            check_count(name, count)
        if isinstance(given, list) and len(given) != len(depths):
            raise InvalidSizeError(
                f"num_stages has {len(given)} entries, and the auxiliary model has {len(depths)} stages, of "
                f"{', '.join(map(str, depths))} blocks: give one for each, or one number for all."
            )

    def _check_stages(self, stages: list[int], depth: int) -> None:
        if not isinstance(stages, list | tuple) or not all(type(s) is int and s >= 0 for s in stages):
            raise InvalidSizeError(f"stages are numbers from 0; they were {stages!r}.")
        if len(stages) != depth:
            raise InvalidSizeError(f"stages names {len(stages)} layers, the auxiliary model has {depth}.")
        # neither a fit nor training would reach it, but another depth would be made of it
        unused = sorted(set(range(max(stages) + 1)) - set(stages))
        if unused:
            raise InvalidSizeError(
                f"No layer is of stage {unused[0]} in stages={stages}; number the stages from 0 without a gap."
            )


def _named(given: Any) -> list[tuple[str, Any]]:
    many = isinstance(given, list)
    return [(f"num_stages[{i}]", count) for i, count in enumerate(given)] if many else [("num_stages", given)]


__all__ = ["SwsConfig"]
