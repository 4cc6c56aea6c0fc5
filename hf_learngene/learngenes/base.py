"""`Learngene`: a `PreTrainedModel` whose parameters are only what the sizes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import TensorInfo, anatomy_of
from hf_learngene.errors import InvalidSizeError, UnfittedError, UnsupportedFamilyError
from hf_learngene.learngenes import growth
from hf_learngene.learngenes.ancestry_mixin import AncestryMixin, check_read, refuse_statistics
from hf_learngene.learngenes.config import LearngeneConfig
from hf_learngene.learngenes.descendant import assemble
from hf_learngene.learngenes.hub_mixin import HubMixin
from hf_learngene.learngenes.parts import Target, Tree, path_of, residual, stacked
from hf_learngene.learngenes.running_mixin import RunningMixin
from hf_learngene.learngenes.series import in_series, places_in
from hf_learngene.learngenes.sizes_mixin import SizesMixin
from hf_learngene.learngenes.training_mixin import TrainingMixin
from hf_learngene.resizing import resize
from hf_learngene.resizing.spec import AUTO
from hf_learngene.state import without_autocast


class Learngene(RunningMixin, HubMixin, TrainingMixin, AncestryMixin, SizesMixin, ABC):
    """Base of every learngene.

    Its parameters stand in three trees: `shared` (what all layers and sizes share), `scalers` (what belongs to one size,
    where there is any) and `outside` (embeddings, final norm, head). `weights(config)` makes the weights of a model of any
    size it supports, differentiably; `forward` runs the auxiliary model on them; `initialize(**sizes)` gives a plain
    transformers model, a "descendant".

    A subclass says, for one component (one tensor of every layer; in a hierarchy, of every block of a stage), how its
    parameters are made (`make`), drawn (`draw`), fitted (`fit`) and turned into weights (`materialise`).

    Args:
        config (`LearngeneConfig`): which model it makes.

    Raises:
        UnsupportedFamilyError: a family that is not understood, whose layers share one set of weights already, or that has
            batch norms; a hierarchy, for a kind that takes none.
    """

    config_class = LearngeneConfig
    config: LearngeneConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = False
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: LearngeneConfig) -> None:
        super().__init__(config)
        self.base: PreTrainedConfig = config.base
        self.base_class = config.model_class
        self.main_input_name = self.base_class.main_input_name
        self.anatomy = anatomy_of(self.base, self.base_class)
        self.check_family(self.anatomy)
        if self.anatomy.shared_layers:
            raise UnsupportedFamilyError(
                f"The layers of `{self.anatomy.model_type}` share one set of weights already: there is nothing for a "
                "learngene to share. Take a family with layers of their own, such as BERT."
            )
        refuse_statistics(self.base_class, self.base)
        self.tensors = in_series(self.anatomy)
        self.places = places_in(self.tensors)
        self.components = {t.template: t for t in self.tensors.values() if t.layer is not None}
        self.shared, self.scalers, self.outside = Tree(), Tree(), Tree()
        self.residuals: dict[str, float] = {}
        self.processing_class: Any = None
        self._models: dict[str, PreTrainedModel] = {}
        self._targets: dict[str, Target] = {}
        for name, info in self.tensors.items():
            if info.layer is None:
                shape = self.outside_shape(info)
                self.outside.put(name, nn.Parameter(torch.empty(shape), requires_grad=not info.computed))
        for template, info in self.components.items():
            self.make(template, info)
        self.post_init()
        if not any(p.is_meta for p in self.parameters()):
            self.reset_parameters()

    # ---- for subclasses

    @abstractmethod
    def make(self, template: str, info: TensorInfo) -> None:
        """Adds the parameters of one component to `shared` and `scalers`."""

    @abstractmethod
    def draw(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        """Fills a component's parameters at random; `stack`, `(layers, *shape)`, is the component of a fresh model."""

    @abstractmethod
    def fit(self, template: str, info: TensorInfo, stack: Tensor) -> None:
        """Fills a component's parameters in closed form, so that `materialise` comes near `stack`, `(layers, *shape)`."""

    @abstractmethod
    def materialise(self, template: str, info: TensorInfo, target: Target) -> Sequence[Tensor]:
        """The component's tensor in each layer of the target. Differentiable."""

    def whole_stages(self, stage: int | None = None) -> list[int] | None:
        """The group of each layer, where layers of a group are made of one that is held whole; None where none is.

        Args:
            stage: of a hierarchy, the one whose layers are asked for.
        """
        return None

    def fit_scalers(self, template: str, info: TensorInfo, layer: int, gram: Tensor, cross: Tensor) -> None:
        """Fits what a layer's matrix has of its own to mean products: of its inputs, and of these with the wanted outputs.

        Args:
            template: of the component.
            info: of it.
            layer: of the auxiliary model.
            gram: (inputs, inputs), float64.
            cross: (inputs, outputs).
        """

    def fit_vector(self, template: str, info: TensorInfo, layer: int, wanted: Tensor) -> None:
        """Fits what a layer's bias has of its own to a vector, float64."""

    def outside_shape(self, info: TensorInfo) -> tuple[int, ...]:
        """Shape in which a tensor outside the layers is kept."""
        return info.shape

    def fill_outside(self, name: str, info: TensorInfo, tensor: Tensor) -> None:
        """Takes a tensor outside the layers from a model of the auxiliary size."""
        self.outside.take(name).copy_(tensor)

    def prepare_fit(self, stacks: dict[str, Tensor]) -> None:
        """Fits what all components share, before they are fitted one by one; `stacks` holds each one's layers."""

    def picked(self, stage: int | None = None) -> list[int] | None:
        """Layers of the ancestry that a fit to whole layers puts in each layer's place; None fits every layer.

        Of a hierarchy, those of one stage; where blocks alternate, turns of them.

        Layers that stay whole still work together. A least-squares compromise between all of them is nearer in every entry
        and further away in what it computes (measured in docs/learngenes.md); the papers fit nothing.
        """
        return None

    # ---- parameters

    def add_shared(self, template: str, part: str, *shape: int) -> None:
        self._add("shared", f"{path_of(template)}.{part}", shape)

    def add_scaler(self, template: str, part: str, *shape: int) -> None:
        self._add("scalers", f"{path_of(template)}.{part}", shape)

    def _add(self, tree: str, path: str, shape: Sequence[int]) -> None:
        pinned = (self.config.shapes or {}).get(f"{tree}.{path}", shape)
        getattr(self, tree).put(path, nn.Parameter(torch.empty(tuple(pinned))))

    def part(self, template: str, name: str) -> nn.Parameter:
        """A shared part of a component."""
        return self.shared.take(f"{path_of(template)}.{name}")

    def scaler(self, template: str, name: str) -> nn.Parameter:
        """A scaler of a component."""
        return self.scalers.take(f"{path_of(template)}.{name}")

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws every parameter anew, on the scale on which the family initialises its own."""
        self._fill(self.base_class(self.base), self.draw, fitting=False)

    def _fill(self, model: PreTrainedModel, how: Any, fitting: bool) -> None:
        tensors = dict(model.named_parameters(remove_duplicate=False))
        dtype = self.dtype if self.dtype in (torch.float32, torch.float64) else torch.float32
        wanted = {t: self._stack(t, tensors).to(self.device, dtype) for t in self.components}
        if fitting:
            for template, info in self.components.items():
                picked = self.picked(info.stage)
                wanted[template] = wanted[template][picked] if picked else wanted[template]
            self.prepare_fit(wanted)
        for path in self.outside.paths():
            self.fill_outside(path, self.tensors[path], tensors[path])
        for template, info in self.components.items():
            how(template, info, wanted[template])

    def _init_weights(self, module: nn.Module) -> None:
        """Transformers calls this for parameters that a checkpoint lacks."""
        for parameter in module.parameters(recurse=False):
            if not getattr(parameter, "_is_hf_initialized", False):
                nn.init.normal_(parameter, std=0.02)

    @torch.no_grad()
    def fit_to(self, model: PreTrainedModel) -> dict[str, float]:
        """Fits every component to a model of the auxiliary size, in closed form and without data.

        Returns:
            component -> relative Frobenius residual; also kept as `residuals`.
        """
        self._fill(model, self.fit, fitting=True)
        self.config.fitted = True
        return self.measure_residuals(model)

    @torch.no_grad()
    def measure_residuals(self, model: PreTrainedModel) -> dict[str, float]:
        """How far each component is from a model of the auxiliary size; kept as `residuals`, as of `fit_to`."""
        tensors, target = dict(model.named_parameters(remove_duplicate=False)), self.target()
        for template, info in self.components.items():
            stack = self._stack(template, tensors).to(self.device, self.dtype)
            made = [tensor.to(stack) for tensor in self.materialise(template, info, target)]
            self.residuals[path_of(template)] = residual(stack, made)
        return self.residuals

    def _stack(self, template: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """A component of a model of the auxiliary size, `(layers, *shape)`."""
        return stacked(self.places[template], tensors, self.depth_of(self.components[template].stage))

    # ---- weights

    def weights(self, config: PreTrainedConfig | None = None, *, target: Target | None = None) -> dict[str, Tensor]:
        """The weights of a model: the function that a learngene is.

        Args:
            config (`PreTrainedConfig`, *optional*): of the model; default: the auxiliary model's.
            target (`Target`, *optional*): the same, made by `target()`.

        Returns:
            `dict[str, Tensor]`: parameter name -> tensor, tied ones once, differentiable in the learngene's parameters.
        """
        target = target if target is not None else self.target(config)
        state: dict[str, Tensor] = {}
        made: dict[str, Sequence[Tensor]] = {}
        for name, info in target.tensors.items():
            if info.layer is None:
                state[name] = self._outside(name, info, target)
                continue
            if info.template not in made:
                tensors = self.materialise(info.template, self.components[info.template], target)
                scale = self.depth_scale(info, target)
                made[info.template] = tensors if scale == 1.0 else [t * scale for t in tensors]
            state[name] = made[info.template][info.layer]
        return state

    def _outside(self, name: str, info: TensorInfo, target: Target) -> Tensor:
        tensor = self.outside.take(name)
        if target.same_width:
            return tensor
        scale = 1.0
        if name.rpartition(".")[0] in self.anatomy.tied_readers:
            # the decoder sums over copies
            scale = min(1.0, self.anatomy.tensors[name].dims[0].size / info.dims[0].size)
        return growth.tensor_at_width(tensor, self.anatomy.tensors[name], info, scale)

    # ---- the user's verbs

    @without_autocast()  # it would round what templates multiply
    def initialize(
        self,
        *,
        stages: Sequence[int] | None = None,
        seed: int = 0,
        calibration: Any = AUTO,
        processing_class: Any = None,
        calibration_column: str | tuple[str, str] | None = None,
        calibration_size: int | None = None,
        calibration_top_up: bool = True,
        **sizes: Any,
    ) -> PreTrainedModel:
        """A descendant: a plain transformers model of any size that this learngene can make.

        Args:
            stages (`Sequence[int]`, *optional*): for `sws`, the stage of each layer.
            seed (`int`, *optional*, defaults to 0): for what has to start anew (a head for other labels), and made-up examples.
            calibration (*optional*, defaults to `"auto"`): a few hundred unlabelled examples, or `"synthetic"`, as in `resize`: a
                smaller size is the auxiliary model's calibrated shrink, a larger one its exact growth. None: the kind's own rule,
                `weights(config)`. `"auto"`: made-up examples for `condensed`, none for the others.
            processing_class (*optional*): as in `resize`. Default: the one that is saved beside the learngene.
            calibration_column (*optional*): as in `resize`.
            calibration_size (`int`, *optional*): as in `resize`.
            calibration_top_up (`bool`, *optional*, defaults to `True`): as in `resize`.
            **sizes: by the config's own field names. Depth (of a hierarchy a list, `depths=[2, 2, 12, 4]`), and width where the
                learngene allows, are its own; all others (`num_labels`, `image_size`, ...) are left to `resize`.

        Returns:
            `PreTrainedModel` of the auxiliary model's class, in eval mode, with `config.learngene` telling where it comes from.

        Raises:
            UnfittedError: nothing was fitted or trained yet.
            InvalidSizeError: a size that it cannot make, with those it can; or stages beside examples.
            CalibrationError: examples that do not fit.

        Example:
            >>> from transformers import BertConfig, BertModel
            >>> from hf_learngene import AutoLearngene
            >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=4)
            >>> learngene = AutoLearngene.from_ancestry(BertModel(config), learngene_type="tleg")
            >>> learngene.initialize(num_hidden_layers=7).config.num_hidden_layers
            7
        """
        if not self.config.fitted:
            raise UnfittedError(
                f"This `{self.config.learngene_type}` was neither fitted nor trained, so what it makes is random. Start from a "
                "model with AutoLearngene.from_ancestry(model, ...), train it with LearngeneTrainer, or load a trained one."
            )
        if isinstance(calibration, str) and calibration == AUTO:
            calibration = self.default_calibration
        check_read(calibration, calibration_column=calibration_column, calibration_size=calibration_size)
        if calibration is not None and stages is not None and self.has_stages:
            raise InvalidSizeError(
                "stages says how layers are repeated; with calibration= a size is made of the auxiliary model instead. Give "
                "num_hidden_layers with it, or leave calibration out."
            )
        if calibration is not None and stages is None:
            growth.check_resized(self, sizes)
            auxiliary = self.initialize(seed=seed, calibration=None)
            if not sizes:
                return auxiliary
            return resize(
                auxiliary,
                seed=seed,
                calibration=calibration,
                processing_class=processing_class if processing_class is not None else self.input_processor(),
                calibration_column=calibration_column,
                calibration_size=calibration_size,
                calibration_top_up=calibration_top_up,
                **sizes,
            )
        own, rest = growth.split_sizes(self.anatomy, sizes, stages)
        target = self.target(self.config_at(own), stages)
        with torch.inference_mode(False), torch.no_grad():  # made in inference mode, it could not be trained
            state = {name: tensor.detach().clone() for name, tensor in self.weights(target=target).items()}
            model = assemble(self, target, state, own, seed)
        return resize(model, seed=seed, **rest) if rest else model

    def scaler_rows(self, target: Target) -> dict[str, Tensor]:
        """Scalers of another size, by path, before they are trained."""
        return {}

    @property
    def stored_share(self) -> float:
        """Parameters kept (all but the scalers), as a share of the dense auxiliary model's."""
        kept = sum(p.numel() for tree in (self.shared, self.outside) for p in tree.parameters())
        return kept / self.anatomy.num_parameters
