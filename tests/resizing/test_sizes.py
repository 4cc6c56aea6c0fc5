"""What is left out follows the source's proportions; config fields follow the sizes."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from hf_learngene import plan, resize
from hf_learngene.errors import InvalidSizeError
from testing.families import inputs_for, model_class, plan_of, tiny_config, tiny_model


def target(kind, class_name, extra=None, **request):
    """The target config of a request to a family's tiny config."""
    return plan_of(kind, class_name, extra, **request).target_config


# ---- proportions


def test_heads_ffn_and_pooler_follow_the_width():
    config = target("vit", "ViTModel", hidden_size=16)
    assert (config.num_attention_heads, config.intermediate_size, config.pooler_output_size) == (2, 27, 16)
    assert config.num_hidden_layers == 3
    assert getattr(config, "head_dim", None) is None


def test_what_is_asked_for_stays():
    config = target(
        "vit", "ViTModel", hidden_size=16, num_attention_heads=4, intermediate_size=33, num_hidden_layers=1
    )
    assert (config.num_attention_heads, config.intermediate_size, config.num_hidden_layers) == (4, 33, 1)


def test_a_pooler_of_another_width_is_no_repetition_of_the_width():
    config = tiny_config("vit")
    config.pooler_output_size = 10
    made = resize(transformers.ViTModel(config), hidden_size=16)
    assert made.config.pooler_output_size == 10
    assert made.pooler.dense.weight.shape == (10, 16)


def test_a_head_size_of_its_own_is_written_only_where_it_is_needed():
    assert target("vit", "ViTModel", hidden_size=24, num_attention_heads=2, head_dim=8).head_dim == 8
    assert target("vit", "ViTModel", hidden_size=32, num_attention_heads=3, head_dim=8).num_attention_heads == 3
    assert getattr(target("vit", "ViTModel", hidden_size=24, num_attention_heads=4), "head_dim", None) is None
    small = resize(tiny_model("vit", "ViTModel"), num_attention_heads=2, head_dim=8)
    assert small.layers[0].attention.q_proj.weight.shape == (16, 24)


def test_the_embedding_of_electra_follows_only_while_it_repeats_the_width():
    assert target("electra", "ElectraForMaskedLM", {"embedding_size": 24}, hidden_size=16).embedding_size == 16
    assert target("electra", "ElectraForMaskedLM", {"embedding_size": 16}, hidden_size=8).embedding_size == 16
    assert (
        target(
            "electra", "ElectraForMaskedLM", {"embedding_size": 24}, hidden_size=16, embedding_size=20
        ).embedding_size
        == 20
    )
    small = resize(tiny_model("electra", "ElectraForMaskedLM"), embedding_size=12, hidden_size=16)
    assert small.electra.embeddings_project.weight.shape == (16, 12)


def test_grouped_heads_keep_their_groups():
    extra = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
    config = target("eurobert", "EuroBertModel", extra, hidden_size=12)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 6)
    config = target("eurobert", "EuroBertModel", extra, hidden_size=48)
    assert (config.num_attention_heads, config.num_key_value_heads) == (8, 4)


@pytest.mark.parametrize(
    "names",
    [
        ("dim", "n_heads", "hidden_dim", "n_layers"),
        ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers"),
    ],
)
def test_a_familys_own_names_and_the_usual_ones(names):
    config = target("distilbert", "DistilBertForMaskedLM", **dict(zip(names, (16, 4, 20, 2), strict=True)))
    assert (config.dim, config.n_heads, config.hidden_dim, config.n_layers) == (16, 4, 20, 2)
    assert config.hidden_size == 16
    saved = json.loads(config.to_json_string())
    assert saved["dim"] == 16
    assert "hidden_size" not in saved


def test_an_ffn_that_is_a_ratio_of_the_width():
    assert target("dinov2", "Dinov2Model", hidden_size=16).mlp_ratio == 2
    assert target("dinov2", "Dinov2Model", mlp_ratio=1).mlp_ratio == 1
    config = target("dinov2", "Dinov2Model", hidden_size=16, intermediate_size=16)
    assert config.mlp_ratio == 1
    assert not hasattr(config, "intermediate_size")
    small = resize(tiny_model("dinov2", "Dinov2Model"), hidden_size=16, intermediate_size=16)
    assert small.encoder.layer[0].mlp.fc1.weight.shape == (16, 16)


