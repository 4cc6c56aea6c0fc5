"""Tables that the family computes are carried over where their shape stays, for the source's own may differ."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import plan, resize, verify
from testing.families import inputs_for, tiny_model


TABLE = "roformer.encoder.embed_positions.weight"


def roformer():
    model = tiny_model("roformer", "RoFormerForMaskedLM")
    with torch.no_grad():
        model.get_parameter(TABLE).mul_(0.9).add_(0.05)
    return model


@pytest.mark.parametrize("asked", [{"hidden_size": 48}, {"num_hidden_layers": 5}, {"intermediate_size": 80}], ids=str)
def test_a_table_of_its_own_grows_along(asked):
    model = roformer()
    grown = resize(model, method="lemon", **asked)
    assert torch.equal(grown.get_parameter(TABLE), model.get_parameter(TABLE))
    assert verify(model, grown, inputs_for(model)).relative <= 1e-9


def test_it_is_computed_anew_only_where_its_shape_changes():
    fates = {t.name: t.origin for t in plan(roformer(), hidden_size=16).tensors}
    assert fates[TABLE] == "kept"
    other = plan(roformer(), max_position_embeddings=30)
    assert {t.name: t.origin for t in other.tensors}[TABLE] == "fresh (computed)"
    assert TABLE not in other.fresh
