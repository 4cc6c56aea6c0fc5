"""Query heads that share keys and values leave as whole groups, or from within each, so that what stays still fits together."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import resize
from hf_learngene.errors import InvalidSizeError
from hf_learngene.methods import METHODS
from hf_learngene.methods.pruning_method import PruningMethod
from testing.families import tiny_model
from testing.method_tester import makes, shipped


HEADS, SHARED, SIZE = 6, 3, 8
# Those that prune units, and not layers alone.
PRUNING = [n for n in shipped() if issubclass(METHODS[n], PruningMethod) and makes(n, intermediate_size=20)]


def model_of():
    extra = {
        "num_attention_heads": HEADS,
        "num_key_value_heads": SHARED,
        "head_dim": SIZE,
        "hidden_size": HEADS * SIZE,
    }
    return tiny_model("eurobert", "EuroBertForSequenceClassification", extra)


def examples(count=48):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(5, 60, (8 + i % 5,), generator=generator).tolist() for i in range(count)]
    return [{"input_ids": row, "labels": i % 2} for i, row in enumerate(rows)]


def rows_of(heads):
    return torch.cat([torch.arange(h * SIZE, (h + 1) * SIZE) for h in heads])


@torch.no_grad()
def silence(model, queries, shared=()):
    """These heads say nothing; how loud the others' keys and values are says nothing of who stays."""
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.o_proj.weight[:, rows_of(queries)] = 0
        attention.q_proj.weight[rows_of(queries)] = 0
        for matrix in (attention.k_proj, attention.v_proj):
            if shared:
                matrix.weight[rows_of(shared)] = 0


def logits(model):
    tokens = torch.arange(5, 53).reshape(4, 12)
    with torch.no_grad():
        return model.eval()(input_ids=tokens).logits


def shrunk(model, method, **sizes):
    given = {"calibration": examples()} if METHODS[method].needs_examples else {}
    given |= {"ridge": 1e-9} if METHODS[method].refits_with({}) else {}
    return resize(model, method=method, hidden_size=HEADS * SIZE, head_dim=SIZE, **sizes, **given)


@pytest.mark.parametrize("method", PRUNING)
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_group_that_says_nothing_leaves_whole(method, gone):
    model = model_of()
    each = HEADS // SHARED
    silence(model, range(gone * each, (gone + 1) * each), [gone])
    small = shrunk(model, method, num_attention_heads=4)
    assert (small.config.num_attention_heads, small.config.num_key_value_heads) == (4, 2)
    torch.testing.assert_close(
        logits(small), logits(model), rtol=0, atol=1e-6 if METHODS[method].refits_with({}) else 1e-12
    )


@pytest.mark.parametrize("method", PRUNING)
def test_one_head_of_each_group_leaves(method):
    model = model_of()
    silence(model, [1, 2, 5])
    small = shrunk(model, method, num_attention_heads=3, num_key_value_heads=3)
    torch.testing.assert_close(
        logits(small), logits(model), rtol=0, atol=1e-6 if METHODS[method].refits_with({}) else 1e-12
    )


@pytest.mark.parametrize("selection", ["uniform", "consecutive", "random"])
def test_headwise_selection_keeps_groups_together(selection):
    """Each group computes something of its own, so a query under another group's key would show."""
    model = model_of()
    options = {"head_selection": "headwise", "element_selection": selection, "seed": 3}
    small = resize(model, method="weight_selection", num_attention_heads=4, hidden_size=48, head_dim=SIZE, **options)
    for old, new in zip(model.model.layers, small.model.layers, strict=True):
        old, new = old.self_attn, new.self_attn
        keys = old.k_proj.weight.reshape(SHARED, -1)
        queries = old.q_proj.weight.reshape(HEADS, -1)
        groups = [int((keys == row).all(1).nonzero()) for row in new.k_proj.weight.reshape(2, -1)]
        heads = [int((queries == row).all(1).nonzero()) for row in new.q_proj.weight.reshape(4, -1)]
        assert heads == [g * 2 + i for g in groups for i in range(2)]
    values = [m.model.layers[0].self_attn.v_proj.weight.reshape(-1, SIZE * 48) for m in (model, small)]
    assert [int((values[0] == row).all(1).nonzero()) for row in values[1]] == groups


@pytest.mark.parametrize("method", [*PRUNING, "weight_selection"])
def test_groups_do_not_merge(method):
    given = {"head_selection": "headwise"} if method == "weight_selection" else {}
    given |= {"calibration": examples(8)} if METHODS[method].needs_examples else {}
    with pytest.raises(
        InvalidSizeError, match="6 heads over 3 cannot become 4 over 1. The fewest num_key_value_heads"
    ):
        resize(
            model_of(),
            method=method,
            hidden_size=48,
            head_dim=8,
            num_attention_heads=4,
            num_key_value_heads=1,
            **given,
        )
