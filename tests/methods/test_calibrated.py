"""Calibrated shrink: exact where nothing is lost, near where something is, and plain about what it cannot take."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel

from hf_learngene import errors, plan, resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.calibration.examples import Examples
from hf_learngene.methods import Calibrated
from hf_learngene.pruning.layers import kept_layers
from testing.examples import examples_for
from testing.families import exact_deberta, inputs_for, tiny_model
from testing.numerics import assert_close_for


CASES = [
    ("vit", "ViTForImageClassification"),
    ("beit", "BeitForImageClassification"),
    ("dinov2", "Dinov2ForImageClassification"),
    ("siglip", "SiglipForImageClassification"),
    ("bert", "BertForSequenceClassification"),
    ("bert", "BertForMaskedLM"),
    ("albert", "AlbertForSequenceClassification"),
    ("deberta", "DebertaForSequenceClassification"),
    ("deberta-v2", "DebertaV2ForTokenClassification"),
    ("electra", "ElectraForMaskedLM"),
    ("modernbert", "ModernBertForSequenceClassification"),
]


@pytest.fixture(scope="module", autouse=True)
def _exact():
    exact_deberta()


def model_of(family, name, **extra):
    return tiny_model(family, name, extra or None)


def logits_of(model, examples):
    batch = next(Examples(examples, model).batches())
    with torch.no_grad():
        return model(**batch).logits


def distance(model, source, examples):
    wanted = logits_of(source, examples)
    return float((logits_of(model, examples) - wanted).norm() / wanted.norm())


# ---- what comes out


@pytest.mark.parametrize(("family", "name"), CASES)
def test_at_its_own_size_a_model_is_what_it_was(family, name):
    source = model_of(family, name)
    examples = examples_for(source)
    same = resize(source, method="calibrated", calibration=examples)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), source.parameters(), strict=True))


def test_in_half_precision_too():
    """Weights that are fitted to themselves would be rounded twice."""
    source = tiny_model("distilbert", "DistilBertForMaskedLM", dtype=torch.bfloat16)
    same = resize(source, method="calibrated", calibration=examples_for(source, 24))
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), source.parameters(), strict=True))


def test_smaller_heads_beside_a_width_that_only_some_families_have():
    """XMOD's adapters are a share of the width, inside the layers whose heads are projected."""
    source = tiny_model("xmod", "XmodModel")
    small = resize(source, method="calibrated", calibration=examples_for(source), hidden_size=6, num_attention_heads=1)
    assert small.config.hidden_size == 6
    assert torch.isfinite(small(**inputs_for(small)).last_hidden_state).all()


NEARER = [
    (*case, sizes)
    for case in (CASES[0], CASES[1], CASES[4], CASES[6], CASES[7], CASES[9])
    for sizes in ({"hidden_size": 16}, {"intermediate_size": 20}, {"num_hidden_layers": 2})
]


@pytest.mark.parametrize(("family", "name", "sizes"), [*NEARER, (*CASES[10], {"intermediate_size": 20})])
def test_a_calibrated_model_is_nearer_than_a_selected_one(family, name, sizes):
    source = model_of(family, name)
    examples, unseen = examples_for(source), examples_for(source, 32, seed=1)
    calibrated = resize(source, calibration=examples, **sizes)
    assert calibrated.config.learngene["passes"][0]["method"] == "calibrated"
    selected = resize(source, method="weight_selection", **sizes)
    assert distance(calibrated, source, unseen) < distance(selected, source, unseen)


@pytest.mark.parametrize("family", ["albert", "electra", "rembert"])
def test_smaller_heads_where_the_first_layer_reads_a_projection(family):
    """There queries and keys read no norm in every layer, which is what tells them from those of positions elsewhere."""
    source = model_of(family, {"albert": "Albert", "electra": "Electra", "rembert": "RemBert"}[family] + "ForMaskedLM")
    examples, unseen = examples_for(source), examples_for(source, 32, seed=1)
    sizes = {"hidden_size": 15, "num_attention_heads": 3}
    calibrated = resize(source, method="calibrated", calibration=examples, **sizes)
    selected = resize(source, method="weight_selection", **sizes)
    assert distance(calibrated, source, unseen) < distance(selected, source, unseen) / 2


