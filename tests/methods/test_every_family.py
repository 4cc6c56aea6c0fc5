"""What holds for every listed class of every family: its own size is the identity, it shrinks, and growing keeps its function."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_learngene import plan, resize, verify
from hf_learngene.anatomy import anatomy_of
from hf_learngene.methods import METHODS, PruningMethod
from testing.families import DEPTH_STAYS, FIRST, WIDTH_STAYS, case_id, exact_deberta, inputs_for, listed, tiny_model
from testing.method_tester import NEEDED, methods_that
from testing.numerics import EXACT


CASES = listed()
SHRINKING = [name for name in methods_that(shrinks=True, needs_examples=False) if name not in NEEDED]

pytestmark = pytest.mark.every_family


@pytest.fixture(autouse=True, scope="module")
def _deberta_in_float64():
    exact_deberta()


@pytest.fixture(scope="module", params=CASES, ids=case_id)
def case(request):
    """One after the other, so that an anatomy is probed once for all tests."""
    return request.param


@pytest.fixture(scope="module")
def source(case):
    """In float64; not to be changed."""
    kind, extra, name = case
    return tiny_model(kind, name, extra)


def test_the_same_size_is_the_identity_bit_for_bit(case, source):
    same = resize(source, method=("weight_selection", "lemon", "front")[len(case[2]) % 3])
    for key, value in source.state_dict().items():
        assert torch.equal(value, same.state_dict()[key]), key


def test_shrinking_gives_a_plain_model_that_runs(case, source):
    """By one method after the other: each has most families, and each family several methods."""
    method = SHRINKING[CASES.index(case) % len(SHRINKING)]
    if issubclass(METHODS[method], PruningMethod) and anatomy_of(source.config, type(source)).composed_layers:
        method = "weight_selection"  # nothing ranks a width that other fields compose
    model = copy.deepcopy(source).float()
    sizes = {"num_hidden_layers": 2} if case[0] in WIDTH_STAYS else {"hidden_size": 16, "num_hidden_layers": 2}
    small = resize(model, method=method, **sizes)
    assert type(small) is type(model)
    assert small.dtype == model.dtype
    assert not small.training
    output = small(**inputs_for(small))
    assert all(torch.isfinite(v).all() for v in output.values() if isinstance(v, torch.Tensor))
    ties = anatomy_of(small.config, type(small)).ties
    state = dict(small.named_parameters(remove_duplicate=False))
    assert all(state[a] is state[b] for a, b in ties.items())
    assert small.config.learngene["passes"][0]["method"] == method
    planned = plan(model, method=method, **sizes).tensors
    assert [p.shape for p in small.parameters()] == [t.shape for t in planned]


def requests(kind: str, anatomy, alone: bool) -> list[dict]:
    """Growths along all axes together and, where asked, along every axis alone, as far as the family allows."""
    ffn = {"intermediate_size": 70} if "intermediate_size" in anatomy.fields else {}
    # heads of twice the size, unless they rotate
    heads = {} if anatomy.rotary or anatomy.normalised_heads else {"num_attention_heads": 3}
    if kind in WIDTH_STAYS:
        return [{"num_hidden_layers": 8, **ffn}, *([{"num_hidden_layers": 4}] if alone else [])]
    found = [{"hidden_size": 48, "symmetry": "comp", **ffn, **heads}]
    if kind in DEPTH_STAYS:
        return found
    if not anatomy.shared_layers:
        found.append({"num_hidden_layers": 8, "hidden_size": 48, "depth": "cancelzero"})
    if not anatomy.norms_that_need_multiples():
        found.append({"hidden_size": 40, "num_hidden_layers": 4})
    if not alone:
        return found
    found.append({"hidden_size": 72, "symmetry": "equal"})
    if not anatomy.shared_layers:
        found.append({"num_hidden_layers": 4})
    if anatomy.head_dim_honoured and not anatomy.rotary and not anatomy.norms_that_need_multiples():
        found.append({"hidden_size": 37, "num_attention_heads": 4, "head_dim": 10, "num_hidden_layers": 5})
        found.append({"num_attention_heads": 5, "head_dim": 8})
    return found


def test_growth_keeps_the_function_in_float64(case, source):
    kind, _, name = case
    inputs = inputs_for(source)
    for request in requests(kind, anatomy_of(source.config, type(source)), alone=name in FIRST):
        grown = resize(source, method="lemon", seed=3, **request)
        report = verify(source, grown, inputs)
        assert report.relative <= EXACT, f"{request}: {report}"
        for size, value in request.items():
            if size in ("hidden_size", "num_hidden_layers") and kind != "siglip" and kind != "clip":
                assert getattr(grown.config, size) == value
