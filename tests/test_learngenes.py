"""Learngenes: what they make is what they compute, whatever the family, the size and the way they are loaded."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from families import inputs_for, plan_of, tiny_model
from training import OPTIONS
from transformers import AutoModel

import hf_learngene
from hf_learngene import AutoLearngene, AutoLearngeneConfig, errors, verify
from hf_learngene.learngenes import (
    FineConfig,
    SwsConfig,
    TlegConfig,
    WaveConfig,
    register_learngene,
    registered_learngenes,
)
from hf_learngene.learngenes.sws.model import SwsLearngene


FAMILIES = [
    ("vit", "ViTForImageClassification"),
    ("dinov2", "Dinov2Model"),
    ("beit", "BeitForImageClassification"),
    ("bert", "BertForMaskedLM"),
    ("roberta", "RobertaForSequenceClassification"),
    ("distilbert", "DistilBertForQuestionAnswering"),
    ("deberta-v2", "DebertaV2ForTokenClassification"),
    ("modernbert", "ModernBertForMaskedLM"),
]
KINDS = sorted(OPTIONS)


def fitted(kind, family="vit", name="ViTForImageClassification", extra=None, **options):
    return AutoLearngene.from_ancestry(tiny_model(family, name, extra), kind, **{**OPTIONS[kind], **options})


def tensors(outputs):
    return {k: v for k, v in outputs.items() if isinstance(v, torch.Tensor)}


def test_every_registered_learngene_is_tested():
    assert registered_learngenes().keys() == OPTIONS.keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "name"), FAMILIES)
def test_the_descendant_is_the_auxiliary_model(kind, family, name):
    learngene = fitted(kind, family, name)
    descendant = learngene.initialize()
    assert type(descendant).__name__ == name
    inputs = inputs_for(descendant)
    with torch.no_grad():
        own, theirs = tensors(learngene(**inputs)), tensors(descendant(**inputs))
    assert own.keys() == theirs.keys()
    for key, value in own.items():
        assert float((value - theirs[key]).abs().max()) <= 1e-10, key
    for depth in (1, 2, 5):
        assert learngene.initialize(num_hidden_layers=depth)(**inputs) is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "name"), [FAMILIES[0], FAMILIES[3]])
def test_saved_and_loaded_it_is_the_same(kind, family, name, tmp_path):
    learngene = fitted(kind, family, name)
    inputs = inputs_for(learngene.initialize())
    learngene.save_pretrained(tmp_path)
    wanted = tensors(learngene(**inputs))
    for auto in (AutoLearngene, AutoModel):
        again = auto.from_pretrained(tmp_path)
        assert type(again) is type(learngene)
        assert again.config.fitted
        assert all(torch.equal(v, wanted[k]) for k, v in tensors(again(**inputs)).items())
    config = AutoLearngeneConfig.from_pretrained(tmp_path)
    assert config.options() == learngene.config.options()
    assert config.base_config.to_dict() == learngene.config.base_config.to_dict()


def test_a_plain_process_loads_it_after_one_import(tmp_path):
    fitted("wave").save_pretrained(tmp_path)
    code = (
        "import hf_learngene.learngenes; from transformers import AutoModel, AutoConfig;"
        f"print(type(AutoModel.from_pretrained({str(tmp_path)!r})).__name__, "
        f"AutoConfig.from_pretrained({str(tmp_path)!r}).model_type)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["WaveLearngene", "learngene_wave"]


def test_transformers_own_mappings_are_untouched():
    code = """
import json
from transformers.models.auto import auto_factory, configuration_auto, modeling_auto
configs = configuration_auto.CONFIG_MAPPING
models = {n: m for n, m in vars(modeling_auto).items() if isinstance(m, auto_factory._LazyAutoMapping)}
def native():
    held = {n: (dict(m._config_mapping), dict(m._model_mapping)) for n, m in models.items()}
    return dict(configs._mapping), held, [configs[k] for k in ("vit", "bert")], models["MODEL_MAPPING"][configs["vit"]]
def added():
    found = {n: [key.model_type for key in m._extra_content] for n, m in models.items() if m._extra_content}
    return {"configs": list(configs._extra_content), **found}
before, none = native(), added()
import hf_learngene.learngenes
print(json.dumps([native() == before, none, added()]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    same, none, added = json.loads(result.stdout)
    assert same
    assert none == {"configs": []}
    ours = sorted(f"learngene_{kind}" for kind in KINDS)
    assert {name: sorted(types) for name, types in added.items()} == {"configs": ours, "MODEL_MAPPING": ours}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "name"), [FAMILIES[0], FAMILIES[3]])
