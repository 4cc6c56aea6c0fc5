"""What each learngene is by its paper: stages, lines, Kronecker products, factors, and the closed forms that fit them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_learngene import AutoLearngene, verify
from hf_learngene.learngenes.fine.model import shared_factors
from hf_learngene.learngenes.parts import along_depth, principal, stage_of_each_layer
from testing.families import inputs_for, tiny_model
from testing.learngenes import fitted
from testing.numerics import assert_close_for


def test_the_stages_of_the_paper():
    assert stage_of_each_layer(12, 5) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    assert stage_of_each_layer(16, 5)[:8] == [0, 0, 0, 0, 1, 1, 1, 2]


@given(st.integers(1, 40), st.integers(1, 12))
def test_stages_never_go_back_and_all_are_used(depth, stages):
    found = stage_of_each_layer(depth, stages)
    assert len(found) == depth
    assert found == sorted(found)
    assert set(found) <= set(range(stages))
    if depth >= stages:
        assert set(found) == set(range(stages))


def test_stages_of_ones_own():
    learngene = fitted("sws", extra={"num_hidden_layers": 4}, num_stages=4)
    source = tiny_model("vit", "ViTForImageClassification", {"num_hidden_layers": 4})
    made = learngene.initialize(stages=[3, 0, 0])
    assert torch.equal(made.vit.layers[0].mlp.fc1.weight, source.vit.layers[3].mlp.fc1.weight)
    assert torch.equal(made.vit.layers[2].mlp.fc1.weight, source.vit.layers[0].mlp.fc1.weight)
    assert made.vit.layers[1].mlp.fc1.weight is not made.vit.layers[2].mlp.fc1.weight


def test_the_auxiliary_models_own_stages_are_kept(tmp_path):
    source = tiny_model("vit", "ViTForImageClassification", {"num_hidden_layers": 4})
    learngene = AutoLearngene.from_ancestry(source, "sws", num_stages=2, stages=[0, 0, 0, 1], fit_layers="all")
    layer = learngene.initialize().vit.layers[2].mlp.fc1.weight
    torch.testing.assert_close(layer, sum(source.vit.layers[i].mlp.fc1.weight for i in range(3)) / 3)
    learngene.save_pretrained(tmp_path)
    again = AutoLearngene.from_pretrained(tmp_path)
    assert torch.equal(again.initialize().vit.layers[2].mlp.fc1.weight, layer)
    inputs = inputs_for(source)
    assert_close_for(again(**inputs).logits, learngene(**inputs).logits)


@pytest.mark.parametrize("fit_layers", ["picked", "all"])
def test_ones_own_stages_are_as_many_as_they_name(fit_layers):
    source = tiny_model("vit", "ViTForImageClassification", {"num_hidden_layers": 4})
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        learngene = AutoLearngene.from_ancestry(source, "sws", stages=[0, 0, 1, 1], fit_layers=fit_layers)
        assert learngene.num_groups() == learngene.config.num_stages == 2
        made.append(learngene.initialize(num_hidden_layers=6).state_dict())
    # of a stage that no layer uses, nothing is known: it would be random
    assert all(torch.equal(tensor, made[1][name]) for name, tensor in made[0].items())


def test_tleg_is_a_line_that_never_reaches_its_end():
    learngene = fitted("tleg")
    made = learngene.initialize(num_hidden_layers=4)
    base = learngene.shared.take("vit.layers.mlp.fc1.weight.base")
    slope = learngene.shared.take("vit.layers.mlp.fc1.weight.slope")
    for layer in range(4):
        torch.testing.assert_close(made.vit.layers[layer].mlp.fc1.weight, base + layer / 4 * slope)
    with torch.no_grad():
        for name, parameter in learngene.shared.named_parameters():
            if name.endswith(".slope"):
                parameter.zero_()
    same = learngene.initialize(num_hidden_layers=3)
    assert torch.equal(same.vit.layers[0].mlp.fc1.weight, same.vit.layers[2].mlp.fc1.weight)


def test_kronecker_products_keep_blocks_whole():
    learngene = fitted("wave")
    scalers = learngene.scalers.take("vit.layers.attention.q_proj.weight.scalers")
    templates = learngene.shared.take("vit.layers.attention.q_proj.weight.templates")
    made = learngene.initialize()
    for layer in range(3):
        wanted = sum(torch.kron(scalers[layer, t], templates[t]) for t in range(len(templates)))
        torch.testing.assert_close(made.vit.layers[layer].attention.q_proj.weight, wanted)


@pytest.mark.parametrize(
    ("kind", "depth", "options"),
    [("sws", 3, {"num_stages": 3}), ("fine", 1, {"rank": 24, "num_vectors": 1}),
     ("wave", 3, {"template_share": 1.0, "num_vectors": 64, "template_size": 8})],
)  # fmt: skip
def test_with_room_enough_a_fit_is_the_ancestry_model(kind, depth, options):
    source = tiny_model("vit", "ViTForImageClassification", {"num_hidden_layers": depth})
    learngene = AutoLearngene.from_ancestry(source, kind, **options)
    assert max(learngene.residuals.values()) < 1e-6
    inputs = inputs_for(source)
    assert float((learngene(**inputs).logits - source(**inputs).logits).detach().abs().max()) < 1e-6


def test_groups_of_factors_that_are_single_layers_hold_everything():
    source = tiny_model("vit", "ViTForImageClassification")
    learngene = AutoLearngene.from_ancestry(source, "fine", rank=24, num_vectors=3, num_groups=3)
    assert max(learngene.residuals.values()) < 1e-6
    made = learngene.initialize(num_hidden_layers=5)
    assert [
        i for i in range(5) if torch.allclose(made.vit.layers[i].mlp.fc1.weight, source.vit.layers[2].mlp.fc1.weight)
    ] == [4]
    other = learngene.for_size(num_hidden_layers=2)
    assert verify(learngene.initialize(num_hidden_layers=2), other.initialize(), inputs_for(source)).relative <= 1e-10


def test_a_fit_of_a_line_finds_the_line():
    first = fitted("tleg")
    again = AutoLearngene.from_ancestry(first.initialize(), "tleg", fit_layers="all")
    assert max(again.residuals.values()) < 1e-10


@pytest.mark.parametrize(
    ("kind", "options", "layers"),
    [("sws", {"num_stages": 3}, [0, 0, 2, 2, 5, 5]), ("sws", {"stages": [0, 1, 1, 1, 1, 2], "num_stages": 3}, [0, 2, 2, 2, 2, 5]),
     ("wave", {"template_share": 0.5, "template_size": 8}, [0, 0, 2, 2, 5, 5])],
)  # fmt: skip
def test_a_fit_to_picked_layers_keeps_them_whole(kind, options, layers):
    source = tiny_model("vit", "ViTForImageClassification", {"num_hidden_layers": 6})
    made = AutoLearngene.from_ancestry(source, kind, **options).initialize()
    tensors = dict(source.named_parameters())
    for name, tensor in made.named_parameters():
        if ".layers." in name:
            before, _, after = name.partition(".layers.")
            layer, _, rest = after.partition(".")
            torch.testing.assert_close(tensor, tensors[f"{before}.layers.{layers[int(layer)]}.{rest}"])


def test_templates_that_hold_less_than_two_layers_are_fitted_to_all():
    assert fitted("wave", extra={"num_hidden_layers": 4}, template_share=0.25).picked() is None


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10))
def test_truncated_rows_are_the_best_of_their_rank(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    for count in range(1, min(rows, columns) + 1):
        coefficients, shared = principal(matrix, count)
        dropped = torch.linalg.svdvals(matrix)[count:].pow(2).sum().sqrt()
        assert float((coefficients @ shared - matrix).norm()) == pytest.approx(float(dropped), abs=1e-6)


def test_more_rank_leaves_less_of_the_factors_residual():
    stack = torch.randn(4, 12, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left = []
    for rank in (2, 5, 10):
        u, v, sigma = shared_factors(stack, rank)
        left.append(float((torch.einsum("ir,lr,jr->lij", u, sigma, v) - stack).norm()))
    assert left == sorted(left, reverse=True)


@given(st.integers(1, 9), st.integers(1, 9))
def test_lines_through_depth_keep_their_ends(old, new):
    rows = torch.linspace(0, 1, old, dtype=torch.float64)[:, None].expand(old, 3)
    found = along_depth(rows, new)
    assert found.shape == (new, 3)
    assert torch.allclose(found[0], rows[0])
    if new > 1:
        assert torch.allclose(found[-1], rows[-1])
