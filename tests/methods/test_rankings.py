"""The rankings people know, each against its rule written out once more with plain hooks and a plain backward pass."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import errors, plan, resize
from hf_learngene.calibration.examples import Examples
from hf_learngene.pruning.criteria import Scores
from testing.examples import examples_for
from testing.families import tiny_model


def vit(**extra):
    return tiny_model("vit", "ViTForImageClassification", extra or None)


def bert():
    return tiny_model("bert", "BertForSequenceClassification")


def pictures(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (3, vit().config.image_size, vit().config.image_size)
    return [
        {"pixel_values": torch.randn(*shape, generator=generator, dtype=torch.float64), "labels": i % 2}
        for i in range(count)
    ]


def texts(count=40):
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(5, 60, (6 + i % 4,), generator=generator).tolist(), "label": i % 2}
        for i in range(count)
    ]


def seen(model, modules, rows, kind):
    """Inputs or outputs of modules, example by example, so that nothing is padded."""
    found = {name: [] for name in modules}
    handles = []
    for name in modules:

        def hook(module, args, result, name=name):
            found[name].append((args[0] if kind == "in" else result).detach()[0])

        handles.append(model.get_submodule(name).register_forward_hook(hook))
    for row in rows:
        key = "pixel_values" if "pixel_values" in row else "input_ids"
        with torch.no_grad():
            model(torch.as_tensor(row[key])[None])
    for handle in handles:
        handle.remove()
    return found


def norm_of_means(values):
    return torch.stack([v.abs().mean(0) for v in values]).pow(2).sum(0).sqrt()


def top(scores, keep):
    return scores.topk(keep).indices.sort().values


VIT = {"norms": ("layernorm_before", "layernorm_after"), "out": "mlp.fc2", "o": "attention.o_proj", "in": "mlp.fc1"}


def test_minitron_keeps_what_is_most_active():
    model, rows = vit(), pictures()
    made = resize(
        model, method="minitron", calibration=rows, hidden_size=16, intermediate_size=20, num_attention_heads=2
    )
    layers = range(3)
    norms = [f"vit.layers.{i}.{n}" for i in layers for n in VIT["norms"]] + ["vit.layernorm"]
    stream = sum(norm_of_means(v) for v in seen(model, norms, rows, "out").values())
    kept = top(stream, 16)
    torch.testing.assert_close(made.vit.embeddings.cls_token, model.vit.embeddings.cls_token[..., kept])
    units = seen(model, [f"vit.layers.{i}.mlp.fc2" for i in layers], rows, "in")
    heads = seen(model, [f"vit.layers.{i}.attention.o_proj" for i in layers], rows, "in")
    for i in layers:
        chosen = top(norm_of_means(units[f"vit.layers.{i}.mlp.fc2"]), 20)
        wanted = model.vit.layers[i].mlp.fc1.weight[chosen][:, kept]
        torch.testing.assert_close(made.vit.layers[i].mlp.fc1.weight, wanted)
        each = norm_of_means(heads[f"vit.layers.{i}.attention.o_proj"]).reshape(3, 8).pow(2).sum(1)
        rows_kept = (top(each, 2)[:, None] * 8 + torch.arange(8)).flatten()
        wanted = model.vit.layers[i].attention.q_proj.weight[rows_kept][:, kept]
        torch.testing.assert_close(made.vit.layers[i].attention.q_proj.weight, wanted)


@pytest.mark.parametrize("method", ["minitron", "shortgpt"])
@pytest.mark.parametrize("family", ["vit", "bert"])
def test_layers_that_turn_the_stream_least_leave(method, family):
    model = vit(num_hidden_layers=5) if family == "vit" else bert()
    rows = pictures() if family == "vit" else texts()
    container = "vit.layers" if family == "vit" else "bert.encoder.layer"
    depth = model.config.num_hidden_layers
    made = resize(model, method=method, calibration=rows, num_hidden_layers=depth - 1)
    names = [f"{container}.{i}" for i in range(depth)]
    before, after = seen(model, names, rows, "in"), seen(model, names, rows, "out")
    influence = []
    for name in names:
        a, b = torch.cat(before[name]), torch.cat(after[name])
        influence.append(float((1 - torch.cosine_similarity(a, b, dim=-1)).mean()))
    kept = sorted(sorted(range(depth), key=lambda i: -influence[i])[: depth - 1])
    assert made.config.learngene["passes"][0]["options"]["layers"] == kept


def test_l2_keeps_the_largest_weights_and_needs_no_examples():
    model = vit()
    made = resize(model, method="l2", intermediate_size=20, num_attention_heads=2, head_dim=8)
    for i in range(3):
        block, small = model.vit.layers[i], made.vit.layers[i]
        squares = block.mlp.fc1.weight.pow(2).sum(1) + block.mlp.fc1.bias.pow(2) + block.mlp.fc2.weight.pow(2).sum(0)
        torch.testing.assert_close(small.mlp.fc1.bias, block.mlp.fc1.bias[top(squares.detach(), 20)])
        a = block.attention
        flat = a.o_proj.weight.pow(2).sum(0)
        flat = flat + sum(m.weight.pow(2).sum(1) + m.bias.pow(2) for m in (a.q_proj, a.k_proj, a.v_proj))
        heads = top(flat.detach().reshape(3, 8).sum(1), 2)
        torch.testing.assert_close(small.attention.q_proj.bias, a.q_proj.bias.reshape(3, 8)[heads].flatten())


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_taylor_keeps_what_the_loss_would_miss(family):
    model = vit() if family == "vit" else bert()
    rows = pictures() if family == "vit" else texts()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    made = resize(model, method="taylor", calibration=rows, intermediate_size=20)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in model.named_parameters())
    for row in rows:
        key = "pixel_values" if family == "vit" else "input_ids"
        label = torch.tensor([row.get("labels", row.get("label"))])
        model(torch.as_tensor(row[key])[None], labels=label).loss.backward()
    for i in range(model.config.num_hidden_layers):
        first, second, small = (
            (model.vit.layers[i].mlp.fc1, model.vit.layers[i].mlp.fc2, made.vit.layers[i].mlp.fc1)
            if family == "vit"
            else (
                model.bert.encoder.layer[i].intermediate.dense,
                model.bert.encoder.layer[i].output.dense,
                made.bert.encoder.layer[i].intermediate.dense,
            )
        )
        scores = (first.weight * first.weight.grad).abs().sum(1) + (first.bias * first.bias.grad).abs()
        scores = scores + (second.weight * second.weight.grad).abs().sum(0)
        torch.testing.assert_close(small.bias, first.bias[top(scores.detach(), 20)])


@pytest.mark.parametrize(
    ("family", "name", "sizes"),
    [
        ("albert", "AlbertForSequenceClassification", {"hidden_size": 16, "intermediate_size": 20}),
        ("deberta", "DebertaForSequenceClassification", {"hidden_size": 16}),
        ("modernbert", "ModernBertForSequenceClassification", {"hidden_size": 16, "num_hidden_layers": 2}),
        ("bert", "BertForMaskedLM", {"hidden_size": 12, "num_attention_heads": 3}),
        ("mobilebert", "MobileBertModel", {"hidden_size": 16}),  # its attention has a width of its own
    ],
)
@pytest.mark.parametrize("method", ["minitron", "l2"])
def test_every_family_is_ranked(family, name, sizes, method):
    model = tiny_model(family, name)
    given = {"calibration": texts()} if method == "minitron" else {}
    made = resize(model, method=method, **sizes, **given)
    evenly = resize(model, method="weight_selection", **sizes)
    assert made.config.hidden_size == evenly.config.hidden_size
    assert any(not torch.equal(a, b) for a, b in zip(made.parameters(), evenly.parameters(), strict=True))


def test_shared_layers_are_ranked_too():
    model = tiny_model("albert", "AlbertForSequenceClassification")
    group = model.albert.encoder.albert_layer_groups[0].albert_layers[0]
    with torch.no_grad():
        group.ffn.weight[20:] *= 1e-3
        group.ffn.bias[20:] *= 1e-3
        group.ffn_output.weight[:, 20:] *= 1e-3
    made = resize(model, method="l2", intermediate_size=20)
    kept = made.albert.encoder.albert_layer_groups[0].albert_layers[0]
    torch.testing.assert_close(kept.ffn.bias, group.ffn.bias[:20])


def test_a_head_size_is_picked_inside_each_head():
    model = vit()
    with torch.no_grad():
        for block in model.vit.layers:
            for module in (block.attention.q_proj, block.attention.k_proj, block.attention.v_proj):
                module.weight.reshape(3, 8, -1)[:, :4] *= 1e-3
                module.bias.reshape(3, 8)[:, :4] *= 1e-3
            block.attention.o_proj.weight.reshape(-1, 3, 8)[..., :4] *= 1e-3
    made = resize(model, method="l2", num_attention_heads=3, head_dim=4)
    for small, block in zip(made.vit.layers, model.vit.layers, strict=True):
        torch.testing.assert_close(
            small.attention.k_proj.bias, block.attention.k_proj.bias.reshape(3, 8)[:, 4:].flatten()
        )


def test_of_equal_scores_the_first_stays():
    assert Scores(torch.ones(4), torch.ones(2)).kept_layers(2) == (0, 1)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"method": "taylor", "calibration": [{"input_ids": [5, 6, 7]}] * 4}, errors.CalibrationError, "have no labels"),
        ({"method": "taylor"}, errors.CalibrationError, "with labels"),
        ({"method": "minitron", "calibration": None}, errors.CalibrationError, "without labels"),
        ({"method": "l2", "calibration": [{"input_ids": [5]}]}, errors.UnknownOptionError, "'l2' looks at no examples"),
        ({"method": "shortgpt", "calibration": texts(4)}, errors.DirectionError, "drops whole layers.*minitron"),
        ({"method": "minitron", "calibration": texts(4), "intermediate_size": 80}, errors.DirectionError, "cannot grow"),
        ({"method": "l2", "num_attention_heads": 2}, errors.DirectionError,
         "keeps heads whole: 3 of 8 cannot become 2 of 12. Give hidden_size=16 too, or .*'weight_selection'"),
    ],
)  # fmt: skip
def test_what_a_ranking_cannot_do_is_said(given, error, message):
    with pytest.raises(error, match=message):
        resize(bert(), **{"intermediate_size": 20, **given})


@pytest.mark.parametrize("method", ["minitron", "wanda"])
def test_a_ranking_looks_at_nothing_but_what_it_is_given(method):
    made = resize(vit(), method=method, calibration=pictures(6), hidden_size=16)
    assert made.config.learngene["calibration"]["count"] == 6
    refitted = resize(vit(), method="calibrated", calibration=pictures(6), hidden_size=16)
    assert refitted.config.learngene["calibration"]["count"] > 6


def test_labels_are_handed_on_only_where_asked_for():
    assert "labels" not in next(Examples(texts(), bert()).batches())
    assert next(Examples(texts(), bert(), labels=True).batches())["labels"].tolist()[:2] == [0, 1]


def test_a_plan_needs_no_examples():
    assert "selected 20 of 40" in str(plan(bert(), method="minitron", intermediate_size=20))


@pytest.mark.parametrize("method", ["minitron", "shortgpt"])
def test_layers_are_ranked_where_a_family_lengthens_its_texts(method):
    """Longformer fills texts up to whole windows, so its layers see more tokens than the mask has."""
    source = tiny_model("longformer", "LongformerForSequenceClassification")
    small = resize(source, method=method, calibration=examples_for(source, 24), num_hidden_layers=2)
    assert small.config.num_hidden_layers == 2
