"""A model grown together with its optimizer: its moments are those of gradients that the larger model has."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator

from hf_learngene import plan, resize_with_optimizer
from hf_learngene.errors import LossyGrowthError, TrainingStateError, UnknownOptionError
from hf_learngene.maps.linear import LinearRecipe
from hf_learngene.resizing.execute import execute
from hf_learngene.resizing.optimizer_states import FollowingStates, OptimizerStates
from testing.families import inputs_for, tiny_model
from testing.hierarchies import deeper, tiny_hierarchy, wider
from testing.numerics import EXACT


BERT, VIT = ("bert", "BertForMaskedLM"), ("vit", "ViTForImageClassification")
EQUAL = {"method": "lemon", "symmetry": "equal"}


def loss_of(model):
    """A loss that every logit has a part in; float64."""
    logits = model(**inputs_for(model)).logits.flatten()
    weights = torch.randn(len(logits), generator=torch.Generator().manual_seed(0), dtype=logits.dtype)
    return (logits.sin() * weights).sum()


def gradients(model):
    model.zero_grad()
    loss_of(model.eval()).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


def grown_with(model, **sizes):
    """The grown model, the pass that made it, and the states that are the source's gradient, carried."""
    own = gradients(model)
    states = {n: {"step": torch.tensor(7.0), "exp_avg": g, "exp_avg_sq": g**2} for n, g in own.items()}
    steps, following = [], FollowingStates(OptimizerStates(states, [{}], [list(own)]), sizes.pop("reset", None))

    def follow(step, source):
        steps.append(step)
        following(step, source)

    made = execute(plan(model, **sizes), model, follow=follow)
    return made, steps[0], following.states.states


WHOLE = [
    (*BERT, {"hidden_size": 48}),
    (*BERT, {"hidden_size": 72, "intermediate_size": 100}),
    (*BERT, {"hidden_size": 48, "num_attention_heads": 3}),  # larger heads, whose new entries nothing reads
    (*BERT, {"max_position_embeddings": 60}),
    (*VIT, {"hidden_size": 48}),
    (*VIT, {"intermediate_size": 50}),
    ("modernbert", "ModernBertForMaskedLM", {"hidden_size": 48}),
    ("eurobert", "EuroBertForMaskedLM", {"hidden_size": 48}),
    ("beit", "BeitForImageClassification", {"hidden_size": 48}),
    ("deberta-v2", "DebertaV2ForMaskedLM", {"hidden_size": 48}),
]


@pytest.mark.parametrize(("kind", "name", "sizes"), WHOLE)
def test_the_carried_gradient_is_the_gradient(kind, name, sizes):
    # of whole copies with equal shares, entry by entry; where a tensor has new entries, of the others
    model = tiny_model(kind, name)
    grown, step, states = grown_with(model, **EQUAL, **sizes)
    found, exact = gradients(grown), 1e-6 if kind == "eurobert" else EXACT  # whose norms compute in float32
    largest = max(float(g.abs().max()) for g in found.values())
    for target, gradient in found.items():
        moments = states[target]
        old = moments["exp_avg"] != 0 if "num_attention_heads" in sizes else torch.full_like(gradient, True).bool()
        assert (moments["exp_avg"] - gradient)[old].abs().max() <= exact * largest, target
        assert (moments["exp_avg_sq"] - moments["exp_avg"] ** 2).abs().max() <= exact * largest**2, target
        assert moments["step"] == 7


def test_copied_heads_follow_where_they_are_whole_copies():
    model = tiny_model(*BERT)
    grown, _, states = grown_with(model, method="hyperclone", hidden_size=48, num_attention_heads=3)
    found = gradients(grown)
    for target, gradient in found.items():
        torch.testing.assert_close(states[target]["exp_avg"], gradient, rtol=0, atol=1e-9, msg=target)


ANY = [
    (*BERT, {"hidden_size": 48}),
    (*BERT, {"hidden_size": 48, "symmetry": "comp"}),
    (*BERT, {"num_hidden_layers": 7}),
    (*VIT, {"hidden_size": 32, "num_attention_heads": 4}),
    (*VIT, {"hidden_size": 48, "num_hidden_layers": 5, "depth": "cancelzero"}),
    ("dinov2", "Dinov2ForImageClassification", {"hidden_size": 48, "num_hidden_layers": 4}),
    ("swinv2", "Swinv2ForImageClassification", {}),
    ("convnext", "ConvNextForImageClassification", {}),
]


