"""The one idea: the weights of a model are a function of its config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.axes import layer_of
from hf_learngene.maps import LayerMap, Take, TensorRecipe, apply
from hf_learngene.resizing.passes import Pass


class WeightSource(Protocol):
    """Whatever makes the weights of a model from its config: a `Transfer` from a checkpoint, or a `Learngene`."""

    def weights(self, config: PreTrainedConfig | None = None) -> dict[str, Tensor]:
        """Parameter name -> tensor, tied ones once; what it has no source for is left out."""
        ...


@dataclass(frozen=True, eq=False)
class Transfer:
    """The function from a config to weights that a checkpoint and a method are.

    Attributes:
        source: the model whose weights are taken. It is left as it is.
        step: the method, and the config it leads to.
        share: whether tensors that are kept as they are may share the source's memory, for a source that nobody else holds.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from hf_learngene import plan
        >>> sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
        >>> bert = BertModel(BertConfig(num_hidden_layers=2, **sizes))
        >>> transfer = Transfer(bert, plan(bert, num_hidden_layers=3).passes[0])
        >>> max(name.split(".")[2] for name in transfer.weights() if "layer." in name)
        '2'
        >>> max(name.split(".")[2] for name in transfer.weights(BertConfig(num_hidden_layers=4, **sizes)) if "layer." in name)
        '3'
    """

    source: PreTrainedModel
    step: Pass
    share: bool = False

    @torch.no_grad()
    def weights(self, config: PreTrainedConfig | None = None) -> dict[str, Tensor]:
        """The weights for a config of the source's family; without one, for the config that the pass leads to.

        Returns:
            `dict[str, Tensor]`: in the source's dtype, on the CPU; fresh tensors are left out.
        """
        step = self.step if config is None or config is self.step.config else self.step.towards(config)
        return dict(apply(_Parameters(self.source), step.recipes, step.task.seed, self.share))

    def carry_buffers(self, target: PreTrainedModel) -> None:
        """Copies saved buffers, which hold what training measured (I-BERT's ranges, the statistics of a batch norm).

        Of another width, one keeps the entries that the weight beside it keeps.
        """
        if not self.step.method.keeps_buffers:
            return
        buffers = dict(self.source.named_buffers())
        recipes = {recipe.name: recipe for recipe in self.step.recipes}
        for name in target.state_dict().keys() & dict(target.named_buffers()).keys():
            layer, template = layer_of(name, self.step.task.source.containers)
            layers = self._layers(template)
            origin = name if layer is None else template.format(layers[layer].index)
            module, _, leaf = name.rpartition(".")
            shape = tuple(target.get_buffer(name).shape)
            if origin in buffers and tuple(buffers[origin].shape) == shape:
                setattr(target.get_submodule(module), leaf, buffers[origin].clone())
            elif origin in buffers and _takes_alone(beside := recipes.get(f"{module}.weight"), shape):
                recipe = TensorRecipe(name, shape, ((origin, 1.0),), beside.ops if beside is not None else ())
                ((_, kept),) = apply({origin: buffers[origin].cpu()}, [recipe], self.step.task.seed)
                setattr(target.get_submodule(module), leaf, kept.to(buffers[origin].device))

    def _layers(self, template: str) -> LayerMap:
        """Where the layers of the module list come from that a template is of."""
        task, container = self.step.task, template.partition(".{}.")[0]
        found = (t for t in task.target.templates.values() if t.template.startswith(f"{container}.{{}}."))
        tensor = next(found, None)
        return task.layer_map if tensor is None else task.of(tensor).layer_map


def _takes_alone(beside: TensorRecipe | None, shape: tuple[int, ...]) -> bool:
    """Whether a weight of some shape is made by taking entries, so that a buffer beside it can be made alike."""
    return (
        beside is not None
        and beside.shape == shape
        and bool(beside.sources)
        and all(isinstance(op, Take) for op in beside.ops)
    )


class _Parameters(Mapping):
    """The source's parameters by name, one at a time on the CPU: indices and noise are there."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.tensors = {n: p.detach() for n, p in model.named_parameters(remove_duplicate=False)}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name].cpu()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)