def test_weights_are_a_function_of_the_config(kind, family, name):
    learngene = fitted(kind, family, name)
    config = copy.deepcopy(learngene.base)
    config.num_hidden_layers = 5
    weights = learngene.weights(config)
    made = dict(learngene.initialize(num_hidden_layers=5).named_parameters())  # tied ones once
    assert weights.keys() == made.keys()
    assert all(torch.equal(weights[n], p) for n, p in made.items())
    assert learngene.weights().keys() == dict(learngene.initialize().named_parameters()).keys()
    sum(w.pow(2).sum() for w in weights.values()).backward()
    assert [n for n, p in learngene.shared.named_parameters() if p.grad is None] == []
    assert any(p.grad is not None and p.grad.any() for p in learngene.shared.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "name"), [FAMILIES[0], FAMILIES[3]])
def test_gradients_reach_every_part_and_nothing_else(kind, family, name):
    learngene = fitted(kind, family, name).train()
    inputs = inputs_for(learngene.initialize())
    sum(v.sum() for v in tensors(learngene(**inputs)).values()).backward()
    without = [n for n, p in learngene.named_parameters() if p.grad is None]
    assert without == []
    assert {n.partition(".")[0] for n, _ in learngene.named_parameters()} <= {"shared", "scalers", "outside"}
    zero = [n for n, p in learngene.named_parameters() if not p.grad.any()]
    # a softmax over the keys does not see the bias that all keys share; tleg's line starts at 0 for the first layer
    assert all("k_proj.bias" in n or "key.bias" in n for n in zero), zero


@pytest.mark.parametrize("kind", ["fine", "wave"])
def test_another_size_has_scalers_of_its_own_and_frozen_parts(kind):
    learngene = fitted(kind)
    other = learngene.for_size(num_hidden_layers=5)
    trainable = {n for n, p in other.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in other.named_parameters() if n.startswith("scalers.")}
    assert all(p.requires_grad for p in learngene.shared.parameters())
    inputs = inputs_for(learngene.initialize())
    made = learngene.initialize(num_hidden_layers=5)
    assert float((other(**inputs).logits - made(**inputs).logits).detach().abs().max()) <= 1e-10
    same = learngene.for_size()
    assert float((same(**inputs).logits - learngene(**inputs).logits).detach().abs().max()) <= 1e-10


@pytest.mark.parametrize(("family", "name"), [FAMILIES[0], FAMILIES[3], FAMILIES[7]])
def test_twice_the_width_of_wave_computes_the_same(family, name):
    learngene = fitted("wave", family, name)
    own = learngene.initialize()
    wide = learngene.initialize(hidden_size=48)
    assert wide.config.hidden_size == 48
    assert wide.config.num_attention_heads == 6
    assert verify(own, wide, inputs_for(own)).relative <= 1e-10
    narrow = learngene.initialize(hidden_size=16, num_hidden_layers=2)
    assert narrow.config.hidden_size == 16
    assert narrow(**inputs_for(narrow)) is not None
    other = learngene.for_size(hidden_size=48)
    assert {n.partition(".")[0] for n, p in other.named_parameters() if p.requires_grad} == {"scalers", "outside"}
    assert verify(own, other.initialize(), inputs_for(own)).relative <= 1e-10


def test_a_learngenes_templates_keep_their_size_at_another_width():
    source = tiny_model("vit", "ViTForImageClassification")  # three heads: the templates are one head wide
    learngene = AutoLearngene.from_ancestry(source, "wave")
    other = learngene.for_size(hidden_size=32)  # four heads, which would halve the width
    assert other.side == learngene.side == 8
    assert verify(learngene.initialize(hidden_size=32), other.initialize(), inputs_for(source)).relative <= 1e-10


def test_more_layers_take_shorter_steps():
    source = tiny_model("vit", "ViTForImageClassification")
    learngene = AutoLearngene.from_ancestry(source, "sws", num_stages=3)
    made = learngene.initialize(num_hidden_layers=6)
    torch.testing.assert_close(made.vit.layers[1].mlp.fc2.weight, source.vit.layers[0].mlp.fc2.weight / 2)
    torch.testing.assert_close(made.vit.layers[1].mlp.fc1.weight, source.vit.layers[0].mlp.fc1.weight)
    learngene.config.depth_scale = False
    plain = learngene.initialize(num_hidden_layers=6)
    assert torch.equal(plain.vit.layers[1].mlp.fc2.weight, source.vit.layers[0].mlp.fc2.weight)
    inputs = inputs_for(source)
    wanted = source(**inputs).logits.detach()
    near, far = (float((m(**inputs).logits.detach() - wanted).norm()) for m in (made, plain))
    assert near < far