def test_a_plan_refuses_smaller_heads_where_queries_are_made_in_several_places():
    """ALBERT's groups of layers have one each, and one set of layers to choose by."""
    config = AlbertConfig(
        hidden_size=24, num_attention_heads=3, num_hidden_layers=2, num_hidden_groups=2, intermediate_size=40,
        embedding_size=12, vocab_size=60, max_position_embeddings=24,
    )  # fmt: skip
    asked = {"model_class": AlbertModel, "method": "calibrated", "calibration": "synthetic", "num_attention_heads": 3}
    assert plan(config, hidden_size=24, **asked).num_parameters
    with pytest.raises(errors.InvalidSizeError, match="k, k, q, q"):
        plan(config, hidden_size=12, **asked)


@pytest.mark.parametrize(
    "sizes", [{"num_attention_heads": 2, "head_dim": 8}, {"num_attention_heads": 3, "head_dim": 4}]
)
def test_heads_and_head_size_of_families_that_keep_them_apart_from_the_width(sizes):
    source = model_of("vit", "ViTForImageClassification")
    examples = examples_for(source)
    made = resize(source, calibration=examples, **sizes)
    assert made.vit.layers[0].attention.q_proj.weight.shape[0] == sizes["num_attention_heads"] * sizes["head_dim"]
    assert distance(made, source, examples) < distance(
        resize(source, method="weight_selection", **sizes), source, examples
    )


@pytest.mark.parametrize(
    ("family", "name", "grown", "back"),
    [
        ("vit", "ViTForImageClassification", {"hidden_size": 48}, {"hidden_size": 24}),
        ("vit", "ViTForImageClassification", {"intermediate_size": 80}, {"intermediate_size": 40}),
        ("vit", "ViTForImageClassification", {"intermediate_size": 200}, {"intermediate_size": 40}),  # five of each
        ("vit", "ViTForImageClassification", {"num_hidden_layers": 5}, {"num_hidden_layers": 3}),
        ("dinov2", "Dinov2ForImageClassification", {"hidden_size": 48}, {"hidden_size": 24}),
        ("bert", "BertForSequenceClassification", {"hidden_size": 48}, {"hidden_size": 24}),
        ("bert", "BertForSequenceClassification", {"intermediate_size": 80}, {"intermediate_size": 40}),
        ("bert", "BertForSequenceClassification", {"num_hidden_layers": 5}, {"num_hidden_layers": 3}),
    ],
)
def test_what_lemon_added_is_taken_away_without_loss(family, name, grown, back):
    source = model_of(family, name)
    examples = examples_for(source)
    big = resize(source, method="lemon", **grown)
    again = resize(big, method="calibrated", calibration=examples, ridge=1e-12, **back)
    assert distance(again, source, examples) <= 1e-8


def test_the_head_size_that_lemon_added_is_taken_away():
    source = model_of("vit", "ViTForImageClassification")
    examples = examples_for(source)
    big = resize(source, method="lemon", num_attention_heads=3, head_dim=12)
    again = resize(big, method="calibrated", calibration=examples, ridge=1e-12, num_attention_heads=3, head_dim=8)
    assert distance(again, source, examples) <= 1e-8


def test_some_axes_shrink_and_others_grow():
    source = model_of("vit", "ViTForImageClassification")
    made = resize(source, calibration=examples_for(source), intermediate_size=20, num_hidden_layers=5)
    assert [s["method"] for s in made.config.learngene["passes"]] == ["calibrated", "lemon"]
    assert made.config.num_hidden_layers == 5


def test_examples_that_nothing_looks_at_are_mentioned(caplog):
    source = model_of("vit", "ViTForImageClassification")
    resize(source, calibration=examples_for(source, 8), intermediate_size=50)
    assert "calibration= is not used" in caplog.text
    caplog.clear()
    resize(source, calibration=examples_for(source), intermediate_size=20)
    assert "not looked at" not in caplog.text


def test_equal_examples_give_equal_models_whatever_the_batches():
    source = model_of("bert", "BertForSequenceClassification")
    examples = examples_for(source)
    rows = list(Examples(examples, source).batches())
    loader = DataLoader(examples, batch_size=7, collate_fn=Examples(examples, source)._batch)
    first = resize(source, calibration=examples, hidden_size=16)
    second = resize(source, calibration=examples, hidden_size=16)
    other = resize(source, calibration=loader, hidden_size=16)
    assert len(rows) == 2
    for a, b, c in zip(first.parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("family", "name"), [CASES[0], CASES[4]])