def test_a_swiglu_keeps_its_rounded_width():
    small = resize(tiny_model("dinov2", "Dinov2Model", {"use_swiglu_ffn": True}), hidden_size=16)
    fresh = model_class("Dinov2Model")(small.config)
    assert [p.shape for p in small.parameters()] == [p.shape for p in fresh.parameters()]


def test_the_sizes_of_a_nested_config():
    config = target("clip", "CLIPForImageClassification", hidden_size=16, num_hidden_layers=2)
    vision = config.vision_config
    assert (vision.hidden_size, vision.num_attention_heads, vision.intermediate_size, vision.num_hidden_layers) == (
        16,
        2,
        27,
        2,
    )
    assert config.text_config.to_dict() == tiny_config("clip", "pixel_values").text_config.to_dict()
    assert config.num_labels == target("clip", "CLIPForImageClassification").num_labels
    assert target("clip", "CLIPForImageClassification", num_labels=9).num_labels == 9


# ---- derived fields


@pytest.mark.parametrize("kind", ["dinov2", "beit"])
def test_stage_names_and_out_indices_follow_the_depth(kind):
    class_name = {"dinov2": "Dinov2Model", "beit": "BeitModel"}[kind]
    for depth in (2, 5):
        config = target(kind, class_name, num_hidden_layers=depth)
        assert config.stage_names == ["stem", *(f"stage{i}" for i in range(1, depth + 1))]
        assert list(config.out_indices) == [depth]  # the last stays the last
        assert config.out_features == [f"stage{depth}"]
        again = type(config).from_dict(json.loads(config.to_json_string()))
        assert (list(again.out_indices), again.out_features) == ([depth], [f"stage{depth}"])


def test_out_indices_below_the_last_stay():
    config = target("dinov2", "Dinov2Model", {"out_indices": [1, 2, 3]}, num_hidden_layers=2)
    assert list(config.out_indices) == [1, 2]
    backbone = transformers.Dinov2Backbone(config)
    assert len(backbone(torch.zeros(1, 3, 12, 12)).feature_maps) == 2


def test_layer_types_follow_the_layers_they_belong_to():
    full, sliding = "full_attention", "sliding_attention"
    assert target("modernbert", "ModernBertModel").layer_types == [full, sliding, full]
    assert target("modernbert", "ModernBertModel", num_hidden_layers=2).layer_types == [full, full]  # layers 0 and 2
    picked = target("modernbert", "ModernBertModel", method="layers", layer_map=[1, 2, 1])
    assert picked.layer_types == [sliding, full, sliding]
    grown = target("modernbert", "ModernBertModel", num_hidden_layers=5).layer_types
    assert grown == [full, sliding, sliding, full, full]  # each new layer stands behind the one it is made from


def test_attention_windows_follow_the_layers_they_belong_to():
    extra = {"attention_window": [4, 8, 16]}
    assert target("longformer", "LongformerModel", extra, method="layers", layer_map=[0, 2]).attention_window == [
        4,
        16,
    ]
    assert target("longformer", "LongformerModel", extra, num_hidden_layers=5).attention_window == [4, 8, 8, 16, 16]
    assert target("longformer", "LongformerModel", {"attention_window": 8}, num_hidden_layers=2).attention_window in (
        8,
        [8, 8],
    )


def test_lists_as_long_as_the_depth_by_chance_stay():
    two = {"num_hidden_layers": 2}
    pair = target("vit", "ViTModel", {"image_size": (12, 20), **two}, num_hidden_layers=3)
    assert tuple(pair.image_size) == (12, 20)
    for depth in (1, 3):
        assert target("deberta", "DebertaModel", two, num_hidden_layers=depth).pos_att_type == ["c2p", "p2c"]


def test_the_stride_of_a_decoder_follows_the_patch():
    kept = target("vit", "ViTForMaskedImageModeling", {"encoder_stride": 4}, patch_size=6)
    assert kept.encoder_stride == 6
    model = resize(tiny_model("vit", "ViTForMaskedImageModeling", {"encoder_stride": 4}), patch_size=6)
    masked = torch.zeros(2, 4, dtype=torch.bool)
    assert model(**inputs_for(model), bool_masked_pos=masked).reconstruction.shape == (2, 3, 12, 12)