def test_other_sizes_are_left_to_resize():
    made = fitted("tleg").initialize(num_hidden_layers=4, num_labels=7, image_size=16)
    assert (made.config.num_hidden_layers, made.config.num_labels, made.config.image_size) == (4, 7, 16)
    assert made(**inputs_for(made)).logits.shape == (2, 7)


def test_the_record_says_where_a_descendant_comes_from(tmp_path):
    fitted("sws").save_pretrained(tmp_path / "vit-sws")
    record = AutoLearngene.from_pretrained(tmp_path / "vit-sws").initialize(num_hidden_layers=4).config.learngene
    assert record["source"] == "vit-sws"
    assert record["passes"] == [
        {"method": "sws", "options": {"num_stages": 2, "stages": None, "fit_layers": "picked"}}
    ]
    assert record["sizes"] == {"num_hidden_layers": 4}


def test_a_descendant_of_a_folder_names_the_ancestry_that_others_can_find(tmp_path):
    learngene = fitted("sws")
    learngene.config.ancestry, learngene.config.ancestry_commit = "user/vit", "0123abc"
    learngene.save_pretrained(tmp_path / "vit-sws")
    record = AutoLearngene.from_pretrained(tmp_path / "vit-sws").initialize(num_hidden_layers=4).config.learngene
    assert (record["source"], record["source_commit"]) == ("user/vit", "0123abc")


def test_nothing_of_the_machine_is_saved(vit_folder, tmp_path):
    AutoLearngene.from_ancestry(str(vit_folder), "tleg").save_pretrained(tmp_path / "out")
    text = (tmp_path / "out" / "config.json").read_text()
    assert str(vit_folder.parent) not in text
    assert AutoLearngene.from_pretrained(tmp_path / "out").config.ancestry == "vit"
    made = AutoLearngene.from_pretrained(tmp_path / "out").initialize(num_hidden_layers=4)
    made.save_pretrained(tmp_path / "made")
    assert str(tmp_path) not in (tmp_path / "made" / "config.json").read_text()


# ---- bad input


@pytest.mark.parametrize("kind", ["sws", "tleg", "fine"])
def test_width_is_refused_where_only_depth_changes(kind):
    with pytest.raises(errors.InvalidSizeError, match=r"every depth at hidden_size=24.*`wave`"):
        fitted(kind).initialize(hidden_size=48)


def test_a_width_that_is_not_made_of_templates_is_refused():
    learngene = fitted("wave", template_size=12, extra={"num_attention_heads": 6, "intermediate_size": 48})
    with pytest.raises(
        errors.InvalidSizeError, match=r"made of templates of 12: 32 is no multiple. The nearest are 24 and 36"
    ):
        learngene.initialize(hidden_size=32)
    with pytest.raises(errors.InvalidSizeError, match="template_size=7 does not divide .* the nearest"):
        fitted("wave", template_size=7)


def test_heads_stay_whole():
    with pytest.raises(errors.InvalidSizeError, match="keeps heads whole"):
        fitted("wave").initialize(hidden_size=48, num_attention_heads=3)


def test_an_unfitted_learngene_makes_nothing():
    config = TlegConfig(base_config=tiny_model("vit", "ViTForImageClassification").config)
    learngene = AutoLearngene.from_config(config)
    assert all(p.isfinite().all() for p in learngene.parameters())
    with pytest.raises(errors.UnfittedError, match="neither fitted nor trained"):
        learngene.initialize()
    with pytest.raises(errors.UnfittedError):
        AutoLearngene.from_config(FineConfig(base_config=config.base_config)).for_size(num_hidden_layers=2)


