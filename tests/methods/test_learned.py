"""LiGO and Mango: where they start, what they compute, what they refuse."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import plan, resize
from hf_learngene.errors import (
    DirectionError,
    InvalidSizeError,
    LossyGrowthError,
    TrainingDataError,
    UnknownOptionError,
)
from hf_learngene.resizing.build_model import build_model
from hf_learngene.resizing.outputs import in_float64
from hf_learngene.resizing.weights import Transfer
from hf_learngene.training.growing import GrowthStudent
from testing.examples import examples_for
from testing.families import inputs_for, tiny_model
from testing.method_tester import FEW_STEPS, methods_that
from testing.training import NO_DROPOUT


LEARNED = methods_that(learns=True)
RANKS = [("ligo", {}), ("mango", {}), ("mango", {"rank": 2})]
GROWN = {
    "vit": ("ViTForImageClassification", {"hidden_size": 40, "num_hidden_layers": 5}),  # pre-norm, at any width
    "bert": ("BertForMaskedLM", {"hidden_size": 48, "num_hidden_layers": 4}),  # post-norm, at whole multiples
    "deberta": ("DebertaForMaskedLM", {"hidden_size": 48}),  # q, k and v fused inside each head
    "modernbert": ("ModernBertForMaskedLM", {"hidden_size": 48, "num_hidden_layers": 6}),  # fused q, k, v, and a GLU
    "swin": ("SwinForImageClassification", {"embed_dim": 48}),  # stages
    "albert": ("AlbertForMaskedLM", {"hidden_size": 48}),  # one set of layers
}
TRIED = [*(("vit", *one) for one in RANKS), *(("bert", *one) for one in RANKS[::2]), *(("modernbert", *one) for one in RANKS[:2]),
         ("deberta", "ligo", {}), ("swin", "ligo", {}), ("albert", "ligo", {}), ("albert", "mango", {})]  # fmt: skip


def begun(model, name, fresh=(), **request):
    """Operator, pass and start of a growth, before anything is trained."""
    step = plan(model, method=name, **request).passes[0]
    transfer = Transfer(model, step)
    start = build_model(step.model_class, step.config, transfer.weights(), model, anatomy=step.task.target)
    source = dict(model.named_parameters(remove_duplicate=False))
    operator = step.method.operator(step.task, source, dict(start.named_parameters()), fresh)
    return operator, step, start


def moved(operator, scale=0.05):
    """The operator with every parameter somewhere else than it starts."""
    generator = torch.Generator().manual_seed(7)
    for parameter in operator.learned.values():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data += scale * noise
    return operator


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


# ---- the start


@pytest.mark.parametrize(("family", "name", "options"), TRIED)
def test_it_starts_as_the_exact_growth_and_every_parameter_has_a_gradient(family, name, options):
    class_name, sizes = GROWN[family]
    model = tiny_model(family, class_name)
    operator, step, start = begun(model, name, **options, **sizes)
    student = GrowthStudent(operator, start, {}, step.task.target.ties).eval()
    inputs = inputs_for(model)
    with in_float64():  # a few families have casts of their own
        made = student(**inputs).logits
        torch.testing.assert_close(made, logits_of(model, inputs), rtol=0, atol=1e-10)
        made.square().mean().backward()
    dead = [n for n, p in operator.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead
    assert operator.learned
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("name", "options"), RANKS)
def test_what_a_step_away_computes_is_another_function(name, options):
    """Or the start would be all that there is."""
    model = tiny_model("vit", "ViTForImageClassification")
    operator, step, start = begun(model, name, hidden_size=48, num_hidden_layers=5, **options)
    student = GrowthStudent(moved(operator), start, {}, step.task.target.ties).eval()
    inputs = inputs_for(model)
    assert (logits_of(student, inputs) - logits_of(model, inputs)).abs().max() > 1e-3


# ---- the formulas


EQUAL = {"symmetry": "equal", "hidden_size": 48, "num_hidden_layers": 5}


def copied(new, old, shared):
    """(new, old): each entry copied in turn; where it is read, each copy has an equal share."""
    place = torch.arange(new)
    rows = torch.zeros(new, old, dtype=torch.float64)
    rows[place, place % old] = old / new if shared else 1.0
    return rows


def ligo_matrix(factor, new, old, reads=False):
    """[I; learned rows] of LiGO: the learned ones beside the copies that an exact growth puts there."""
    learned = torch.cat([torch.zeros(old, old, dtype=torch.float64), factor])
    return copied(new, old, reads) + (learned * old / new if reads else learned)


@pytest.mark.parametrize(
    ("template", "out", "reads"),
    [
        ("vit.layers.{}.mlp.fc1.weight", "ffn/{}", "hidden"),
        ("vit.layers.{}.mlp.fc2.weight", "hidden", "ffn/{}"),
        ("vit.layers.{}.attention.k_proj.weight", "heads/k/{}", "hidden"),
        ("vit.layers.{}.attention.o_proj.weight", "hidden", "heads/v/{}"),
        ("vit.layers.{}.attention.v_proj.bias", "heads/v/{}", None),
        ("vit.layers.{}.layernorm_after.weight", "hidden", None),
    ],
)
def test_ligo_is_the_dense_equation_of_its_paper(template, out, reads):
    model = tiny_model("vit", "ViTForImageClassification")
    operator, step, _ = begun(model, "ligo", **EQUAL)
    made = moved(operator).weights()
    learned = {n: p.detach() for n, p in operator.learned.items()}
    source = {n: p.detach() for n, p in model.named_parameters()}
    wide = []
    for layer in range(3):
        tensor = source[template.format(layer)]
        factor = learned[f"width/{out.format(layer)}"]
        tensor = ligo_matrix(factor, len(factor) + factor.shape[1], factor.shape[1]) @ tensor
        if reads:
            factor = learned[f"width/{reads.format(layer)}"]
            tensor = tensor @ ligo_matrix(factor, len(factor) + factor.shape[1], factor.shape[1], reads=True).T
        wide.append(tensor)
    layers = step.task.layer_map
    writes = step.task.target.templates[template].writes_stream and "norm" not in template
    coefficients = learned["depth/" + template.replace(".{}", "").replace(".", "/")].clone()
    for row, layer in enumerate(layers):
        coefficients[row, layer.index] += 0.0 if layer.inserted and writes else 1.0
    wanted = torch.einsum("lj,j...->l...", coefficients, torch.stack(wide))
    for row in range(5):
        torch.testing.assert_close(made[template.format(row)].detach(), wanted[row], rtol=0, atol=1e-12)


def test_ligo_ties_what_the_residual_stream_ties():
    """Embeddings, norms, writers and readers in all layers take one factor of the width."""
    model = tiny_model("bert", "BertForMaskedLM")
    operator, _, _ = begun(model, "ligo", hidden_size=48)
    before = operator.weights()
    with torch.no_grad():
        operator.learned["width/hidden"] += 0.1
    changed = {n for n, t in operator.weights().items() if not torch.equal(t, before[n])}
    layer = "bert.encoder.layer.{}."
    norms, writers = ["output.LayerNorm.weight"], ["attention.output.dense.weight"]
    for name in (*norms, *writers, "attention.self.query.weight", "intermediate.dense.weight"):
        assert {(layer + name).format(i) for i in range(3)} <= changed
    assert {"bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.bias"} <= changed
    assert (layer + "attention.self.query.bias").format(0) not in changed


def mango_core(operator, name, start):
    """A core with the growth that it starts from in its first slice."""
    core = operator.learned[name].detach().clone()
    core[0, 0] += start
    return core


@pytest.mark.parametrize("rank", [1, 3])
def test_mango_is_a_tensor_ring_over_kinds_out_layers_and_in(rank):
    model = tiny_model("vit", "ViTForImageClassification")
    step = plan(model, method="mango", **EQUAL).passes[0]  # a rank of 3 costs more than this model: no plan has it
    method = type(step.method)(symmetry="equal", rank=rank)
    start = Transfer(model, step).weights()
    source = {n: p.detach() for n, p in model.named_parameters()}
    operator = method.operator(step.task, source, start)
    for name, tensor in operator.weights().items():
        torch.testing.assert_close(tensor.detach(), start[name], rtol=0, atol=1e-12)
    made = moved(operator).weights()
    inserted = torch.zeros(5, 3, dtype=torch.float64)
    for row, layer in enumerate(step.task.layer_map):
        inserted[row, layer.index] = 1.0
    kinds = ["q_proj", "k_proj", "v_proj"]
    packed = torch.stack(
        [torch.stack([source[f"vit.layers.{i}.attention.{k}.weight"] for i in range(3)]) for k in kinds]
    )
    wanted = torch.einsum(
        "rsbc,stxo,tulj,uryi,cjoi->blxy",
        mango_core(operator, "kinds/vit/layers/attention/q_proj/weight", torch.eye(3, dtype=torch.float64)),
        mango_core(operator, "out/heads", copied(48, 24, False)),
        mango_core(operator, "layers/3-5", inserted),
        mango_core(operator, "in/hidden", copied(48, 24, True)),
        packed,
    )
    for kind, name in enumerate(kinds):
        for layer in range(5):
            found = made[f"vit.layers.{layer}.attention.{name}.weight"].detach()
            torch.testing.assert_close(found, wanted[kind, layer], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", LEARNED)
def test_the_maps_say_all_but_what_no_map_of_the_source_could(name):
    """With equal shares at whole multiples an exact growth is linear: nothing is left beside the maps."""
    model = tiny_model("vit", "ViTForImageClassification")
    operator, step, _ = begun(model, name, **EQUAL)
    assert set(operator._rest) == set(step.task.target.tensors) - set(operator.made())
    noisy, _, _ = begun(model, name, **{**EQUAL, "symmetry": "proj"})
    assert "vit.layers.0.mlp.fc2.weight" in noisy._rest  # the noise that lets copies part


# ---- what it makes, and what it learns


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("family", ["vit", "bert"])
def test_the_plain_model_computes_what_the_operator_did(family, name):
    class_name, sizes = GROWN[family]
    model = tiny_model(family, class_name)
    operator, step, start = begun(model, name, **sizes)
    student = GrowthStudent(moved(operator), start, {}, step.task.target.ties).eval()
    inputs = inputs_for(model)
    wanted = logits_of(student, inputs)
    made = student.materialise()
    assert type(made) is type(model)
    torch.testing.assert_close(logits_of(made, inputs), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LEARNED)
def test_training_lowers_the_loss_below_the_start(name):
    model = tiny_model("vit", "ViTForImageClassification", NO_DROPOUT, dtype=torch.float32)
    data = examples_for(model, 32, labels=True)
    sizes = {"hidden_size": 48, "num_hidden_layers": 4}
    inputs = {
        "pixel_values": torch.stack([row["pixel_values"] for row in data]),
        "labels": torch.tensor([row["labels"] for row in data]),
    }
    training = {"max_steps": 20, "disable_tqdm": True}
    made = resize(model, method=name, train_dataset=data, training=training, **sizes)
    with torch.no_grad():
        before, after = model(**inputs).loss, made(**inputs).loss
    assert after < 0.8 * before


def test_a_head_for_other_labels_is_trained_with_the_maps():
    model = tiny_model("vit", "ViTForImageClassification", NO_DROPOUT, dtype=torch.float32)
    data = [{**row, "labels": i % 3} for i, row in enumerate(examples_for(model, 32))]
    grown = resize(model, method="lemon", hidden_size=48, num_labels=3)
    made = resize(model, method="ligo", hidden_size=48, num_labels=3, train_dataset=data, training=FEW_STEPS)
    assert made.classifier.weight.shape == (3, 48)
    assert not torch.equal(made.classifier.weight, grown.classifier.weight)
    assert made.config.learngene["fresh"] == ["classifier.weight", "classifier.bias"]


def test_the_source_could_teach_nothing_at_an_exact_start():
    """Why unlabelled examples are refused: the distance to the source has its least value, and no slope, there."""
    model = tiny_model("vit", "ViTForImageClassification")
    operator, step, start = begun(model, "ligo", hidden_size=48, num_hidden_layers=4)
    student = GrowthStudent(operator, start, {}, step.task.target.ties).eval()
    inputs = inputs_for(model)
    wanted = logits_of(model, inputs).softmax(-1)
    (-(wanted * student(**inputs).logits.log_softmax(-1)).sum(-1).mean()).backward()
    assert max(p.grad.abs().max() for p in operator.parameters()) < 1e-10


# ---- refusals


@pytest.fixture(scope="module")
def vit():
    return tiny_model("vit", "ViTForImageClassification", NO_DROPOUT, dtype=torch.float32)


@pytest.mark.parametrize("name", LEARNED)
def test_it_refuses_before_anything_is_trained(name, vit, monkeypatch):
    trained = []
    monkeypatch.setattr("hf_learngene.training.trainer.LearngeneTrainer.train", lambda *a, **k: trained.append(1))
    data = examples_for(vit, 8, labels=True)
    bare = examples_for(vit, 8)
    for error, words, request in (
        (TrainingDataError, "give train_dataset=", {}),
        (TrainingDataError, "without examples", {"train_dataset": []}),
        (TrainingDataError, "no loss .* examples with labels", {"train_dataset": bare}),
        (TrainingDataError, "processing_class", {"train_dataset": [{"text": "a"}]}),
        (TrainingDataError, "cannot be trained", {"train_dataset": [{**row, "labels": 9} for row in bare]}),
        (UnknownOptionError, "Did you mean 'max_steps'", {"train_dataset": data, "training": {"max_step": 1}}),
        (UnknownOptionError, "training= takes", {"train_dataset": data, "training": 100}),
    ):
        with pytest.raises(error, match=words):
            resize(vit, method=name, hidden_size=48, **request)
    assert not trained


@pytest.mark.parametrize("name", LEARNED)
def test_it_only_grows_and_something_has_to(name, vit):
    with pytest.raises(DirectionError, match="only grows .hidden_size 24 → 16.*calibrated"):
        plan(vit, method=name, hidden_size=16, num_attention_heads=2, intermediate_size=40)
    with pytest.raises(DirectionError, match="num_hidden_layers 3 → 2"):
        plan(vit, method=name, hidden_size=48, num_hidden_layers=2)
    with pytest.raises(InvalidSizeError, match="no size grows here.*num_hidden_layers=4"):
        plan(vit, method=name, image_size=24)


def test_an_operator_larger_than_its_model_is_refused(vit):
    with pytest.raises(InvalidSizeError, match="rank below 4.*lemon"):
        plan(vit, method="mango", rank=4, hidden_size=48)
    for rank in (0, 1.5, True):
        with pytest.raises(UnknownOptionError, match="rank is a whole number"):
            plan(vit, method="mango", rank=rank, hidden_size=48)


@pytest.mark.parametrize("given", [{"train_dataset": [1]}, {"training": {"max_steps": 1}}])
@pytest.mark.parametrize("method", ["auto", "lemon", "random"])
def test_data_for_a_method_that_learns_nothing_is_refused(method, given, vit):
    with pytest.raises(UnknownOptionError, match=f"'{method}' learns nothing.*ligo, mango"):
        resize(vit, method=method, hidden_size=48, **given)


def test_a_growth_that_is_not_exact_is_no_start():
    model = tiny_model("bert", "BertForMaskedLM")
    with pytest.raises(LossyGrowthError, match="multiple"):
        plan(model, method="ligo", hidden_size=40)
    assert plan(model, method="ligo", hidden_size=40, allow_lossy=True).method == "ligo"


def test_a_plan_says_what_is_learned(vit):
    made = plan(vit, method="ligo", hidden_size=48, num_hidden_layers=5)
    count = made.passes[0].method.operator_parameters(made.passes[0].task)
    assert f"learned on train_dataset=: {count:,} parameters" in str(made)
    assert count < made.num_parameters


# ---- side by side


def test_every_way_to_grow_is_called_alike(vit):
    """A comparison asks each method for the same sizes, and gives data to those that learn."""
    data = examples_for(vit, 8, labels=True)
    for name in ("bert2bert", "lemon", "ligo", "mango", "random", "stack"):
        sizes = {"num_hidden_layers": 6} if name == "stack" else {"hidden_size": 48, "num_hidden_layers": 6}
        more = {"train_dataset": data, "training": FEW_STEPS} if name in LEARNED else {}
        made = resize(vit, method=name, seed=1, **more, **sizes)
        assert made.config.num_hidden_layers == 6