def test_without_room_on_disk_the_result_is_the_same(family, name, monkeypatch):
    source = model_of(family, name)
    examples = examples_for(source)
    first = resize(source, calibration=examples, intermediate_size=20, num_hidden_layers=2)
    monkeypatch.setattr("hf_learngene.pruning.activations.ROOM", 0)
    again = resize(source, calibration=examples, intermediate_size=20, num_hidden_layers=2)
    # what was read back lies elsewhere in memory
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert_close_for(a, b, times=1e3)


def test_the_source_stays_as_it_is():
    source = model_of("vit", "ViTForImageClassification")
    before = {n: p.detach().clone() for n, p in source.named_parameters()}
    resize(source, calibration=examples_for(source), hidden_size=16, num_hidden_layers=2)
    assert all(torch.equal(p, before[n]) for n, p in source.named_parameters())
    assert len(source.vit.layers) == 3


@pytest.mark.parametrize(("family", "name"), [CASES[0], CASES[4]])
def test_a_model_in_half_precision_is_refitted_in_float32(family, name):
    source = model_of(family, name).bfloat16()
    examples = examples_for(source)
    made = resize(source, calibration=examples, intermediate_size=20)
    wanted = resize(source.float(), calibration=examples, intermediate_size=20)
    assert made.dtype == torch.bfloat16 == made.config.dtype
    for a, b in zip(made.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(a, b.bfloat16())


def test_a_checkpoint_is_calibrated_in_one_line(tmp_path):
    from hf_learngene import AutoModelForImageClassification

    source = model_of("vit", "ViTForImageClassification").float()
    source.save_pretrained(tmp_path)
    examples = examples_for(source)
    made = AutoModelForImageClassification.from_pretrained_resized(tmp_path, hidden_size=16, calibration=examples)
    assert distance(made, resize(source, hidden_size=16, calibration=examples), examples) < 1e-5
    made.save_pretrained(tmp_path / "small")
    again = type(source).from_pretrained(tmp_path / "small")
    assert_close_for(logits_of(again, examples), logits_of(made, examples))


def test_the_layers_that_do_least_leave():
    source = model_of("vit", "ViTForImageClassification", num_hidden_layers=5)
    with torch.no_grad():
        for index in (1, 3):
            for module in (source.vit.layers[index].attention.o_proj, source.vit.layers[index].mlp.fc2):
                module.weight.mul_(1e-3)
                module.bias.mul_(1e-3)
    examples = Examples(examples_for(source), source)
    assert kept_layers(source, anatomy_of(source.config, type(source)), 3, examples) == (0, 2, 4)


def fires_on(source, layer, idle, used):
    """Leaves of a layer one ffn unit that is large on tokens of some pixels, and next to nothing on those of others."""
    block = source.vit.layers[layer]
    seen = []
    with torch.no_grad():
        for module in (block.attention.o_proj, block.mlp.fc1, block.mlp.fc2):
            module.weight.zero_()
            module.bias.zero_()
        handle = block.mlp.fc1.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
        for pixels in (idle, used):
            source(pixel_values=pixels[None])
        handle.remove()
        tokens = torch.cat(seen)
        level = torch.tensor([-20.0, 20.0]).double().repeat_interleave(len(seen[0]))
        known = torch.cat([tokens, torch.ones(len(tokens), 1).double()], 1)
        weight = torch.linalg.lstsq(known, level[:, None], driver="gelsd").solution[:, 0]
        block.mlp.fc1.weight[0], block.mlp.fc1.bias[0] = weight[:-1], weight[-1]
        block.mlp.fc2.weight[:, 0] = torch.linspace(-1, 1, len(block.mlp.fc2.weight))  # norms would not see a constant


def test_layers_are_chosen_on_examples_from_everywhere():
    source = model_of("vit", "ViTForImageClassification", num_hidden_layers=4)
    shape = inputs_for(source)["pixel_values"].shape[1:]
    idle, used = (torch.full(shape, value, dtype=source.dtype) for value in (-1.0, 1.0))
    with torch.no_grad():
        source.vit.embeddings.position_embeddings.zero_()  # so that an image has two kinds of tokens
        for module in (source.vit.layers[2].attention.o_proj, source.vit.layers[2].mlp.fc2):
            module.weight.mul_(1e-3)
            module.bias.mul_(1e-3)
    fires_on(source, 1, idle, used)
    anatomy = anatomy_of(source.config, type(source))
    kept = [
        kept_layers(source, anatomy, 3, Examples([{"pixel_values": p} for p in pixels], source))
        for pixels in ([idle] * 64, [idle] * 80 + [used] * 48)  # as an image folder has them: by label
    ]
    assert kept == [(0, 2, 3), (0, 1, 3)]


# ---- bad input


def bert():
    return BertModel(
        BertConfig(hidden_size=24, num_attention_heads=3, intermediate_size=40, num_hidden_layers=2, vocab_size=80)
    )


def broken(model):
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(float("nan"))
    return model


@pytest.mark.parametrize(
    ("model", "given", "error", "message"),
    [
        (bert, {"calibration": []}, errors.CalibrationError, "calibration is empty"),
        (bert, {"calibration": {"train": [{"input_ids": [5]}] * 40, "validation": []}, "processing_class": str.split},
         errors.CalibrationError, r"dict of 'train', 'validation'. Give one of them: calibration\['train'\]"),
        (bert, {"calibration": {"input_ids": [[5]] * 40}}, errors.CalibrationError, "Dataset.from_dict"),
        (bert, {"calibration": {}}, errors.CalibrationError, "Give a list"),
        (bert, {"calibration": [{"sentence": "a"}]}, errors.CalibrationError, r"reads 'input_ids'.*hold sentence"),
        (bert, {"calibration": ["a text"]}, errors.CalibrationError, "Give a tokenizer too"),
        (bert, {"calibration": "data.csv"}, errors.CalibrationError, "data.csv does not exist"),
        (bert, {"calibration": [{"input_ids": [5, 6]}], "calibration_top_up": False}, errors.CalibrationError,
         "2 tokens .* at least 20 tokens"),
        (lambda: broken(bert()), {"calibration": [{"input_ids": [5, 6]}] * 40}, errors.UnsupportedSourceError, "not all finite"),
        (bert, {"calibration": [{"input_ids": [5]}], "method": "layers", "layer_map": [0]}, errors.UnknownOptionError,
         "'layers' looks at no examples"),
        (bert, {"method": "calibrated", "calibration": None}, errors.CalibrationError, "give calibration="),
        (bert, {"calibration": [{"input_ids": [5]}], "method": "calibrated", "ridge": 0}, errors.UnknownOptionError, "above 0"),
        (bert, {"calibration": [{"input_ids": [5]}], "method": "calibrated", "hidden_size": 48}, errors.DirectionError,
         "cannot grow"),
    ],
)  # fmt: skip
def test_what_calibration_cannot_take_is_said(model, given, error, message):
    sizes = {} if {"hidden_size", "layer_map"} & given.keys() else {"intermediate_size": 20}
    with pytest.raises(error, match=message):
        resize(model(), **{**sizes, **given})


class Once:
    """Examples that may be read once more after a peek at the first, and come in another order each time."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __iter__(self):
        self.read += 1
        return iter(self.rows[self.read :] + self.rows[: self.read])


def test_examples_are_read_once():
    source = model_of("bert", "BertForSequenceClassification")
    rows = examples_for(source)
    given = Once(rows)
    made = resize(source, calibration=given, num_hidden_layers=2, intermediate_size=20)
    assert given.read == 1
    again = resize(source, calibration=(r for r in rows[1:] + rows[:1]), num_hidden_layers=2, intermediate_size=20)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))


def test_too_few_tokens_for_a_width_are_refused():
    with pytest.raises(errors.CalibrationError, match="2 tokens .* 27 ffn units"):
        resize(bert(), calibration=[{"input_ids": [5, 6]}], calibration_top_up=False, hidden_size=16)


def test_a_plan_needs_no_examples():
    made = plan(bert(), method="calibrated", intermediate_size=20)
    assert "selected 20 of 40" in str(made)
    assert Calibrated().option_names() == ["ridge"]