def test_templates_that_save_nothing_are_said(monkeypatch):
    said = []
    monkeypatch.setattr("hf_learngene.learngenes.wave.model.logger.warning", said.append)
    fitted("wave", template_share=1.5)
    assert "nothing is saved" in said[0]
    assert said[0].count(",") >= 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fitted("sws", num_stages=9), errors.InvalidSizeError, "num_stages=9 .* 3 layers; it lies between 1 and 3"),
        (lambda: fitted("sws").initialize(stages=[0, 5]), errors.InvalidSizeError, "numbers from 0 to 1"),
        (lambda: fitted("sws").initialize(stages=[0, 1], num_hidden_layers=3), errors.InvalidSizeError, "2 layers and"),
        (lambda: fitted("tleg").initialize(stages=[0, 1]), errors.UnknownOptionError, "`tleg` has no stages; `sws` has"),
        (lambda: fitted("sws", stages=[0, 1]), errors.InvalidSizeError, "stages names 2 layers, the auxiliary model has 3"),
        (lambda: fitted("sws", stages=[0, 0, 1], num_stages=3), errors.InvalidSizeError, "uses 2 stages and num_stages=3; leave"),
        (lambda: fitted("sws", stages=[0, 2, 2], num_stages=3), errors.InvalidSizeError, "No layer is of stage 1 in .*without"),
        (lambda: fitted("sws", stages=[0, 0, -1]), errors.InvalidSizeError, "stages are numbers from 0; they were"),
        (lambda: fitted("sws").for_size(num_hidden_layers=2), errors.InvalidSizeError, "`sws` has no scalers"),
        (lambda: fitted("wave", template_share=0), errors.InvalidSizeError, "above 0"),
        (lambda: fitted("tleg", fit_layers="some"), errors.UnknownOptionError, "fit_layers is one of picked, all"),
        (lambda: fitted("fine", num_groups=4), errors.InvalidSizeError, "num_groups=4 .* 3 layers; it lies between 1 and 3"),
        (lambda: fitted("fine", rank=0), errors.InvalidSizeError, "rank is at least 1"),
        (lambda: AutoLearngene.from_ancestry(tiny_model("vit", "ViTModel"), "wawe"), errors.UnknownOptionError,
         "Did you mean 'wave'"),
        (lambda: fitted("tleg", num_stages=2), errors.UnknownOptionError, "tleg has no option 'num_stages'"),
        (lambda: fitted("tleg").initialize(num_layrs=2), errors.UnknownOptionError, "no size field 'num_layrs'"),
        (lambda: AutoLearngene.from_ancestry(tiny_model("albert", "AlbertModel"), "sws"), errors.UnsupportedFamilyError,
         "share one set"),
        (lambda: WaveConfig(), errors.UnsupportedFamilyError, "needs the config of the model"),
        (lambda: WaveConfig(base_config={"model_type": "nonesuch"}), errors.UnsupportedFamilyError, "'nonesuch'"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_ordinary_checkpoint_is_no_learngene(vit_folder):
    with pytest.raises(errors.CheckpointError, match="`vit` model, not a learngene.*from_ancestry"):
        AutoLearngene.from_pretrained(vit_folder)


def test_names_are_registered_once():
    with pytest.raises(errors.UnknownOptionError, match="'sws' is taken"):
        register_learngene(SwsConfig, SwsLearngene)
    with pytest.raises(errors.UnknownOptionError, match="learngene_type is one of"):
        AutoLearngeneConfig.for_type("none", base_config=plan_of("vit", "ViTModel", hidden_size=16).target_config)


def test_public_names():
    assert hf_learngene.AutoLearngene is AutoLearngene


def test_the_ancestry_model_is_brought_to_the_auxiliary_size():
    learngene = fitted("sws", num_hidden_layers=2)
    assert learngene.base.num_hidden_layers == 2
    source = tiny_model("vit", "ViTForImageClassification")
    assert torch.equal(learngene.initialize().vit.layers[1].mlp.fc1.weight, source.vit.layers[2].mlp.fc1.weight)


# ---- LeTs


def test_lets_makes_every_width_between_its_small_layers_and_the_whole():
    learngene = AutoLearngene.from_ancestry(
        tiny_model("vit", "ViTForImageClassification", {"num_hidden_layers": 4}), "lets",
        learngene_hidden_size=8, learngene_layers=2,
    )  # fmt: skip
    for width in (8, 16, 24):
        made = learngene.initialize(hidden_size=width, num_hidden_layers=3)
        assert made(**inputs_for(made)).logits.shape == (2, 5)
    whole, narrow = learngene.initialize(), learngene.initialize(hidden_size=16)
    # a narrower model takes the first rows of the maps, so it is the first entries of the whole
    torch.testing.assert_close(
        narrow.vit.layers[1].mlp.fc1.weight[:16, :16], whole.vit.layers[1].mlp.fc1.weight[:16, :16]
    )
    # coefficients belong to pairs of layers
    assert torch.equal(whole.vit.layers[2].mlp.fc1.weight, whole.vit.layers[3].mlp.fc1.weight)
    small = learngene.shared.take("vit.layers.mlp.fc1.weight.small.0")
    narrowest = learngene.initialize(hidden_size=8)
    assert torch.equal(narrowest.vit.layers[0].mlp.fc1.weight, small)
    with pytest.raises(errors.InvalidSizeError, match="widths from 8 to 24, in whole heads of 8"):
        learngene.initialize(hidden_size=32)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"learngene_hidden_size": 12}, "whole heads of 8"), ({"learngene_hidden_size": 32}, "from 8 to .* 24"),
     ({"learngene_layers": 9}, "between 1 and .* 3 layers")],
)  # fmt: skip
def test_lets_is_smaller_than_what_it_makes(options, message):
    with pytest.raises(errors.InvalidSizeError, match=message):
        fitted("lets", **options)
