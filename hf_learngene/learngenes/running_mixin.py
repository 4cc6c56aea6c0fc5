"""How the models of a learngene run: on weights that are made for the pass, through a skeleton that has none."""

from __future__ import annotations

from typing import Any, cast

import torch
from accelerate import init_empty_weights
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_utils import local_torch_dtype

from hf_learngene.learngenes.parts import Target
from hf_learngene.learngenes.protocol import LearngeneLike
from hf_learngene.state import exclusive, on_cpu, seeded


class RunningMixin:
    """`forward` of a learngene, and of models of its other sizes."""

    _models: dict[str, PreTrainedModel]

    def skeleton(self, target: Target) -> PreTrainedModel:
        """The native model of a target without weights, on `meta`, with its buffers in place."""
        learngene = cast(LearngeneLike, self)
        key = f"{target.config.to_json_string(use_diff=False)}|{learngene.dtype}"
        if key not in self._models:
            # torch.nn.init and nn.Module are patched for the whole process meanwhile, so one thread at a time. A few
            # constructors draw their tokens all the same. Buffers made in inference mode could not be trained with. Those of
            # another dtype than the weights (Swin v2's distances) are as transformers loads them.
            with (
                exclusive(), seeded(0), torch.inference_mode(False), on_cpu(), local_torch_dtype(learngene.dtype),
                no_init_weights(), init_empty_weights(include_buffers=False),
            ):  # fmt: skip
                model = learngene.base_class(target.config)
            # in a plain dict, so that no parameter of it is one of the learngene's
            self._models[key] = model
        model = self._models[key]
        for name, buffer in model.named_buffers():
            if buffer.device != learngene.device:
                module, _, leaf = name.rpartition(".")
                model.get_submodule(module)._buffers[leaf] = buffer.to(learngene.device)
        return model.train(learngene.training)

    def run(self, target: Target, *args: Any, **kwargs: Any) -> Any:
        """Runs the model of a target on the weights made for it."""
        weights = cast(LearngeneLike, self).weights(target=target)
        tied = {name: weights[first] for name, first in target.anatomy.ties.items()}
        return functional_call(self.skeleton(target), {**weights, **tied}, args, kwargs, tie_weights=False)

    def forward(self, *args: Any, also: Target | None = None, instead: Target | None = None, **kwargs: Any) -> Any:
        """The auxiliary model's own forward: the same inputs, the same output.

        With `also`, a pair: its output and that of the model of another size, in one call (distributed wrappers want one). With
        `instead`, the output of the model of another size alone.
        """
        own = self.run(instead or cast(LearngeneLike, self).target(), *args, **kwargs)
        return own if also is None else (own, self.run(also, *args, **kwargs))


__all__ = ["RunningMixin"]
