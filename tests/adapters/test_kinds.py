"""Each kind of adapter, each axis and each method: what follows exactly, and what is selected."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
import transformers

from hf_learngene import AutoModelForSequenceClassification, resize, resize_adapter
from hf_learngene.errors import AdapterError
from testing.adapters import adapted, assert_same_logits, lora, output, reloaded
from testing.families import inputs_for, randomise, tiny_model


BERT, VIT = ("bert", "BertForSequenceClassification"), ("vit", "ViTForImageClassification")
MODERN = ("modernbert", "ModernBertForMaskedLM")  # q, k and v are fused, and so are gate and value
WIDER = {"hidden_size": 48, "num_attention_heads": 6}
LARGER_HEADS = {"hidden_size": 48, "num_attention_heads": 3}


def merged(model):
    """The base with a copy of the adapter merged into it."""
    return copy.deepcopy(model).merge_and_unload()


AXES = {
    "heads": WIDER,
    "head_size": LARGER_HEADS,
    "ffn": {"intermediate_size": 100},
    "depth": {"num_hidden_layers": 5},
}


@pytest.mark.parametrize(
    ("family", "axis"),
    # ModernBERT rotates its heads, and has no larger ones
    [(f, axis) for f in (BERT, VIT, MODERN) for axis in AXES if (f, axis) != (MODERN, "head_size")],
    ids=lambda v: v if isinstance(v, str) else v[0],
)
def test_each_axis_is_exact_alone(family, axis):
    model = tiny_model(*family)
    source = adapted(model, lora())
    assert_same_logits(resize(source, method="lemon", **AXES[axis]), source, model)


def test_a_width_that_is_no_multiple_is_exact_where_its_base_is():
    model = tiny_model(*VIT)
    source = adapted(model, lora())
    assert_same_logits(resize(source, method="lemon", hidden_size=40, num_attention_heads=5), source, model)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "hyperclone", "snr": 10.0, **WIDER},
        {"method": "bert2bert", "expansion": "fpi", **WIDER},
        {"method": "lemon", "symmetry": "comp", **WIDER},
        {"method": "lemon", "symmetry": "equal", **WIDER},
        {"method": "lemon", "depth": "cancelzero", "num_hidden_layers": 4, **WIDER},
    ],
    ids=lambda o: "-".join(map(str, list(o.values())[:2])),
)
def test_other_ways_to_grow_are_followed(options):
    model = tiny_model(*VIT)
    source = adapted(model, lora())
    made = resize(source, **options)
    assert_same_logits(made, source, model)
    assert_same_logits(resize_adapter(source, resize(model, **options)), source, model)


def test_embeddings_convolutions_biases_and_ranks_of_their_own_follow(tmp_path):
    model = tiny_model(*BERT)
    config = lora(
        "query",
        "output.dense",
        "word_embeddings",
        rank_pattern={r"layer.1.attention.self.query": 4},
        alpha_pattern={r"layer.2.output.dense": 5},
        use_rslora=True,
    )
    source = adapted(model, config)
    grown = resize(model, method="lemon", num_hidden_layers=5, **WIDER)
    base = copy.deepcopy(grown)
    source.save_pretrained(tmp_path / "source")  # with the embeddings of its base, which peft adds
    made = resize_adapter(tmp_path / "source", grown, model)
    assert_same_logits(made, source, model)
    assert_same_logits(reloaded(made, base, tmp_path / "made"), source, model)
    # the layer that was the second has moved up, and its rank with it
    ranks = [layer.attention.self.query.r["default"] for layer in made.get_base_model().bert.encoder.layer]
    assert ranks == [2, 4, 4, 2, 2]

    vit = tiny_model(*VIT)
    source = adapted(vit, lora("projection", "o_proj", lora_bias=True, bias="all"))
    assert_same_logits(resize(source, method="lemon", num_hidden_layers=4, **WIDER), source, vit)


@pytest.mark.parametrize(
    "config",
    [lora("decoder"), lora("word_embeddings", "decoder"), lora("query", modules_to_save=["decoder"])],
    ids=["decoder", "both", "whole"],
)
def test_a_tied_decoder_is_no_more_tied_where_the_adapter_changes_it(config, tmp_path):
    model = tiny_model("bert", "BertForMaskedLM")
    source = adapted(model, config)
    assert (output(source, model) - output(model, model)).abs().max() > 1e-3
    grown = resize(model, method="lemon", num_hidden_layers=4, **WIDER)
    base = copy.deepcopy(grown)
    made = resize_adapter(source, grown)
    assert_same_logits(made, source, model)
    assert_same_logits(reloaded(made, base, tmp_path), source, model)


def test_a_scale_that_was_set_by_hand_is_written_to_the_settings(tmp_path):
    model = tiny_model(*VIT)
    source = adapted(model, lora("q_proj", "fc1"))
    plain = output(source, model)
    for module in source.modules():
        if hasattr(module, "lora_A"):
            module.set_scale("default", 0.5)
    assert (output(source, model) - plain).abs().max() > 1e-3
    grown = resize(model, method="lemon", intermediate_size=96)
    base = copy.deepcopy(grown)
    assert_same_logits(reloaded(resize_adapter(source, grown), base, tmp_path), source, model)


def test_layers_and_patterns_follow_the_layers(tmp_path):
    model = tiny_model(*BERT)
    source = adapted(model, lora("query", "value", layers_to_transform=[2], layers_pattern="layer"))
    grown = resize(model, method="lemon", num_hidden_layers=5)
    base = copy.deepcopy(grown)
    made = resize_adapter(source, grown)
    assert_same_logits(reloaded(made, base, tmp_path), source, model)
    names = {n for n, m in made.get_base_model().named_modules() if hasattr(m, "lora_A")}
    assert names == {f"bert.encoder.layer.{i}.attention.self.{n}" for i in (3, 4) for n in ("query", "value")}


@pytest.mark.parametrize("together", [True, False])
def test_what_is_saved_whole_goes_through_the_whole_recipe(together, tmp_path):
    model = tiny_model(*BERT)
    source = adapted(model, lora("query", modules_to_save=["classifier", "pooler"], bias="all"))
    sizes = {"method": "lemon", "num_hidden_layers": 4, **WIDER}
    if together:
        made = resize(source, **sizes)
    else:
        base = resize(model, **sizes)
        made = reloaded(resize_adapter(source, copy.deepcopy(base), model), base, tmp_path)
    assert_same_logits(made, source, model)
    untouched = made.get_base_model().classifier.original_module.weight
    assert torch.equal(untouched, resize(model, **sizes).classifier.weight)


@pytest.mark.parametrize("family", [BERT, VIT], ids=lambda f: f[0])
def test_dora_follows_where_every_row_has_a_direction(family, tmp_path):
    model = tiny_model(*family)
    names = ("query", "intermediate.dense") if family == BERT else ("q_proj", "v_proj", "fc1")
    source = adapted(model, lora(*names, use_dora=True))
    plain = adapted(model, lora(*names))
    assert (output(source, model) - output(plain, model)).abs().max() > 1e-3
    grown = resize(model, method="lemon", num_hidden_layers=4, **WIDER)
    base = copy.deepcopy(grown)
    made = resize_adapter(source, grown)
    assert_same_logits(made, source, model)
    assert_same_logits(reloaded(made, base, tmp_path), source, model)
    assert_same_logits(merged(made), source, model)


def test_dora_does_without_the_writers_of_new_layers():
    model = tiny_model(*VIT)
    source = adapted(model, lora("fc2", use_dora=True))
    made = resize(source, method="lemon", num_hidden_layers=5)
    assert_same_logits(made, source, model)
    assert sum(hasattr(m, "lora_A") for m in made.get_base_model().modules()) == 3


def test_dora_is_refused_where_it_would_not_be_exact():
    model = tiny_model(*VIT)
    wide = {"method": "lemon", "hidden_size": 40, "num_attention_heads": 5}
    with pytest.raises(AdapterError, match=r"nearest is off by .*merge_and_unload"):
        resize(adapted(model, lora("fc2", use_dora=True)), **wide)  # new rows are the mean of all
    keys = adapted(model, lora("k_proj", use_dora=True))
    assert_same_logits(resize(keys, method="lemon", **LARGER_HEADS), keys, model)  # noise gives new rows a direction
    with pytest.raises(AdapterError, match=r"rows of zeros .*merge_and_unload"):
        resize(keys, method="lemon", symmetry="equal", **LARGER_HEADS)


@pytest.mark.parametrize("family", [BERT, VIT], ids=lambda f: f[0])
def test_ia3_follows(family, tmp_path):
    model = tiny_model(*family)
    if family == BERT:  # of the layers' outputs the outputs are scaled, and elsewhere what is read
        read = [f"layer.{i}.intermediate.dense" for i in range(3)]
        config = peft.IA3Config(target_modules=["key", "value", "output.dense", *read], feedforward_modules=read)
    else:
        config = peft.IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"])
    source = adapted(model, config)
    grown = resize(model, method="lemon", num_hidden_layers=5, **WIDER)
    base = copy.deepcopy(grown)
    made = resize_adapter(source, grown)
    assert_same_logits(made, source, model)
    assert_same_logits(reloaded(made, base, tmp_path), source, model)


@pytest.mark.parametrize("family", [BERT, VIT, MODERN], ids=lambda f: f[0])
def test_a_selection_selects_the_adapter_too(family):
    model = tiny_model(*family)
    source = adapted(model, lora())
    sizes = {"method": "weight_selection", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    made = resize(source, **sizes)
    wanted = resize(merged(source), **sizes)  # entries of the sum are the sum of entries
    assert_same_logits(made, wanted, wanted)
    assert_same_logits(resize_adapter(source, resize(model, **sizes)), wanted, wanted)
    assert made.peft_config["default"].r == 2


@pytest.mark.parametrize(
    "config",
    [lora(use_dora=True), peft.IA3Config(target_modules=["k_proj", "fc1", "fc2"], feedforward_modules=["fc2"])],
    ids=["dora", "ia3"],
)
def test_a_selection_selects_what_multiplies_too(config):
    model = tiny_model(*VIT)
    source = adapted(model, config)
    sizes = {"method": "weight_selection", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    wanted = resize(merged(source), **sizes)
    assert_same_logits(resize(source, **sizes), wanted, wanted)


def test_images_of_another_size_and_mixed_sizes_are_followed():
    model = tiny_model(*VIT)
    source = adapted(model, lora("projection", "q_proj"))
    sizes = {"patch_size": 6, "hidden_size": 16, "num_hidden_layers": 4, "calibration": None}
    made, wanted = resize(source, **sizes), resize(merged(source), **sizes)
    assert wanted.config.learngene["passes"][1]["method"] == "lemon"
    assert_same_logits(made, wanted, wanted)
    assert_same_logits(resize_adapter(source, resize(model, **sizes)), wanted, wanted)


def test_ranking_by_weights_is_followed_too():
    model = tiny_model(*VIT)
    source = adapted(model, lora("fc1", "fc2"))
    made = resize(source, method="l2", num_hidden_layers=2, intermediate_size=24)
    base = resize(model, method="l2", num_hidden_layers=2, intermediate_size=24)
    assert_same_logits(resize_adapter(source, copy.deepcopy(base)), made, base)
    kept = made.get_base_model().config.learngene["passes"][0]["options"]["layers"]
    assert kept == base.config.learngene["passes"][0]["options"]["layers"]
    for place, layer in enumerate(kept):
        old = source.get_base_model().vit.layers[layer].mlp.fc1
        new = made.get_base_model().vit.layers[place].mlp.fc1
        rows = [
            next(i for i, r in enumerate(old.base_layer.weight) if torch.equal(r, row))
            for row in new.base_layer.weight
        ]
        assert torch.equal(new.lora_B["default"].weight, old.lora_B["default"].weight[rows])


def test_a_head_that_its_base_does_not_hold_is_the_adapters(tmp_path):
    """The usual fine-tuning: a checkpoint without a classifier, and an adapter that saves the one it trained."""
    tiny_model("bert", "BertForMaskedLM").save_pretrained(tmp_path / "bert")
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "bert")
    randomise(model.bert.pooler), randomise(model.classifier)
    source = adapted(model, lora("query", task_type="SEQ_CLS", modules_to_save=["classifier", "pooler"]))
    source.save_pretrained(tmp_path / "adapter")
    base = AutoModelForSequenceClassification.from_pretrained_resized(
        tmp_path / "bert", method="lemon", num_hidden_layers=4, **WIDER
    )
    made = resize_adapter(tmp_path / "adapter", base)
    assert type(made) is peft.PeftModelForSequenceClassification
    assert_same_logits(made, source, model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_dtypes_are_followed(dtype):
    model = tiny_model(*VIT, dtype=dtype)
    source = adapted(model, lora())
    grown = resize(source, method="lemon", **WIDER)
    assert grown.get_base_model().dtype == dtype
    atol = (1e-4 if dtype == torch.float32 else 0.1) * float(output(source, model).abs().max())
    torch.testing.assert_close(output(grown, model), output(source, model), rtol=0, atol=atol)
    carried = resize_adapter(source, resize(model, method="lemon", **WIDER))
    torch.testing.assert_close(output(carried, model), output(grown, model), rtol=0, atol=0)


def test_both_are_saved_and_loaded_apart(tmp_path):
    model = tiny_model(*BERT)
    source = adapted(model, lora("query", modules_to_save=["classifier"]))
    made = resize(source, method="lemon", **WIDER)
    made.save_pretrained(tmp_path / "adapter")
    made.unload().save_pretrained(tmp_path / "base")
    base = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    assert_same_logits(peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval(), source, model)


def test_what_came_along_can_be_trained():
    model = tiny_model(*VIT)
    made = resize(adapted(model, lora("q_proj")), method="lemon", num_hidden_layers=4)
    made(**inputs_for(model))["logits"].square().sum().backward()
    assert {n for n, p in made.named_parameters() if p.grad is not None} == {
        n for n, _ in made.named_parameters() if "lora_" in n
    }
