"""The output of a model without a layer is the same, whether all of it is run or what comes after that layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_learngene.anatomy import anatomy_of
from hf_learngene.calibration.examples import Examples
from hf_learngene.pruning.running import output_of
from hf_learngene.pruning.without_layer import Suffixes
from testing.examples import examples_for
from testing.families import tiny_model


# of the last, nothing but layers and what is kept before them has parameters
FAMILIES = [
    ("vit", "ViTForImageClassification"),
    ("bert", "BertForSequenceClassification"),
    ("electra", "ElectraModel"),
]


class Left(nn.Module):
    """What a post-norm layer leaves behind."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, given, *args, **kwargs):
        return self.norm(given)


@pytest.mark.parametrize(("family", "name"), FAMILIES)
def test_without_layers_is_a_model_that_does_not_have_them(family, name):
    source = tiny_model(family, name).eval()
    anatomy = anatomy_of(source.config, type(source))
    batches = list(Examples(examples_for(source), source).batches())
    holder, _, leaf = anatomy.containers[0].rpartition(".")
    holder, layers = source.get_submodule(holder), source.get_submodule(anatomy.containers[0])

    norms = {n.layer: source.get_submodule(n.name) for n in anatomy.norms if n.closes_layer}

    def output(gone):
        kept = [m if i not in gone else Left(norms[i]) for i, m in enumerate(layers) if i not in gone or i in norms]
        setattr(holder, leaf, nn.ModuleList(kept))
        try:
            return [output_of(source, b) for b in batches]
        finally:
            setattr(holder, leaf, layers)

    depth = len(layers)
    with torch.no_grad(), Suffixes(source, anatomy, batches) as suffixes:
        gone: set[int] = set()
        torch.testing.assert_close(suffixes.leave(), output(gone))
        for left in (depth - 1, 0):
            for layer in set(range(depth)) - gone:
                torch.testing.assert_close(list(suffixes.without(layer)), output(gone | {layer}))
            gone.add(left)
            if len(gone) < depth:
                torch.testing.assert_close(suffixes.leave(left), output(gone))
    assert list(source.get_submodule(anatomy.containers[0])) == list(layers)
