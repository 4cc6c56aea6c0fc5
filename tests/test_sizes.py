"""What is left out follows the source's proportions; config fields follow the sizes; grids, kernels and tables are resampled."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from families import inputs_for, model_class, tiny_config, tiny_model
from hypothesis import given
from hypothesis import strategies as st

from hf_learngene import plan, resize
from hf_learngene.errors import InvalidSizeError
from hf_learngene.maps.geometry import MixChannels, ResampleGrid, ResampleKernel, ResampleLine, ResampleRelative
from hf_learngene.maps.steps import Context


NO_CONTEXT = Context({}.__getitem__)


def target(kind, class_name, extra=None, **request):
    """The target config of a request to a family's tiny config."""
    cls = model_class(class_name)
    return plan(tiny_config(kind, cls.main_input_name, **(extra or {})), model_class=cls, **request).target_config


def fates(kind, class_name, extra=None, **request):
    cls = model_class(class_name)
    made = plan(tiny_config(kind, cls.main_input_name, **(extra or {})), model_class=cls, **request)
    return {t.name: t.fate for t in made.tensors}


def smooth(*shape):
    """Slow waves along the last two dimensions, one phase for each entry of the others."""
    rows, columns = (torch.linspace(0, 1, n, dtype=torch.float64) for n in shape[-2:])
    phase = torch.arange(math.prod(shape[:-2]), dtype=torch.float64).reshape(*shape[:-2], 1, 1)
    return torch.sin(2 * rows[:, None] + phase) + torch.cos(3 * columns[None] + 2 * phase)


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
    assert target("modernbert", "ModernBertModel", num_hidden_layers=2).layer_types == [full, sliding]
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
    assert 0.6 < made.num_parameters / (share * model.num_parameters()) < 1.5  # tiny models come in coarse steps


@pytest.mark.parametrize("config", [transformers.ViTConfig(), transformers.BertConfig()], ids=lambda c: c.model_type)
@pytest.mark.parametrize(
    ("params", "wanted"),
    [("20M", 20e6), ("0.03B", 30e6), ("25000k", 25e6), (40_000_000, 40e6), (0.25, None), ("0.5", None)],
)
def test_budgets_are_met_in_the_sources_proportions(config, params, wanted):
    made = plan(config, params=params)
    wanted = wanted or float(params) * made.source_parameters
    assert abs(made.num_parameters / wanted - 1) < 0.07
    new = made.target_config
    assert new.num_attention_heads * 64 == new.hidden_size
    assert new.intermediate_size == 4 * new.hidden_size
    assert 0.5 < (new.hidden_size / 768) / (new.num_hidden_layers / 12) < 2


def test_a_budget_of_the_source_itself_changes_nothing():
    config = transformers.ViTConfig()
    own = plan(config).num_parameters
    for params in (own, 1.0):
        assert plan(config, params=params).changes == "nothing"


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
    assert abs(made.num_parameters / 30e6 - 1) < 0.12
    assert {n: getattr(made.target_config, n) for n in fixed} == fixed


# ---- positions and patches


