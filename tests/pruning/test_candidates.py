"""Units of merged layers that are looked at closely: those that move the stream, whatever the batches they were seen in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_learngene import resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.calibration.examples import Examples
from hf_learngene.pruning import candidates as looked
from hf_learngene.pruning.candidates import candidates, unit_variances
from hf_learngene.pruning.targets import writer
from testing.examples import examples_for
from testing.families import tiny_model


@given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**16))
def test_as_many_as_are_kept_and_a_third_of_the_others(units, share, seed):
    generator = torch.Generator().manual_seed(seed)
    variance, weight = torch.rand(units, generator=generator), torch.randn(3, units, generator=generator)
    keep = round(share * units)
    found = candidates(variance, weight, keep)
    assert keep <= len(found) <= units
    assert len(found) == keep + round(looked.LOOKED_AT * (units - keep))
    assert found.tolist() == sorted(set(found.tolist()))
    moved = variance * weight.pow(2).sum(0)
    left = torch.ones(units, dtype=torch.bool)
    left[found] = False
    assert not len(found) or not left.any() or float(moved[left].max()) <= float(moved[found].min())


@pytest.mark.parametrize(
    ("family", "name"), [("vit", "ViTForImageClassification"), ("bert", "BertForSequenceClassification")]
)
def test_variances_are_those_of_the_tokens_that_are_shown(family, name):
    model = tiny_model(family, name).double()
    anatomy, rows = anatomy_of(model.config, type(model)), examples_for(model, 9)
    modules = [writer(anatomy, layer, "ffn_out").module for layer in range(anatomy.num_layers)]
    with Examples(rows, model) as examples:
        found = unit_variances(model, modules, examples)
    seen = {module: [] for module in modules}
    for module in modules:
        model.get_submodule(module).register_forward_pre_hook(
            lambda layer, args, module=module: seen[module].append(args[0].flatten(0, -2))
        )
    for row in rows:  # one by one: nothing is padded
        values = {k: torch.as_tensor(v)[None] for k, v in row.items()}
        model(**{k: v.double() if v.is_floating_point() else v for k, v in values.items()})
    for module in modules:
        wanted = torch.cat(seen[module]).var(0, correction=0)
        torch.testing.assert_close(found[module], wanted, rtol=1e-6, atol=1e-12)


@torch.no_grad()
def test_with_all_units_looked_at_the_model_is_near_what_it_is_with_some(monkeypatch):
    source = tiny_model("vit", "ViTForImageClassification")
    options = {"calibration": examples_for(source), "num_hidden_layers": 2, "method": "calibrated"}
    inputs = torch.stack([torch.as_tensor(row["pixel_values"]) for row in examples_for(source)])
    wanted = source(inputs).logits
    lost = []
    for share in (1.0, looked.LOOKED_AT):
        monkeypatch.setattr(looked, "LOOKED_AT", share)
        lost.append(float((resize(source, **options)(inputs).logits - wanted).pow(2).sum() / wanted.var(0).sum()))
    assert lost[1] < 1.5 * lost[0]