@pytest.mark.parametrize(("kind", "name", "sizes"), ANY)
def test_gradients_and_what_is_carried_both_pull_back_to_the_source(kind, name, sizes):
    # along any change of the source, both models' losses change alike; and what is carried has just that derivative
    model = tiny_model(kind, name) if sizes else tiny_hierarchy(kind, name)
    own = gradients(model)
    grown, step, states = grown_with(model, method="lemon", **(sizes or wider(model) | deeper(model)))
    found, weights = gradients(grown), dict(model.named_parameters())
    change = {n: torch.randn_like(p) for n, p in weights.items()}
    pulled, carried = (dict.fromkeys(own, 0.0) for _ in range(2))
    for recipe in step.recipes:
        moved = LinearRecipe.of(recipe, lambda n: weights[n].detach())
        with torch.no_grad():
            part = moved(change[moved.source])
            pulled[moved.source] += float((part * found[recipe.name]).sum())
            if recipe.name in states:
                carried[moved.source] += float((part * states[recipe.name]["exp_avg"]).sum())
    scale = max(float(g.norm()) for g in own.values())
    for source, gradient in own.items():
        wanted = float((change[source] * gradient).sum())
        allowed = 1e-9 * scale * float(change[source].norm())  # new layers of BERT are exact up to epsilon
        assert abs(carried[source] - wanted) <= allowed, source
        assert abs(pulled[source] - wanted) <= allowed, source