def test_a_line_of_positions_is_interpolated():
    table = torch.arange(10.0)[:, None] * torch.tensor([1.0, -2.0])
    longer = ResampleLine(0, 19, 0)(table, NO_CONTEXT)
    assert torch.allclose(longer, torch.linspace(0, 9, 19)[:, None] * torch.tensor([1.0, -2.0]), atol=1e-6)
    assert torch.equal(longer[[0, -1]], table[[0, -1]])
    assert torch.allclose(
        ResampleLine(0, 4, 0)(longer, NO_CONTEXT)[:, 0], torch.tensor([0.0, 3.0, 6.0, 9.0]), atol=1e-6
    )
    padded = ResampleLine(0, 7, 2)(torch.cat([torch.full((2, 2), 99.0), torch.ones(10, 2)]), NO_CONTEXT)
    assert padded[:, 0].tolist() == [99.0, 99.0, 1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("size", [24, 40, 64])
def test_text_positions_of_a_model(size):
    model = tiny_model("roberta", "RobertaModel")
    table = model.embeddings.position_embeddings.weight.detach()
    made = resize(model, max_position_embeddings=size).embeddings.position_embeddings
    assert made.weight.shape == (size, 24)
    assert made.padding_idx == 1
    assert torch.equal(made.weight[:3], table[:3])  # two rows of padding and the first position
    assert torch.equal(made.weight[-1], table[-1])
    with torch.no_grad():
        model.embeddings.position_embeddings.weight[2:] = torch.arange(24.0)
    constant = resize(model, max_position_embeddings=size).embeddings.position_embeddings.weight[2:]
    assert torch.allclose(constant, torch.arange(24.0, dtype=torch.float64).expand_as(constant), atol=1e-12)


def test_a_lossless_growth_keeps_every_position():
    model = tiny_model("bert", "BertModel")
    made = resize(model, max_position_embeddings=64, method="lemon").embeddings.position_embeddings.weight
    assert torch.equal(made[:40], model.embeddings.position_embeddings.weight)
    assert torch.equal(made[40:], made[:24])


@pytest.mark.parametrize("new", [(7, 4), (2, 3), (5, 5), (3, 6)])
def test_a_grid_of_positions_is_resampled_in_two_dimensions(new):
    old = (4, 3)
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in old), indexing="ij")
    grid = torch.stack([torch.full(old, 5.0, dtype=torch.float64), rows, columns], -1).reshape(12, 3)
    prefix = torch.tensor([[100.0, 200.0, 300.0], [-1.0, -2.0, -3.0]], dtype=torch.float64)
    made = ResampleGrid(1, old, new, 2)(torch.cat([prefix, grid])[None], NO_CONTEXT)
    assert made.shape == (1, new[0] * new[1] + 2, 3)
    assert torch.equal(made[0, :2], prefix)  # class and distillation tokens
    constant, along_rows, along_columns = made[0, 2:].reshape(*new, 3).unbind(-1)
    assert torch.allclose(constant, torch.full(new, 5.0, dtype=torch.float64))
    assert torch.allclose(
        along_rows, along_rows[:, :1].expand(new)
    )  # what varies along the height still does only there
    assert torch.allclose(along_columns, along_columns[:1].expand(new))
    assert (along_rows[1:] >= along_rows[:-1]).all()
    assert (along_columns[:, 1:] >= along_columns[:, :-1]).all()


def test_a_grid_of_relative_positions_keeps_its_middle():
    old, new = (3, 4), (5, 4)
    rows = torch.arange(-2.0, 3.0, dtype=torch.float64)[:, None].expand(5, 7)
    special = torch.tensor([70.0, 80.0, 90.0], dtype=torch.float64)
    made = ResampleRelative(0, old, new, 3)(torch.cat([rows.reshape(-1), special])[:, None], NO_CONTEXT)[:, 0]
    assert torch.equal(made[-3:], special)
    distances = made[:-3].reshape(9, 7)
    assert torch.allclose(distances[4], torch.zeros(7, dtype=torch.float64), atol=1e-12)  # distance 0 is distance 0
    assert torch.allclose(distances, -distances.flip(0), atol=1e-12)
    assert torch.allclose(distances, distances[:, :1].expand(9, 7))


@pytest.mark.parametrize(
    ("kind", "class_name", "name", "prefix"),
    [
        ("vit", "ViTModel", "embeddings.position_embeddings", 1),
        ("deit", "DeiTModel", "embeddings.position_embeddings", 2),
        ("dinov2_with_registers", "Dinov2WithRegistersModel", "embeddings.position_embeddings", 1),
        ("ijepa", "IJepaModel", "embeddings.position_embeddings", 0),
        ("clip_vision_model", "CLIPVisionModel", "embeddings.position_embedding.weight", 1),
        ("siglip_vision_model", "SiglipVisionModel", "embeddings.position_embedding.weight", 0),
    ],
)
def test_image_positions_of_a_model(kind, class_name, name, prefix):
    model = tiny_model(kind, class_name)
    table = model.get_parameter(name)
    with torch.no_grad():
        table.copy_(torch.arange(24.0).expand_as(table))
        table.view(-1, 24)[:prefix] += 50
    made = resize(model, image_size=20)
    rows = made.get_parameter(name).view(-1, 24)
    assert rows.shape[0] == 25 + prefix
    assert torch.equal(rows[:prefix], table.view(-1, 24)[:prefix])
    assert torch.allclose(rows[prefix:], torch.arange(24.0, dtype=torch.float64).expand(25, 24), atol=1e-5)
    assert torch.isfinite(made(**inputs_for(made)).last_hidden_state).all()