def test_nothing_asked_for_changes_nothing():
    for kind, class_name in (("vit", "ViTModel"), ("modernbert", "ModernBertModel"), ("dinov2", "Dinov2Model")):
        before = tiny_config(kind, model_class(class_name).main_input_name)
        after = target(kind, class_name)
        assert {k: v for k, v in after.to_dict().items() if k != "learngene"} == before.to_dict()


# ---- size completion, whatever is asked


FAMILIES = [("vit", "ViTModel", True), ("bert", "BertModel", False), ("distilbert", "DistilBertModel", False)]


@given(
    family=st.sampled_from(FAMILIES),
    hidden=st.none() | st.integers(1, 80),
    heads=st.none() | st.integers(1, 9),
    ffn=st.none() | st.integers(1, 99),
    depth=st.none() | st.integers(1, 6),
)
def test_sizes_are_completed_or_refused_with_sizes_that_work(family, hidden, heads, ffn, depth):
    kind, class_name, _ = family
    names = ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")
    wanted = {n: v for n, v in zip(names, (hidden, heads, ffn, depth), strict=True) if v is not None}
    width, count = hidden or 24, heads or (hidden or 24) // 8
    if (heads and width % heads) or (not heads and width % 8):
        with pytest.raises(InvalidSizeError, match="nearest widths are ([0-9]+)") as caught:
            target(kind, class_name, method="random", **wanted)
        nearest = int(str(caught.value).split("nearest widths are ")[1].split()[0].strip(".;"))
        assert target(kind, class_name, method="random", **{**wanted, "hidden_size": nearest}).hidden_size == nearest
        return
    config = target(kind, class_name, method="random", **wanted)
    assert config.hidden_size == width
    assert config.num_attention_heads == count
    assert config.num_hidden_layers == (depth or 3)
    native = "hidden_dim" if kind == "distilbert" else "intermediate_size"
    assert getattr(config, native) == (ffn or max(1, round(40 * width / 24)))


# ---- budgets


@pytest.mark.parametrize(
    ("kind", "class_name"),
    [("vit", "ViTForImageClassification"), ("bert", "BertForMaskedLM"), ("albert", "AlbertModel"), ("dinov2", "Dinov2Model"),
     ("modernbert", "ModernBertForMaskedLM"), ("electra", "ElectraModel"), ("deberta-v2", "DebertaV2Model")],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.5, 2.5])
def test_the_planned_number_of_parameters_is_that_of_the_model(kind, class_name, share):
    model = tiny_model(kind, class_name, dtype=torch.float32)
    made = plan(model, params=share if share < 1 else round(share * model.num_parameters()))
    assert made.source_parameters == model.num_parameters()
    assert (
        made.num_parameters
        == resize(model, params=share if share < 1 else round(share * model.num_parameters())).num_parameters()
    )
    assert 0.2 < made.num_parameters / (share * model.num_parameters()) <= 1  # tiny models come in coarse steps


@pytest.mark.parametrize("config", [transformers.ViTConfig(), transformers.BertConfig()], ids=lambda c: c.model_type)
@pytest.mark.parametrize(
    ("params", "wanted"),
    [("20M", 20e6), ("0.03B", 30e6), ("25000k", 25e6), (40_000_000, 40e6), (0.25, None), ("0.5", None)],
)
def test_budgets_are_met_in_the_sources_proportions(config, params, wanted):
    made = plan(config, params=params, calibration=None)
    wanted = wanted or float(params) * made.source_parameters
    assert 0.85 < made.num_parameters / wanted <= 1
    new = made.target_config
    assert new.num_attention_heads * 64 == new.hidden_size
    assert new.intermediate_size == 4 * new.hidden_size
    assert 0.5 < (new.hidden_size / 768) / (new.num_hidden_layers / 12) < 2


def test_a_budget_of_the_source_itself_changes_nothing():
    config = transformers.ViTConfig()
    own = plan(config).num_parameters
    for params in (own, 1.0):
        assert plan(config, params=params).changes == "nothing"


