"""What holds for every learngene: a new kind is tested by being registered."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import AutoModel

from hf_learngene import AutoLearngene, AutoLearngeneConfig
from testing.families import inputs_for
from testing.learngenes import fitted
from testing.numerics import assert_all_close_for


def tensors(outputs):
    return {k: v for k, v in outputs.items() if isinstance(v, torch.Tensor)}


class LearngeneTester:
    """One kind, fitted to one tiny model of three layers in float64."""

    def __init__(self, kind: str, family: str, name: str) -> None:
        self.kind, self.name = kind, name
        self.learngene = fitted(kind, family, name)
        self.descendant = self.learngene.initialize()
        self.inputs = inputs_for(self.descendant)

    def check_the_descendant_is_the_auxiliary_model(self) -> None:
        assert type(self.descendant).__name__ == self.name
        with torch.no_grad():
            own, theirs = tensors(self.learngene(**self.inputs)), tensors(self.descendant(**self.inputs))
        assert_all_close_for(theirs, own)

    def check_every_depth_runs(self, *depths: int) -> None:
        for depth in depths:
            made = self.learngene.initialize(num_hidden_layers=depth)
            assert made.config.num_hidden_layers == depth
            with torch.no_grad():
                assert all(v.isfinite().all() for v in tensors(made(**self.inputs)).values())

    def check_saved_and_loaded_it_is_the_same(self, folder: Path) -> None:
        self.learngene.save_pretrained(folder)
        wanted = tensors(self.learngene(**self.inputs))
        for auto in (AutoLearngene, AutoModel):
            again = auto.from_pretrained(folder)
            assert type(again) is type(self.learngene)
            assert again.config.fitted
            state = self.learngene.state_dict()
            assert all(torch.equal(t, state[n]) for n, t in again.state_dict().items())
            assert_all_close_for(tensors(again(**self.inputs)), wanted)  # what was read lies elsewhere in memory
        config = AutoLearngeneConfig.from_pretrained(folder)
        assert config.options() == self.learngene.config.options()
        assert config.base_config.to_dict() == self.learngene.config.base_config.to_dict()

    def check_weights_are_a_function_of_the_config(self) -> None:
        config = copy.deepcopy(self.learngene.base)
        config.num_hidden_layers = 5
        weights = self.learngene.weights(config)
        made = dict(self.learngene.initialize(num_hidden_layers=5).named_parameters())  # tied ones once
        assert weights.keys() == made.keys()
        assert all(torch.equal(weights[n], p) for n, p in made.items())
        assert self.learngene.weights().keys() == dict(self.descendant.named_parameters()).keys()
        sum(w.pow(2).sum() for w in weights.values()).backward()
        assert [n for n, p in self.learngene.shared.named_parameters() if p.grad is None] == []
        assert any(p.grad is not None and p.grad.any() for p in self.learngene.shared.parameters())

    def check_gradients_reach_every_part_and_nothing_else(self) -> None:
        self.learngene.train()
        sum(v.sum() for v in tensors(self.learngene(**self.inputs)).values()).backward()
        assert [n for n, p in self.learngene.named_parameters() if p.grad is None] == []
        names = {n.partition(".")[0] for n, _ in self.learngene.named_parameters()}
        assert names <= {"shared", "scalers", "outside"}
        zero = [n for n, p in self.learngene.named_parameters() if not p.grad.any()]
        # a softmax over the keys does not see the bias that all keys share; tleg's line starts at 0 for the first layer
        assert all("k_proj.bias" in n or "key.bias" in n for n in zero), zero