@pytest.mark.parametrize(
    ("extra", "request_"),
    [({"image_size": (12, 20)}, {"image_size": (20, 8)}), ({}, {"image_size": (16, 8)})],
    ids=str,
)
def test_images_that_are_not_square(extra, request_):
    made = resize(tiny_model("vit", "ViTForImageClassification", extra), **request_)
    assert tuple(made.config.image_size) == request_["image_size"]
    assert torch.isfinite(made(**inputs_for(made)).logits).all()


@pytest.mark.parametrize("kind", ["beit", "data2vec-vision"])
def test_relative_tables_of_a_model_follow_the_grid(kind):
    class_name = {"beit": "BeitForImageClassification", "data2vec-vision": "Data2VecVisionForImageClassification"}[
        kind
    ]
    for request in ({"image_size": 20}, {"patch_size": 6}, {"image_size": 18, "patch_size": 6}):
        made = resize(tiny_model(kind, class_name), **request)
        assert torch.isfinite(made(**inputs_for(made)).logits).all()
    assert any(f.startswith("interpolated 3×3 → 5×5") for f in fates(kind, class_name, image_size=20).values())


def test_patches_as_many_in_another_shape_are_resampled_too():
    extra = {"image_size": (32, 8), "patch_size": 4}  # 8 × 2 patches, then 4 × 4
    assert fates("vit", "ViTModel", extra, image_size=16)["embeddings.position_embeddings"] == "interpolated 8×2 → 4×4"


# ---- patch kernels and channels


@pytest.mark.parametrize(("old", "new"), [((4, 4), (8, 8)), ((4, 4), (5, 5)), ((4, 3), (6, 7)), ((2, 4), (4, 4))])
def test_a_larger_kernel_gives_the_same_embedding_of_an_enlarged_patch(old, new):
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(6, 3, *old, generator=generator, dtype=torch.float64)
    patch = torch.randn(2, 3, *old, generator=generator, dtype=torch.float64)
    made = ResampleKernel(old, new)(kernel, NO_CONTEXT)
    assert made.shape == (6, 3, *new)
    enlarged = F.interpolate(patch, size=new, mode="bilinear", align_corners=False)
    before = torch.einsum("ocij,ncij->no", kernel, patch)
    assert torch.allclose(torch.einsum("ocij,ncij->no", made, enlarged), before, atol=1e-10)
    plain = F.interpolate(kernel, size=new, mode="bilinear", align_corners=False)
    assert not torch.allclose(torch.einsum("ocij,ncij->no", plain, enlarged), before, atol=0.1)


@pytest.mark.parametrize(("old", "new"), [(8, 4), (8, 6), (4, 8), (6, 9)])
def test_a_resampled_kernel_sees_the_same_in_a_smooth_patch(old, new):
    generator = torch.Generator().manual_seed(0)
    kernel = smooth(6, 3, old, old) + 0.1 * torch.randn(6, 3, old, old, generator=generator, dtype=torch.float64)
    patch = smooth(2, 3, old, old)
    made = ResampleKernel((old, old), (new, new))(kernel, NO_CONTEXT)
    resized = F.interpolate(patch, size=(new, new), mode="bilinear", antialias=new < old, align_corners=False)
    before, after = (torch.einsum("ocij,ncij->no", k, p) for k, p in ((kernel, patch), (made, resized)))
    assert (after - before).abs().max() < 0.03 * before.abs().max()


