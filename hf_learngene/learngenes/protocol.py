"""What functions over a learngene need of it: the contract that `base` fulfils and the files below it are typed by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy, TensorInfo
from hf_learngene.learngenes.config import LearngeneConfig
from hf_learngene.learngenes.parts import Target, Tree


class LearngeneLike(Protocol):
    """A learngene, seen from below its class."""

    config: LearngeneConfig
    base: PreTrainedConfig
    base_class: type[PreTrainedModel]
    anatomy: Anatomy
    tensors: dict[str, TensorInfo]
    places: dict[str, dict[int, str]]
    components: dict[str, TensorInfo]
    shared: Tree
    scalers: Tree
    outside: Tree
    residuals: dict[str, float]
    training: bool

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def changes_width(self) -> bool: ...

    @property
    def has_stages(self) -> bool: ...

    @property
    def stored_share(self) -> float: ...

    def config_at(self, own: Mapping[str, Any]) -> PreTrainedConfig: ...

    def target(self, config: PreTrainedConfig | None = None, stages: Sequence[int] | None = None) -> Target: ...

    def weights(
        self, config: PreTrainedConfig | None = None, *, target: Target | None = None
    ) -> dict[str, Tensor]: ...

    def depth_of(self, stage: int | None) -> int: ...

    def depth_scale(self, info: TensorInfo, target: Target) -> float: ...

    def whole_stages(self) -> list[int] | None: ...

    def fit_scalers(self, template: str, info: TensorInfo, layer: int, gram: Tensor, cross: Tensor) -> None: ...

    def fit_vector(self, template: str, info: TensorInfo, layer: int, wanted: Tensor) -> None: ...

    def materialise(self, template: str, info: TensorInfo, target: Target) -> Sequence[Tensor]: ...

    def scaler_rows(self, target: Target) -> dict[str, Tensor]: ...

    def check_sizes(self, sizes: Mapping[str, Any]) -> dict[str, Any]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def fit_to(self, model: PreTrainedModel) -> dict[str, float]: ...

    def measure_residuals(self, model: PreTrainedModel) -> dict[str, float]: ...

    def input_processor(self) -> Any: ...

    def initialize(self, **sizes: Any) -> PreTrainedModel: ...

    def for_size(self, **sizes: Any) -> Self: ...

    def add_result(self, dataset: str, metrics: Mapping[str, float], *, split: str = "test", **sizes: Any) -> dict: ...


__all__ = ["LearngeneLike"]
