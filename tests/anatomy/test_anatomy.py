"""Anatomy: axes and roles found by probing, against what is known of a few families."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM, ViTForImageClassification

from hf_learngene import plan, resize, verify
from hf_learngene.anatomy import anatomy_like, anatomy_of, infer, register_anatomy, registry
from hf_learngene.anatomy.axes import UNKNOWN
from hf_learngene.errors import InvalidSizeError, UnknownOptionError, UnsupportedFamilyError
from testing.families import case_id, listed, model_class, tiny_config, tiny_model


def axes(anatomy, name):
    return [d.axis for d in anatomy.tensors[name].dims]


@pytest.mark.every_family
@pytest.mark.parametrize("case", listed(), ids=case_id)
def test_every_parameter_is_described(case):
    kind, extra, name = case
    cls = model_class(name)
    config = tiny_config(kind, cls.main_input_name, **extra)
    anatomy = anatomy_of(config, cls)
    model = cls(config)
    own = dict(model.named_parameters(remove_duplicate=False))
    assert set(own) == set(anatomy.tensors) | set(anatomy.ties)
    assert all(tuple(own[n].shape) == t.shape for n, t in anatomy.tensors.items())
    assert anatomy.num_parameters == sum(p.numel() for p in model.parameters())
    assert not any(d.axis == UNKNOWN for t in anatomy.tensors.values() for d in t.dims)
    roles = {t.role for t in anatomy.tensors.values()}
    assert "o" in roles
    assert {"q", "k", "v"} <= roles or "qkv" in roles


def test_vit():
    anatomy = anatomy_of(tiny_config("vit", "pixel_values"), ViTForImageClassification)
    assert axes(anatomy, "vit.layers.1.attention.q_proj.weight") == ["heads", "hidden"]
    assert axes(anatomy, "vit.layers.1.attention.o_proj.weight") == ["hidden", "heads"]
    assert axes(anatomy, "vit.layers.1.mlp.fc1.weight") == ["ffn", "hidden"]
    assert axes(anatomy, "vit.embeddings.position_embeddings") == ["fixed", "patches", "hidden"]
    assert anatomy.tensors["vit.embeddings.position_embeddings"].dims[1].prefix == 1
    assert axes(anatomy, "classifier.weight") == ["labels", "hidden"]
    assert not anatomy.post_norm
    assert not anatomy.norms_that_need_multiples()
    assert anatomy.tensors["vit.layers.1.attention.o_proj.weight"].writes_stream
    assert anatomy.tensors["vit.layers.1.mlp.fc1.weight"].reads_norm


def test_bert():
    anatomy = anatomy_of(tiny_config("bert"), BertForMaskedLM)
    assert anatomy.post_norm
    assert anatomy.tied_readers == {"cls.predictions.transform.LayerNorm": "bert.embeddings.word_embeddings.weight"}
    needy = {n.name for n in anatomy.norms_that_need_multiples()}
    assert "bert.embeddings.LayerNorm" not in needy
    assert "bert.encoder.layer.2.output.LayerNorm" in needy
    assert axes(anatomy, "bert.encoder.layer.0.attention.self.query.bias") == ["heads"]


def test_fused_projections():
    modern = anatomy_of(tiny_config("modernbert"), model_class("ModernBertModel"))
    wqkv, wi = (modern.tensors[f"layers.0.{n}.weight"].dims[0] for n in ("attn.Wqkv", "mlp.Wi"))
    assert (wqkv.axis, wqkv.parts, wi.axis, wi.parts) == ("heads", 3, "ffn", 2)
    deberta = anatomy_of(tiny_config("deberta"), model_class("DebertaModel"))
    assert deberta.tensors["encoder.layer.0.attention.self.in_proj.weight"].dims[0].by_head
    dinov2 = anatomy_of(tiny_config("dinov2", "pixel_values"), model_class("Dinov2ForImageClassification"))
    assert dinov2.tensors["classifier.weight"].dims[1].parts == 2


def test_embedding_norms_of_pre_norm_families_need_multiples():
    for kind, name in (("clip_vision_model", "CLIPVisionModel"), ("roberta-prelayernorm", "RobertaPreLayerNormModel")):
        cls = model_class(name)
        anatomy = anatomy_of(tiny_config(kind, cls.main_input_name), cls)
        assert not anatomy.post_norm
        assert anatomy.norms_that_need_multiples()


def test_all_layers_are_described_at_any_depth():
    for depth in (1, 2, 3, 9):
        anatomy = anatomy_of(tiny_config("bert", num_hidden_layers=depth), BertForMaskedLM)
        assert {t.layer for t in anatomy.tensors.values()} == {None, *range(depth)}
        assert sum(n.closes_layer for n in anatomy.norms) == depth
        order = [n.name for n in anatomy.norms]
        assert order.index("bert.embeddings.LayerNorm") == 0
        assert order[-1] == "cls.predictions.transform.LayerNorm"


def test_one_head_is_still_heads():
    config = tiny_config("vit", "pixel_values", num_attention_heads=1, head_dim=4)
    assert axes(anatomy_of(config, ViTForImageClassification), "vit.layers.0.attention.q_proj.weight") == [
        "heads",
        "hidden",
    ]


def test_the_anatomy_of_another_size_follows_from_a_known_one():
    known = anatomy_of(tiny_config("vit", "pixel_values"), ViTForImageClassification)
    other = tiny_config("vit", "pixel_values", hidden_size=48, num_hidden_layers=5, num_attention_heads=6)
    assert (
        anatomy_like(known, other, ViTForImageClassification).tensors
        == anatomy_of(other, ViTForImageClassification).tensors
    )


def test_what_was_found_is_not_looked_for_again(monkeypatch):
    config = tiny_config("vit", "pixel_values")
    known = anatomy_of(config, ViTForImageClassification)
    other = tiny_config("vit", "pixel_values", hidden_size=48, num_hidden_layers=7)
    like = anatomy_like(known, other, ViTForImageClassification)
    monkeypatch.setattr(infer, "build", lambda *given: pytest.fail("a model was built"))
    assert anatomy_of(tiny_config("vit", "pixel_values"), ViTForImageClassification) is known
    assert anatomy_like(known, copy.deepcopy(other), ViTForImageClassification) is like
    config.name_or_path, config.learngene = "elsewhere", {"format": 1}
    assert anatomy_of(config, ViTForImageClassification) is known


class TestRegisterAnatomy:
    @pytest.fixture(autouse=True)
    def _forget(self):
        yield
        registry._DECLARED.pop("vit", None)

    def test_a_declared_axis_wins(self):
        config = tiny_config("vit", "pixel_values")
        register_anatomy("vit", axes={r"^classifier\.weight$": ("labels", "fixed")})
        assert axes(anatomy_of(config, ViTForImageClassification), "classifier.weight") == ["labels", "fixed"]

    def test_a_wrong_declaration_is_caught_by_the_growth(self):
        register_anatomy("vit", roles={r"k_proj\.(weight|bias)$": "v"})
        with pytest.raises(UnsupportedFamilyError, match="found roles: .*needed: q, k, v"):
            anatomy_of(tiny_config("vit", "pixel_values"), ViTForImageClassification)

    def test_what_was_found_and_what_matches_nothing_is_told(self):
        register_anatomy("vit", roles={r"k_proj\.(weight|bias)$": "v", r"attn\.first$": "q"})
        with pytest.raises(UnsupportedFamilyError, match=r"k_proj\.weight \(v\).*no parameter's name: 'attn"):
            anatomy_of(tiny_config("vit", "pixel_values"), ViTForImageClassification)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (("labels", "hiden"), "the axis 'hiden'.*Did you mean 'hidden'"),
            (("labels",), r"names 1 axes.*has 2 dimensions \(2, 24\)"),
        ],
    )
    def test_axes_that_do_not_fit(self, given, message):
        register_anatomy("vit", axes={r"^classifier\.weight$": given})
        with pytest.raises(UnknownOptionError, match=message):
            anatomy_of(tiny_config("vit", "pixel_values"), ViTForImageClassification)

    def test_a_renamed_family_grows_exactly_with_a_declaration(self):
        register_anatomy("vit", roles={r"q_proj\.(weight|bias)$": "q", r"k_proj\.(weight|bias)$": "k"})
        model = tiny_model("vit", "ViTForImageClassification")
        assert verify(model, resize(model, method="lemon", num_attention_heads=4, head_dim=12)).function_preserving

    @pytest.mark.parametrize(
        ("kind", "value", "message"),
        [("roles", {"x": "qq"}, "'qq' does not exist"), ("roles", {"(": "q"}, "no regular")],
    )
    def test_bad_declarations(self, kind, value, message):
        with pytest.raises(UnknownOptionError, match=message):
            register_anatomy("vit", **{kind: value})


def test_the_model_is_not_touched():
    model = tiny_model("bert", "BertForMaskedLM")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config = model.config.to_json_string()
    anatomy_of(model.config, type(model))
    assert model.config.to_json_string() == config
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("family", "name", "reader", "norm"),
    [
        ("vit", "ViTForImageClassification", "mlp.fc1.weight", "vit.layers.{}.layernorm_after"),
        ("vit", "ViTForImageClassification", "q_proj.bias", "vit.layers.{}.layernorm_before"),
        ("vit", "ViTForImageClassification", "classifier.weight", "vit.layernorm"),
        ("bert", "BertForMaskedLM", "intermediate.dense.weight", "bert.encoder.layer.{}.attention.output.LayerNorm"),
        ("bert", "BertForMaskedLM", "self.query.weight", ""),  # of the layer before
        ("modernbert", "ModernBertForMaskedLM", "attn.Wqkv.weight", ""),  # the first layer reads the embeddings' norm
    ],
)
def test_which_norm_a_matrix_reads(family, name, reader, norm):
    model = tiny_model(family, name)
    found = anatomy_of(model.config, type(model)).templates
    assert {info.norm for template, info in found.items() if template.endswith(reader)} == {norm}


def test_a_head_size_that_a_target_gives_counts():
    model = tiny_model("vit", "ViTForImageClassification")
    known = anatomy_of(model.config, type(model))
    config = copy.deepcopy(model.config)
    config.head_dim = 4
    assert known.sizes["head_dim"] == 8
    assert anatomy_like(known, config, type(model)).sizes["head_dim"] == 4


@pytest.mark.parametrize(
    ("kind", "name"), [("wav2vec2", "Wav2Vec2Model"), ("wavlm", "WavLMModel"), ("vilt", "ViltModel")]
)
def test_what_a_family_draws_on_the_way_leaves_the_callers_random_numbers_alone(kind, name):
    """In its constructor, whatever the device, or in a forward pass in eval mode."""
    cls = model_class(name)
    config = tiny_config(kind, cls.main_input_name, num_hidden_layers=4)
    state = torch.get_rng_state()
    made = plan(config, model_class=cls, calibration=None, num_hidden_layers=2)
    assert made.costs
    assert torch.equal(torch.get_rng_state(), state)


def test_a_size_whose_quotient_leaves_a_tensor_empty_is_refused():
    cls = model_class("LiltModel")
    config = tiny_config("lilt", cls.main_input_name)
    with pytest.raises(InvalidSizeError, match="would have no entry in `.*layout"):
        plan(config, model_class=cls, method="weight_selection", intermediate_size=1)


def test_numpys_random_numbers_are_left_alone_too():
    cls = model_class("Wav2Vec2Model")
    config = tiny_config("wav2vec2", cls.main_input_name, num_hidden_layers=4, add_adapter=True)
    state = np.random.get_state()[1].copy()
    plan(config, model_class=cls, calibration=None, num_hidden_layers=2)  # its adapter draws in eval mode
    assert (np.random.get_state()[1] == state).all()


def test_an_epsilon_of_zero_is_no_reason_to_refuse():
    anatomy = anatomy_of(tiny_config("bert", layer_norm_eps=0.0), BertForMaskedLM)
    assert anatomy.eps_field is None
    assert anatomy_of(tiny_config("bert"), BertForMaskedLM).eps_field == "layer_norm_eps"


def test_probing_leaves_the_names_of_labels_alone():
    config = tiny_config("bert", num_labels=4)
    names = dict(config.id2label)
    anatomy_of(config, BertForMaskedLM)
    assert config.id2label == names
    assert config.num_labels == 4