def trained(model, steps=3, make=torch.optim.AdamW, **options):
    optimizer = make(model.parameters(), lr=1e-3, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", [BERT, VIT])
def test_an_inserted_layer_has_no_state_and_the_others_keep_theirs(kind):
    model = tiny_model(*kind)
    _, step, states = grown_with(model, **EQUAL, num_hidden_layers=4)
    layers = step.task.layer_map
    for target, tensor in step.task.target.tensors.items():
        new = tensor.layer is not None and layers[tensor.layer].inserted
        closing = "output.LayerNorm" in target and "attention" not in target and kind is BERT
        if closing and tensor.layer in (2, 3):  # the inserted layer has the affine part, and its moments
            new = not new
        assert (target in states) == (not new), target


def test_new_entries_and_copies_that_start_anew_are_zero():
    model = tiny_model(*VIT)
    _, _, kept = grown_with(model, method="lemon", hidden_size=32, num_attention_heads=4, intermediate_size=60)
    _, _, reset = grown_with(
        model, method="lemon", hidden_size=32, num_attention_heads=4, intermediate_size=60, reset="copies"
    )
    up, down = (f"vit.layers.0.mlp.{n}.weight" for n in ("fc1", "fc2"))
    assert not kept[up]["exp_avg"][:, 24:].any()
    assert not kept[up]["exp_avg_sq"][:, 24:].any()
    assert kept[up]["exp_avg"][40:, :24].all()
    for moment in ("exp_avg", "exp_avg_sq"):
        assert not reset[up][moment][40:].any()
        assert not reset[down][moment][:, 40:].any()
        assert torch.equal(reset[up][moment][:40, :24], kept[up][moment][:40, :24])
    everything = grown_with(model, method="lemon", hidden_size=32, num_attention_heads=4, reset="all")[2]
    assert everything == {}


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RAdam])
def test_a_loop_goes_on_with_the_same_loss(make):
    model = tiny_model(*BERT, dtype=torch.float32).train()
    optimizer = trained(model, make=make, weight_decay=0.1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grown, made = resize_with_optimizer(model, optimizer, hidden_size=48, num_hidden_layers=4)
    assert type(made) is make
    assert grown.training
    assert {k: v for k, v in made.param_groups[0].items() if k != "params"} == {
        k: v for k, v in optimizer.param_groups[0].items() if k != "params"
    }
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
    with torch.no_grad():
        torch.testing.assert_close(loss_of(grown.eval()), loss_of(model.eval()), rtol=1e-5, atol=1e-4)
    loss_of(grown).backward()
    made.step()
    state = made.state[grown.bert.encoder.layer[0].output.dense.weight]
    assert state["step"] == 4
    assert state["exp_avg"].shape == (48, 80)
    assert made.state[grown.bert.encoder.layer[3].output.dense.weight]["step"] == 1
    assert len(optimizer.state[model.bert.encoder.layer[0].output.dense.weight]) == 3
    assert optimizer.state[model.bert.encoder.layer[0].output.dense.weight]["step"] == 3


def test_frozen_parameters_and_groups_of_ones_own():
    model = tiny_model(*BERT, dtype=torch.float32)
    model.bert.embeddings.requires_grad_(False)
    layers = [p for n, p in model.named_parameters() if "layer" in n]
    head = [p for n, p in model.named_parameters() if n.startswith("cls.") and p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": head, "lr": 1e-2}, {"params": layers[::-1]}], lr=1e-3, amsgrad=True)
    loss_of(model).backward()
    optimizer.step()
    grown, made = resize_with_optimizer(model, optimizer, hidden_size=48)
    assert [g["lr"] for g in made.param_groups] == [1e-2, 1e-3]
    assert [len(g["params"]) for g in made.param_groups] == [len(head), len(layers)]
    assert not grown.bert.embeddings.word_embeddings.weight.requires_grad
    assert all(p.requires_grad for p in grown.bert.encoder.parameters())
    weight = grown.bert.encoder.layer[1].attention.self.query.weight
    assert made.state[weight]["max_exp_avg_sq"].shape == (48, 48)


def test_a_parameter_that_never_had_a_gradient_has_no_state_after_either():
    model = tiny_model("bert", "BertForSequenceClassification", dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    model.bert.pooler.requires_grad_(False)
    loss_of(model).backward()
    optimizer.step()
    grown, made = resize_with_optimizer(model, optimizer, hidden_size=48)
    assert grown.bert.pooler.dense.weight in set(made.param_groups[0]["params"])
    assert grown.bert.pooler.dense.weight not in made.state
    assert grown.classifier.weight in made.state


def test_what_accelerate_wrapped_is_taken_out():
    model = tiny_model(*BERT, dtype=torch.float32)
    wrapped = Accelerator(cpu=True).prepare_optimizer(trained(model))
    _, made = resize_with_optimizer(model, wrapped, hidden_size=48)
    assert type(made) is torch.optim.AdamW
    assert made.state


REFUSED = [
    ({"hidden_size": 16, "num_attention_heads": 2}, "Only growth"),
    ({"num_hidden_layers": 2}, "Only growth"),
    ({"num_hidden_layers": 6, "method": "stack"}, "Only growth"),
    ({"hidden_size": 36, "num_attention_heads": 3, "method": "lemon", "allow_lossy": True}, "Only growth"),
    ({"hidden_size": 48, "vocab_size": 70}, "do not follow"),
    ({"method": "lemon", "hidden_size": 48, "max_position_embeddings": 20}, "do not follow"),
    ({"hidden_size": 48, "reset": "copy"}, "Did you mean 'copies'"),
    ({}, "Only growth"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_what_would_be_another_training_is_refused(given, said):
    model = tiny_model(*BERT, dtype=torch.float32)
    with pytest.raises(TrainingStateError, match=said):
        resize_with_optimizer(model, trained(model, steps=1), **given)


def test_other_optimizers_and_other_models_are_refused():
    model = tiny_model(*BERT, dtype=torch.float32)
    for make in (torch.optim.NAdam, torch.optim.Adamax, torch.optim.SGD):
        optimizer = trained(model, make=make, **({"momentum": 0.9} if make is torch.optim.SGD else {}))
        with pytest.raises(TrainingStateError, match="nothing else does"):
            resize_with_optimizer(model, optimizer, hidden_size=48)
    with pytest.raises(TrainingStateError, match="that the model has not"):
        resize_with_optimizer(copy.deepcopy(model), trained(model), hidden_size=48)
    with pytest.raises(LossyGrowthError):
        resize_with_optimizer(model, trained(model), hidden_size=36, num_attention_heads=3)
    with pytest.raises(UnknownOptionError):
        resize_with_optimizer(model, trained(model), hidden_size=48, params=100)