@pytest.mark.parametrize(("patch", "image"), [(8, 24), (2, 6)])
def test_a_model_with_other_patches_sees_the_same_in_a_resized_image(patch, image):
    model = tiny_model("vit", "ViTModel")
    with torch.no_grad():
        model.embeddings.patch_embeddings.projection.weight.copy_(smooth(24, 3, 4, 4))
    made = resize(model, patch_size=patch, image_size=image)  # the grid stays 3 × 3
    pictures = smooth(2, 3, 12, 12)
    resized = F.interpolate(pictures, size=(image, image), mode="bilinear", antialias=image < 12, align_corners=False)
    before, after = model.embeddings(pictures), made.embeddings(resized)
    assert after.shape == before.shape
    assert (after - before).norm() < 0.05 * before.norm()
    assert made.config.patch_size == patch


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_channels_see_the_same_in_a_grey_image(channels):
    model = tiny_model("vit", "ViTForImageClassification")
    made = resize(model, num_channels=channels)
    assert made.config.num_channels == channels
    grey = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = [m(pixel_values=grey.expand(2, n, 12, 12)).logits for m, n in ((model, 3), (made, channels))]
    assert torch.allclose(*logits, atol=1e-8)


@pytest.mark.parametrize("method", ["auto", "lemon", "front", "random"])
def test_channels_and_widths_change_together(method):
    for channels in (1, 4):
        made = resize(
            tiny_model("vit", "ViTForImageClassification"), num_channels=channels, hidden_size=48, method=method
        )
        assert made.vit.embeddings.patch_embeddings.projection.weight.shape == (48, channels, 4, 4)


def test_channels_share_what_they_repeat_and_hold_what_they_fold():
    kernel = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    for count, wanted in (
        (1, [7.0]),
        (2, [5.0, 2.0]),
        (3, [1.0, 2.0, 4.0]),
        (4, [0.5, 2.0, 4.0, 0.5]),
        (6, [0.5, 1.0, 2.0] * 2),
    ):
        assert MixChannels(1, count)(kernel, NO_CONTEXT).flatten().tolist() == wanted


# ---- tables


@pytest.mark.parametrize("vocab", [30, 61, 80])
def test_a_vocabulary_keeps_its_first_rows(vocab):
    model = tiny_model("bert", "BertForMaskedLM")
    made = resize(model, vocab_size=vocab)
    kept = min(vocab, 61)
    rows, source = made.get_input_embeddings().weight, model.get_input_embeddings().weight
    assert rows.shape == (vocab, 24)
    assert torch.equal(rows[:kept], source[:kept])
    assert made.get_output_embeddings().weight is rows
    assert torch.equal(made.cls.predictions.bias[:kept], model.cls.predictions.bias[:kept])
    assert made.cls.predictions.decoder.bias is made.cls.predictions.bias
    if vocab > 61:
        assert 0.01 < rows[61:].std() < 0.04  # as the family draws them; the source's have 0.3
        assert (made.cls.predictions.bias[61:] == 0).all()
    inputs = {"input_ids": torch.arange(4, 20)[None]}
    assert torch.allclose(made(**inputs).logits[..., :kept], model(**inputs).logits[..., :kept], atol=1e-12)


def test_token_types_keep_their_first_rows():
    model = tiny_model("bert", "BertModel")
    for count in (1, 2, 5):
        rows = resize(model, type_vocab_size=count).embeddings.token_type_embeddings.weight
        assert rows.shape == (count, 24)
        assert torch.equal(rows[:2], model.embeddings.token_type_embeddings.weight[:count])


def test_tables_and_widths_change_together():
    model = tiny_model("bert", "BertForMaskedLM")
    made = resize(
        model, vocab_size=70, max_position_embeddings=64, type_vocab_size=1, hidden_size=12, num_attention_heads=3
    )
    assert torch.equal(made.get_input_embeddings().weight[:61], model.get_input_embeddings().weight[:, ::2])
    assert made(input_ids=torch.arange(4, 20)[None]).logits.shape == (1, 16, 70)


def test_a_size_that_the_family_itself_cannot_build():
    with pytest.raises(InvalidSizeError, match="`roberta` cannot be built with vocab_size 61 → 1: Padding_idx"):
        target("roberta", "RobertaForMaskedLM", vocab_size=1)
    with pytest.raises(
        InvalidSizeError, match=r"`siglip_vision_model` cannot be built with image_size 12 → \(8, 20\)"
    ):
        target("siglip_vision_model", "SiglipVisionModel", image_size=(8, 20))
