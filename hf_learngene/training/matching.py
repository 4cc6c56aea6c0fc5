"""What the losses beyond logits need: projections where widths differ, and the q, k, v vectors of a layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback

from hf_learngene.anatomy import Anatomy, anatomy_of
from hf_learngene.anatomy.admit import refuse_stages
from hf_learngene.errors import TeacherError


class Projections(nn.Module):
    """Linear maps from the student's width to the teacher's, trained with the student and thrown away after it."""

    def __init__(self, student: int, teacher: int, names: list[str], seed: int) -> None:
        super().__init__()
        self.maps = nn.ModuleDict()
        if student == teacher:
            return
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for name in names:
                self.maps[name] = nn.Linear(student, teacher)

    def of(self, name: str) -> nn.Module | None:
        return self.maps[name] if name in self.maps else None  # noqa: SIM401


class ReduceProjections(TrainerCallback):
    """Averages the gradients of projections over the processes: they are not part of the wrapped model."""

    def __init__(self, projections: Projections, accelerator: Accelerator) -> None:
        self.projections = projections
        self.accelerator = accelerator

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.accelerator.num_processes > 1:
            for parameter in self.projections.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "mean")


class Attended:
    """Catches the q, k and v vectors of one layer while a model runs. Tells the three by the roles of the anatomy."""

    def __init__(self, model: PreTrainedModel, layer: int, anatomy: Anatomy | None = None) -> None:
        anatomy = anatomy if anatomy is not None else anatomy_of(model.config, type(model))
        refuse_stages(anatomy, "relations_weight compares one layer of one depth")
        self.layer = layer % anatomy.num_layers
        found: dict[str, str] = {}
        for tensor in anatomy.tensors.values():
            if tensor.layer == self.layer and tensor.role in ("q", "k", "v", "qkv") and len(tensor.dims) == 2:
                found.setdefault(tensor.role, tensor.module)
        if not ({"q", "k", "v"} <= found.keys() or "qkv" in found):
            raise TeacherError(
                f"relations_weight needs the q, k and v of a layer; `{anatomy.model_type}` shows {sorted(found) or 'none'}. Use "
                "hidden_states_weight instead."
            )
        fused = next((t for t in anatomy.tensors.values() if t.role == "qkv"), None)
        if fused is not None and fused.dims[0].by_head:
            raise TeacherError(f"relations_weight cannot part the fused q, k, v of `{anatomy.model_type}`.")
        self.modules = found
        self.vectors: dict[str, Tensor] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Keeps the vectors of every forward of `model` inside a `with` block."""
        self.vectors = {}

        def keep(role: str):
            def hook(module, inputs, output):
                self.vectors.setdefault(role, output)

            return hook

        handles = [model.get_submodule(m).register_forward_hook(keep(r)) for r, m in self.modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def three(self) -> list[Tensor]:
        """q, k and v, each (examples, tokens, width)."""
        if "qkv" in self.vectors:
            return list(self.vectors["qkv"].chunk(3, -1))
        return [self.vectors[role] for role in "qkv"]


def width_of(config: PreTrainedConfig) -> int:
    """The width of a model's residual stream.

    Raises:
        TeacherError: it has none, or several.
    """
    for part in (config, getattr(config, "vision_config", None), getattr(config, "text_config", None)):
        width = getattr(part, "hidden_size", None)
        if isinstance(width, int):
            return width
    raise TeacherError(f"`{config.model_type}` has no one width; hidden states and relations cannot be compared.")
