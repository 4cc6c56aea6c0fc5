"""Hierarchies: Weight Selection is the released rule key by key, growth keeps the function in every stage, turns are kept."""

from __future__ import annotations

import re

import pytest
import torch

from hf_learngene import plan, resize, verify
from hf_learngene.anatomy import anatomy_of
from hf_learngene.errors import DirectionError, InvalidSizeError, LossyGrowthError, UnsupportedFamilyError
from testing.families import HIERARCHIES, case_id, inputs_for, tiny_model
from testing.hierarchies import CASES, FIRST, deeper, depths, furthest, smaller, tiny_hierarchy, wider
from testing.numerics import EXACT


# ---- Weight Selection


def released(state, shapes):
    """The released code, key by key: first N blocks by their names, and along each dimension every n-th or a rounded linspace."""
    made = {}
    for name, shape in shapes.items():
        tensor = state[name]
        for dim, new in enumerate(shape):
            old = tensor.shape[dim]
            index = (
                torch.arange(new) * (old // new) if old % new == 0 else torch.linspace(0, old - 1, new).round().long()
            )
            tensor = torch.index_select(tensor, dim, index)
        made[name] = tensor
    return made


def selected(source, **sizes):
    small = resize(source, method="weight_selection", **sizes)
    wanted = released(source.state_dict(), {n: p.shape for n, p in small.named_parameters()})
    return small, wanted


@pytest.mark.parametrize(
    ("kind", "extra", "sizes"),
    [
        ("convnext", {}, {"hidden_sizes": [4, 8, 12, 16], "depths": [1, 1, 2, 1]}),
        ("convnext", {}, {"hidden_sizes": [5, 11, 17, 23], "depths": [2, 1, 2, 2]}),
        ("convnextv2", {}, {"hidden_sizes": [3, 16, 17, 31], "depths": [1, 1, 3, 1]}),
        ("swin", {"depths": (2, 2, 6, 2)}, {"embed_dim": 4, "num_heads": [1, 1, 1, 2], "depths": [1, 2, 3, 1]}),
        ("swin", {"embed_dim": 12}, {"embed_dim": 6, "num_heads": [1, 2, 2, 3], "depths": [2, 1, 1, 1]}),
    ],
)
def test_weight_selection_is_the_released_rule_key_by_key(kind, extra, sizes):
    source = tiny_hierarchy(kind, **extra)
    small, wanted = selected(source, **sizes)
    assert depths(small) == sizes["depths"]
    for name, parameter in small.named_parameters():
        assert torch.equal(parameter, wanted[name]), name


def test_a_merging_takes_the_same_entries_of_each_part_that_it_reads():
    """Where sizes do not divide, the released code counts through all four parts: it would take other features of each."""
    source = tiny_hierarchy("swin", embed_dim=12)
    small, wanted = selected(source, embed_dim=8, num_heads=[1, 2, 2, 4])
    whole = {n: torch.equal(p, wanted[n]) for n, p in small.named_parameters()}
    merging = {n for n in whole if re.search(r"downsample\.(norm|reduction)", n)}
    assert {n for n, same in whole.items() if not same} <= merging
    norm = "swin.encoder.layers.0.downsample.norm.weight"
    before, after = dict(source.named_parameters())[norm], dict(small.named_parameters())[norm]
    parts = [released({"x": part}, {"x": (8,)})["x"] for part in before.reshape(4, 12)]
    assert torch.equal(after, torch.cat(parts))


@pytest.mark.parametrize("case", FIRST, ids=case_id)
def test_every_family_shrinks_in_every_stage(case):
    kind, _, name = case
    source = tiny_hierarchy(kind, name, torch.float32)
    small = resize(source, method="weight_selection", **smaller(source))
    assert type(small) is type(source)
    assert small.num_parameters() < 0.5 * source.num_parameters()
    outputs = small(**inputs_for(small))
    assert all(torch.isfinite(v).all() for v in outputs.values() if isinstance(v, torch.Tensor))


def test_statistics_of_a_batch_norm_follow_the_weights_beside_them():
    source = tiny_model("cvt", "CvtForImageClassification")
    generator = torch.Generator().manual_seed(3)
    for name, buffer in source.named_buffers():
        if "running" in name:
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
    small = resize(source, method="weight_selection", embed_dim=[8, 16, 12], num_heads=[1, 2, 2])
    name = "cvt.encoder.stages.2.layers.{}.attention.attention.convolution_projection_query.convolution_projection.normalization"
    for layer in range(4):
        before, after = source.get_submodule(name.format(layer)), small.get_submodule(name.format(layer))
        for entries in ("weight", "running_mean", "running_var"):
            wanted = released({"x": getattr(before, entries)}, {"x": (12,)})["x"]
            assert torch.equal(getattr(after, entries), wanted), entries
    same = resize(source, method="weight_selection", num_hidden_layers=[1, 2, 3])
    kept = name.format(2)
    assert torch.equal(same.get_submodule(kept).running_mean, source.get_submodule(kept).running_mean)


# ---- LEMON


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_growth_keeps_the_function_in_every_stage(case):
    kind, _, name = case
    source = tiny_hierarchy(kind, name)
    inputs = inputs_for(source)
    for request in (wider(source), deeper(source), wider(source, 3) | deeper(source, (3, 1, 2, 4))):
        grown = resize(source, method="lemon", seed=1, **request)
        assert furthest(source, grown, inputs) <= EXACT, request
    assert verify(source, grown).function_preserving


def test_each_width_may_grow_by_itself():
    for kind in ("convnext", "segformer", "pvt_v2"):
        source = tiny_hierarchy(kind)
        grown = resize(source, method="lemon", hidden_sizes=[16, 16, 72, 32])
        assert furthest(source, grown, inputs_for(source)) <= EXACT, kind


def test_the_ffn_grows_where_the_config_says_it():
    for kind, request in (
        ("swin", {"mlp_ratio": 7}),
        ("pvt", {"mlp_ratios": [4, 3, 5, 2]}),
        ("hiera", {"mlp_ratio": 5}),
    ):
        source = tiny_hierarchy(kind)
        grown = resize(source, method="lemon", **request)
        assert furthest(source, grown, inputs_for(source)) <= EXACT, kind


def test_larger_heads_are_exact_where_nothing_normalises_them():
    source = tiny_hierarchy("swin")
    grown = resize(source, method="lemon", embed_dim=16, num_heads=[1, 2, 2, 4])
    assert furthest(source, grown, inputs_for(source)) <= EXACT
    with pytest.raises(InvalidSizeError, match=r"Stage 0 of `swinv2`: head_dim 8 → 16.*normalises each head"):
        resize(tiny_hierarchy("swinv2"), method="lemon", embed_dim=16, num_heads=[1, 2, 2, 4])


@pytest.mark.parametrize("kind", ["convnext", "swin"])
def test_only_whole_multiples_of_a_width_are_grown(kind):
    source = tiny_hierarchy(kind)
    request = (
        {"hidden_sizes": [12, 16, 24, 32]} if kind == "convnext" else {"embed_dim": 12, "num_heads": [1, 2, 2, 4]}
    )
    with pytest.raises(LossyGrowthError, match=r"Stage 0 of `\w+`: hidden_size 8 → 12.*nearest are 8 and 16"):
        resize(source, method="lemon", **request)


def test_a_new_block_can_learn_from_the_first_step_on():
    """It writes nothing, but what a norm alone reads is no branch: at zero, its gradients would have no bound."""
    for kind in ("convnext", "swinv2", "swin"):
        grown = resize(tiny_hierarchy(kind), method="lemon", depths=[2, 2, 3, 2])
        anatomy = anatomy_of(grown.config, type(grown))
        grown(**inputs_for(grown)).logits.pow(2).sum().backward()
        new = {n: p for n, p in grown.named_parameters() if (t := anatomy.tensors[n]).stage == 1 and t.layer == 1}
        assert new
        assert any(bool(p.grad.abs().max() > 0) for p in new.values())
        assert all(float(p.grad.abs().max()) < 1e4 for p in new.values())
        assert all(bool(p.abs().max() > 0) for n, p in new.items() if "dwconv" in n)


# ---- turns


def test_blocks_that_alternate_keep_their_turn():
    source = tiny_hierarchy("swin", depths=(2, 3, 8, 1))
    uniform = plan(source, method="weight_selection", layer_selection="uniform", depths=[1, 2, 5, 1]).passes[0].task
    assert [[layer.index for layer in m] for m in uniform.stage_maps] == [[0], [0, 1], [0, 1, 4, 5, 6], [0]]
    grown = plan(source, method="lemon", depths=[5, 4, 11, 4]).passes[0].task
    places = [[layer.index for layer in m] for m in grown.stage_maps]
    assert places == [[0, 1, 0, 1, 0], [0, 1, 2, 1], [0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 6], [0, 0, 0, 0]]
    for layers in places[:3]:
        assert all(index % 2 == place % 2 for place, index in enumerate(layers))


def test_a_grown_hierarchy_has_its_source_in_it():
    source = tiny_hierarchy("swin", depths=(2, 3, 4, 1))
    grown = resize(source, method="lemon", depths=[4, 5, 7, 2])
    maps = plan(source, method="lemon", depths=[4, 5, 7, 2]).passes[0].task.stage_maps
    kept = [[place for place, layer in enumerate(m) if not layer.inserted] for m in maps]
    back = resize(grown, method="layers", layer_map=kept)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name


def test_a_block_that_holds_a_transition_keeps_its_place():
    source = tiny_hierarchy("hiera")
    maps = plan(source, method="lemon", depths=[3, 4, 5, 4]).passes[0].task.stage_maps
    assert all([layer.index for layer in m].count(0) == 1 for m in maps[1:])
    with pytest.raises(
        InvalidSizeError, match=r"Stage 1 of `hiera`: .* would make layer 0 of layer 1, .* holds the transition"
    ):
        resize(source, method="layers", layer_map=[[0], [1], [0], [0]])
    with pytest.raises(
        DirectionError, match=r"Stage 1 of `hiera`: num_hidden_layers 1 → 2: its only block holds the transition"
    ):
        resize(tiny_hierarchy("hiera", depths=(2, 1, 3, 2)), method="lemon", depths=[2, 2, 3, 2])


@pytest.mark.parametrize(
    ("layer_map", "message"),
    [
        ([[1], [0], [0], [0]], r"Stage 0 of `swin`: .* would make layer 0 of layer 1, .* each keeps its turn"),
        ([[0], [0], [0]], r"layer_map is 3 lists, and this `swin` has 4 stages, a list of layers each"),
        ([0, 1], r"layer_map is one list, and this `swin` has 4 stages"),
        ([[0], [0], [7], [0]], r"Stage 2 of `swin`: layer_map names layers \[7\]; the source has layers 0 to 2"),
        ([[0], [], [0], [0]], r"layer_map holds the indices of source layers"),
    ],
)
def test_layers_that_do_not_fit_a_hierarchy(layer_map, message):
    with pytest.raises(InvalidSizeError, match=message):
        resize(tiny_hierarchy("swin"), method="layers", layer_map=layer_map)


def test_lists_of_layers_are_for_hierarchies():
    with pytest.raises(
        InvalidSizeError, match=r"layer_map is 2 lists, and this `vit` has no stages, so one list of layers"
    ):
        resize(tiny_model("vit", "ViTModel"), method="layers", layer_map=[[0], [1]])


# ---- the other methods


@pytest.mark.parametrize("kind", ["swin", "convnext", "hiera", "segformer"])
@pytest.mark.parametrize("method", ["front", "random"])
def test_other_methods_make_any_size(kind, method):
    source = tiny_hierarchy(kind, dtype=torch.float32)
    for request in (smaller(source), wider(source) | deeper(source)):
        made = resize(source, method=method, **request)
        assert torch.isfinite(made(**inputs_for(made)).logits).all()


def test_hyperclone_keeps_the_function_of_a_hierarchy_too():
    for kind in ("swin", "swinv2", "convnext", "segformer", "hiera"):
        source = tiny_hierarchy(kind)
        grown = resize(source, method="hyperclone", **wider(source))
        assert furthest(source, grown, inputs_for(source)) <= EXACT, kind


def test_growth_by_copies_of_layers_keeps_turns_or_is_refused():
    source = tiny_hierarchy("swin", depths=(2, 2, 4, 2))
    stacked = plan(source, method="stack", depths=[4, 4, 8, 2]).passes[0].task.stage_maps
    assert [layer.index for layer in stacked[2]] == [0, 1, 2, 3, 0, 1, 2, 3]
    wide = resize(source, method="bert2bert", depths=[4, 4, 8, 2], embed_dim=16)
    assert torch.isfinite(wide(**inputs_for(wide)).logits).all()
    for method in ("stack", "bert2bert"):
        with pytest.raises(
            InvalidSizeError, match=rf"Stage 2 .*method='{method}' would make layer 4 of layer 3.*keeps its turn"
        ):
            plan(source, method=method, depths=[2, 2, 5, 2])
    with pytest.raises(InvalidSizeError, match=r"Stage 0 .*method='tile' would make layer 1 of layer 0"):
        plan(source, method="tile", depths=[4, 2, 4, 2])
    tiled = resize(tiny_hierarchy("convnext"), method="tile", hidden_sizes=[16, 32, 48, 64], depths=[4, 2, 6, 4])
    assert torch.isfinite(tiled(**inputs_for(tiled)).logits).all()


@pytest.mark.parametrize("method", ["l2", "taylor", "wanda", "minitron", "shortgpt"])
def test_rankings_refuse_a_hierarchy(method):
    source = tiny_hierarchy("swin", dtype=torch.float32)
    examples = [{"pixel_values": torch.zeros(3, 64, 64), "labels": 0}] * 4
    given = {} if method == "l2" else {"calibration": examples}
    with pytest.raises(UnsupportedFamilyError, match=rf"method='{method}' ranks one residual stream"):
        resize(source, method=method, **smaller(source), **given)


def test_every_listed_family_is_tried():
    assert {kind for kind, _, _ in FIRST} == set(HIERARCHIES)