def test_a_budget_is_a_ceiling_and_no_size_goes_beyond_the_sources():
    sources = [
        transformers.ViTConfig(),
        transformers.BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536),
        transformers.BertConfig(num_hidden_layers=2),
    ]
    for config in sources:
        for share in (0.9, 0.6, 0.33, 0.25):
            made = plan(config, params=share)
            assert 0.75 * share < made.num_parameters / made.source_parameters <= share
            assert all(made.target.sizes[n] <= made.source.sizes[n] for n in made.source.sizes)
    # what is given by name may grow, and leaves less for the rest
    made = plan(transformers.ViTConfig(), params=0.5, num_hidden_layers=24)
    assert made.target_config.num_hidden_layers == 24
    assert made.num_parameters <= 0.5 * made.source_parameters
    # a family rounds its ffn, which no product of sizes tells
    rounded = plan_of("dinov2", "Dinov2Model", {"use_swiglu_ffn": True}, params=0.7)
    assert rounded.num_parameters <= 0.7 * rounded.source_parameters


def test_a_budget_at_another_resolution():
    own = plan(transformers.ViTConfig()).num_parameters
    made = plan(transformers.ViTConfig(), params=0.3, image_size=448)
    assert 0.25 * own < made.num_parameters <= 0.3 * own


def test_a_budget_that_grows_stays_exact():
    assert (
        plan(transformers.BertConfig(), params="300M").target_config.hidden_size % 768 == 0
    )  # only multiples are exact
    assert plan(transformers.ViTConfig(), params="150M").method == "lemon"


@pytest.mark.parametrize(
    "fixed",
    [{"num_hidden_layers": 12}, {"hidden_size": 384}, {"intermediate_size": 512}, {"vocab_size": 1000},
     {"num_attention_heads": 4}, {"max_position_embeddings": 4096}],
    ids=str,
)  # fmt: skip
def test_sizes_given_beside_a_budget_stay_and_count(fixed):
    made = plan(transformers.BertConfig(), params="30M", **fixed)
    assert 0.8 < made.num_parameters / 30e6 <= 1
    assert {n: getattr(made.target_config, n) for n in fixed} == fixed


@pytest.mark.parametrize(
    ("config", "class_name", "sizes"),
    [
        (transformers.ViTConfig(head_dim=64), "ViTForImageClassification",
         {"hidden_size": 320, "num_attention_heads": 3, "head_dim": 64, "intermediate_size": 500, "num_hidden_layers": 5}),
        (transformers.BertConfig(), "BertForMaskedLM",
         {"hidden_size": 384, "intermediate_size": 100, "num_hidden_layers": 3, "vocab_size": 1000}),
        (transformers.AlbertConfig(), "AlbertModel", {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 300}),
        (transformers.Dinov2Config(), "Dinov2Model", {"hidden_size": 384, "mlp_ratio": 2, "num_hidden_layers": 7}),
        (transformers.ModernBertConfig(), "ModernBertModel", {"hidden_size": 384, "intermediate_size": 640}),
        (transformers.DebertaV2Config(), "DebertaV2Model", {"hidden_size": 768, "num_hidden_layers": 4}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_parameters_are_counted_without_building_anything(config, class_name, sizes):
    from hf_learngene.anatomy import anatomy_of
    from hf_learngene.budget.count import parameter_count

    cls = getattr(transformers, class_name)
    made = plan(config, model_class=cls, **sizes)
    anatomy = anatomy_of(config, cls)
    full = {n: made.target.sizes[n] for n in anatomy.sizes if n in made.target.sizes}
    assert parameter_count(anatomy)(full) == made.num_parameters


def test_a_size_that_the_family_itself_cannot_build():
    with pytest.raises(InvalidSizeError, match="`roberta` cannot be built with vocab_size 61 → 1: Padding_idx"):
        target("roberta", "RobertaForMaskedLM", vocab_size=1)
    with pytest.raises(
        InvalidSizeError, match=r"`siglip_vision_model` cannot be built with image_size 12 → \(8, 20\)"
    ):
        target("siglip_vision_model", "SiglipVisionModel", image_size=(8, 20))
