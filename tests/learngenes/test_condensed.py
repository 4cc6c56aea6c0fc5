"""The condensed learngene: a core of a share of its ancestry, from which every size works untrained."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_learngene import AutoLearngene, plan, resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.errors import InvalidSizeError, LearngeneError, UnknownOptionError
from hf_learngene.hub.card import model_card
from hf_learngene.learngenes.card import learngene_card
from hf_learngene.learngenes.condensed.core_sizes import core_sizes
from testing.families import inputs_for, tiny_model
from testing.numerics import assert_all_close_for
from testing.saving import tokenizer


FAMILIES = [("vit", "ViTForImageClassification"), ("bert", "BertForMaskedLM"), ("dinov2", "Dinov2Model")]
WIDE = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
every_family = pytest.mark.parametrize(("family", "name"), FAMILIES)


@functools.cache
def wide(family, name):
    extra = {n: v for n, v in WIDE.items() if n != "intermediate_size" or family != "dinov2"}  # it has a ratio instead
    return tiny_model(family, name, extra)


def output_of(model, inputs=None):
    with torch.no_grad():
        outputs = model(**(inputs_for(model) if inputs is None else inputs))
    return next(v for k, v in outputs.items() if isinstance(v, torch.Tensor) and k != "loss")


def looked_at(model, count=24):
    """Examples of what the model reads."""
    generator = torch.Generator().manual_seed(3)
    if model.main_input_name == "pixel_values":
        size = model.config.image_size
        return [{"pixel_values": torch.randn(3, size, size, generator=generator)} for _ in range(count)]
    words = [torch.randint(5, model.config.vocab_size, (9,), generator=generator) for _ in range(count)]
    return [{"input_ids": ids} for ids in words]


def few(model):
    """What a shrink looks at, where its quality is not the point."""
    return {"calibration": looked_at(model, 48), "calibration_top_up": False}


@every_family
def test_whole_it_is_the_ancestry_and_larger_sizes_compute_the_same(family, name):
    source = tiny_model(family, name).double()
    learngene = AutoLearngene.from_ancestry(source, "condensed", stored_share=1)
    assert learngene.stored_share == pytest.approx(1.0)
    wanted = output_of(source)
    for sizes in ({}, {"num_hidden_layers": 5}, {"intermediate_size": 2 * source.config.hidden_size * 4}):
        made = learngene.initialize(**sizes)
        torch.testing.assert_close(output_of(made), wanted, rtol=1e-10, atol=1e-10)


@every_family
def test_the_core_is_what_a_calibrated_shrink_gives(family, name):
    source = tiny_model(family, name).double()
    given = looked_at(source)
    options = {"calibration": given, "calibration_top_up": False, "num_hidden_layers": 2}
    learngene = AutoLearngene.from_ancestry(source, "condensed", nested=False, **options)
    core, wanted = learngene.initialize(), resize(source, **options)
    assert core.config.num_hidden_layers == 2
    for a, b in zip(core.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(a, b)
    assert learngene.stored_share == pytest.approx(core.num_parameters() / source.num_parameters())


@every_family
def test_a_smaller_size_is_nearer_than_what_needs_no_examples(family, name):
    learngene = AutoLearngene.from_ancestry(tiny_model(family, name).double(), "condensed", stored_share=1)
    core, examples = learngene.initialize(), looked_at(tiny_model(family, name), 96)
    small = learngene.initialize(num_hidden_layers=2, calibration=examples, calibration_top_up=False)
    plain = resize(core, num_hidden_layers=2, calibration=None)
    seen = {n: torch.stack([e[n] for e in examples]) for n in examples[0]}
    wanted = output_of(core, seen)
    assert (output_of(small, seen) - wanted).pow(2).mean() < (output_of(plain, seen) - wanted).pow(2).mean()


@every_family
def test_without_nested_order_weights_are_those_of_a_resize_without_examples_and_differentiable(family, name):
    source = tiny_model(family, name).double()
    learngene = AutoLearngene.from_ancestry(source, "condensed", stored_share=1, nested=False)
    core = learngene.initialize()
    for sizes in ({"num_hidden_layers": 2}, {"num_hidden_layers": 5}, {"intermediate_size": 24}):
        wanted = dict(resize(core, calibration=None, **sizes).named_parameters())
        weights = learngene.weights(learngene.config_at(sizes))
        assert weights.keys() == wanted.keys()
        assert all(torch.equal(weights[n], p) for n, p in wanted.items())
    learngene.zero_grad()
    sum(w.pow(2).sum() for w in weights.values()).backward()
    assert all(p.grad is not None for p in learngene.shared.parameters())


def test_the_same_seed_gives_the_same_descendant():
    learngene = AutoLearngene.from_ancestry(
        tiny_model("vit", "ViTForImageClassification"), "condensed", stored_share=1
    )
    first, same, other = (learngene.initialize(intermediate_size=20, seed=s) for s in (0, 0, 1))
    assert torch.equal(output_of(first), output_of(same))
    assert not torch.equal(output_of(first), output_of(other))


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.05, 0.999), family=st.sampled_from(FAMILIES))
def test_a_core_has_at_most_its_share(share, family):
    model = wide(*family)
    anatomy = anatomy_of(model.config, type(model))
    try:
        sizes = core_sizes(anatomy, share, {})
    except InvalidSizeError as error:
        least = float(str(error).partition("looked at has ")[2].partition(" ")[0])
        assert share < least + 1e-3
        assert core_sizes(anatomy, least * 1.01, {})
        return
    made = plan(model, calibration=None, **sizes)
    assert made.num_parameters <= share * anatomy.num_parameters
    assert made.target_config.num_hidden_layers == anatomy.num_layers
    assert made.target_config.num_attention_heads == WIDE["num_attention_heads"]


def test_a_larger_share_is_a_larger_core():
    model = wide(*FAMILIES[0])
    anatomy = anatomy_of(model.config, type(model))
    shares = (0.3, 0.5, 0.7, 0.9)
    counts = [plan(model, calibration=None, **core_sizes(anatomy, share, {})).num_parameters for share in shares]
    assert counts == sorted(set(counts))
    kept = core_sizes(anatomy, 0.6, {"hidden_size": 64})
    assert kept["hidden_size"] == 64
    assert core_sizes(anatomy, 1, {}) == {}


def test_sizes_that_are_given_count_in_the_share():
    bert, vit = wide(*FAMILIES[1]), wide(*FAMILIES[0])
    anatomy = anatomy_of(vit.config, type(vit))
    shallow = core_sizes(anatomy, 0.5, {"num_hidden_layers": 2})
    assert shallow["num_hidden_layers"] == 2
    assert shallow["hidden_size"] > core_sizes(anatomy, 0.5, {})["hidden_size"]
    assert plan(vit, calibration=None, **shallow).num_parameters <= 0.5 * anatomy.num_parameters
    # a width that is no share of the ancestry's, and one that its heads do not divide
    anatomy = anatomy_of(bert.config, type(bert))
    assert core_sizes(anatomy, 0.8, {"hidden_size": 44})["hidden_size"] == 44
    with pytest.raises(InvalidSizeError, match="45"):
        AutoLearngene.from_ancestry(bert, "condensed", hidden_size=45, stored_share=0.8)


def test_without_share_or_sizes_a_third_is_kept():
    learngene = AutoLearngene.from_ancestry(wide(*FAMILIES[0]), "condensed", **few(wide(*FAMILIES[0])))
    assert 0.2 < learngene.stored_share <= 1 / 3
    assert learngene.config.stored_share is None
    assert learngene.config.ancestry_parameters == wide(*FAMILIES[0]).num_parameters()


def test_sizes_by_name_are_the_cores_and_a_share_fills_the_rest():
    source = wide(*FAMILIES[0])
    named = AutoLearngene.from_ancestry(source, "condensed", intermediate_size=32, **few(source))
    assert (named.anatomy.sizes["intermediate_size"], named.anatomy.sizes["hidden_size"]) == (32, 64)
    both = AutoLearngene.from_ancestry(source, "condensed", intermediate_size=32, stored_share=0.5, **few(source))
    assert both.anatomy.sizes["intermediate_size"] == 32
    assert both.stored_share <= 0.5


def test_what_reads_raw_inputs_is_saved_beside_it(tmp_path):
    source, reads = tiny_model("bert", "BertForMaskedLM"), tokenizer()
    texts = ["word1 word2", "word7 word3 word9", "word5 word4"] * 8
    learngene = AutoLearngene.from_ancestry(
        source, "condensed", stored_share=1, processing_class=reads, calibration=texts
    )
    learngene.save_pretrained(tmp_path / "genes")
    again = AutoLearngene.from_pretrained(tmp_path / "genes")
    assert type(again.input_processor()).__name__ == type(reads).__name__
    made = again.initialize(num_hidden_layers=2, calibration=texts, calibration_top_up=False)
    assert made.config.learngene["calibration"]["examples"]


def test_its_card_says_that_what_it_makes_works():
    card = learngene_card(AutoLearngene.from_ancestry(tiny_model(*FAMILIES[0]), "condensed", stored_share=1))
    assert "works before any training" in card
    assert "Every size" in card
    assert "a start for fine-tuning" in learngene_card(AutoLearngene.from_ancestry(tiny_model(*FAMILIES[0]), "tleg"))


@pytest.mark.parametrize(
    ("sizes", "claim"),
    [
        ({}, "Works as it is"),
        ({"num_hidden_layers": 2}, "Works as it is"),
        ({"num_hidden_layers": 5}, "Function-preserving"),
    ],
)
def test_the_card_of_a_descendant_claims_what_holds(sizes, claim):
    source = wide(*FAMILIES[0])
    learngene = AutoLearngene.from_ancestry(source, "condensed", intermediate_size=64, **few(source))
    made = (
        learngene.initialize(**sizes, **few(source))
        if sizes.get("num_hidden_layers") == 2
        else learngene.initialize(**sizes)
    )
    assert f"**{claim}" in model_card(made, source="me/genes", name="small")


def test_a_checkpoint_that_does_not_know_its_ancestry_counts_by_its_own_core(tmp_path):
    source = wide(*FAMILIES[0])
    AutoLearngene.from_ancestry(source, "condensed", stored_share=0.5, **few(source)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["ancestry_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = AutoLearngene.from_pretrained(tmp_path)
    assert again.stored_share == pytest.approx(1.0)
    core = again.initialize()
    assert_all_close_for({"out": output_of(again, inputs_for(core))}, {"out": output_of(core)})


@pytest.mark.parametrize("share", [0, -0.5, 1.5, True, "half"])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(InvalidSizeError, match="stored_share is a share"):
        AutoLearngene.from_ancestry(tiny_model(*FAMILIES[0]), "condensed", stored_share=share)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"stored_share": 0.001}, InvalidSizeError, "the smallest that is looked at has"),
        ({"stored_shere": 0.5}, UnknownOptionError, "stored_share"),
        ({"calibration": "nowhere.csv"}, LearngeneError, "nowhere.csv"),
    ],
)
def test_what_makes_no_core_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        AutoLearngene.from_ancestry(tiny_model(*FAMILIES[0]), "condensed", **given)


def test_sizes_that_it_cannot_make_are_refused_before_anything_is_made():
    learngene = AutoLearngene.from_ancestry(tiny_model(*FAMILIES[0]), "condensed", stored_share=1)
    for wrong, error in ({"num_hidden_layers": 0}, InvalidSizeError), ({"hidden_size": 25}, InvalidSizeError):
        with pytest.raises(error):
            learngene.initialize(**wrong)
    with pytest.raises(UnknownOptionError, match="no stages"):
        learngene.initialize(stages=[0, 1, 2])


def test_a_kind_that_looks_at_no_examples_takes_none():
    source = tiny_model(*FAMILIES[0])
    with pytest.raises(UnknownOptionError, match="calibration"):
        AutoLearngene.from_ancestry(source, "tleg", calibration=looked_at(source))
