"""Learngenes of hierarchies: layers are shared within each stage, in the turns that they take; the rest is kept as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_learngene import AutoLearngene
from hf_learngene.errors import InvalidSizeError, UnsupportedFamilyError
from hf_learngene.hub.provenance import history
from hf_learngene.learngenes import FineConfig, SwsConfig, WaveConfig
from hf_learngene.learngenes.card import learngene_card
from hf_learngene.learngenes.series import in_series
from testing.families import HIERARCHIES, inputs_for, tiny_model
from testing.hierarchies import depths, images_for, native, tiny_hierarchy, tiny_swin
from testing.learngene_tester import tensors
from testing.learngenes import KINDS, kinds_that
from testing.numerics import assert_all_close_for


WITHIN = kinds_that(within_stages=True)
# Shifted windows and no heads at all; key and value reductions; a transition inside the first block.
BUILDS = ["swin", "convnext", "segformer", "hiera"]
every_kind = pytest.mark.parametrize("kind", WITHIN)
every_build = pytest.mark.parametrize("family", BUILDS)
every_family = pytest.mark.parametrize("family", sorted(HIERARCHIES))
EVERY = 99  # groups: one for each block, or pair of blocks, however many there are


def fitted(kind, family, extra=None, **options):
    """A learngene of a tiny hierarchy in float64, and the hierarchy."""
    source = tiny_hierarchy(family, **(extra or {}))
    return AutoLearngene.from_ancestry(source, kind, **options), source


def asked(model, *more):
    """A request for more blocks, stage by stage, in the words of the config."""
    return {native(model, "num_hidden_layers"): [max(1, d + m) for d, m in zip(depths(model), more, strict=False)]}


@every_family
def test_a_group_for_every_place_gives_the_ancestry_back(family):
    learngene, source = fitted("sws", family, num_stages=EVERY)
    made = dict(learngene.initialize().named_parameters())
    assert made.keys() == dict(source.named_parameters()).keys()
    assert all(torch.equal(made[name], tensor) for name, tensor in source.named_parameters())
    with torch.no_grad():
        inputs = inputs_for(source)
        assert_all_close_for(tensors(learngene(**inputs)), tensors(source(**inputs)))
    assert learngene.stored_share == pytest.approx(1)


@every_kind
@every_build
def test_the_descendant_is_the_auxiliary_model_saved_or_not(kind, family, tmp_path):
    learngene, source = fitted(kind, family)
    inputs = inputs_for(source)
    wanted = tensors(learngene(**inputs))
    made = learngene.initialize()
    assert type(made) is type(source)
    assert_all_close_for(tensors(made(**inputs)), wanted)
    made.save_pretrained(tmp_path / "model")
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "model", dtype=torch.float64)
    assert_all_close_for(tensors(plain(**inputs)), wanted)
    learngene.save_pretrained(tmp_path / "learngene")
    again = AutoLearngene.from_pretrained(tmp_path / "learngene", dtype=torch.float64)
    assert again.config.options() == learngene.config.options()
    state = learngene.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert_all_close_for(tensors(again(**inputs)), wanted)


@pytest.mark.parametrize(
    ("kind", "family"),
    [*(("sws", f) for f in sorted(HIERARCHIES)), *((k, f) for k in WITHIN if k != "sws" for f in BUILDS)],
)
def test_weights_of_other_depths_are_a_function_of_the_config(kind, family):
    learngene, source = fitted(kind, family)
    for more in ((-1, 0, 2, 2), (0, 0, -1, 1)):
        request = asked(source, *more)
        if family in ("swin", "swinv2", "donut-swin", "maskformer-swin"):
            assert depths(source)[1] == 1  # the shifted window of a second block was never seen
        made = learngene.initialize(**request)
        assert depths(made) == next(iter(request.values()))
        weights = learngene.weights(made.config)
        parameters = dict(made.named_parameters())
        assert weights.keys() == parameters.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in parameters.items())
        with torch.no_grad():
            assert all(v.isfinite().all() for v in tensors(made(**inputs_for(source))).values())


@every_kind
@every_build
def test_gradients_reach_every_stored_tensor_through_the_weights(kind, family):
    learngene, source = fitted(kind, family)
    sum(tensor.pow(2).sum() for tensor in learngene.weights().values()).backward()
    assert [n for n, p in learngene.named_parameters() if p.grad is None] == []
    learngene.zero_grad()
    config = copy.deepcopy(learngene.base)
    ((name, value),) = asked(source, 0, 0, 2, 2).items()
    setattr(config, name, value)
    sum(tensor.pow(2).sum() for tensor in learngene.weights(config).values()).backward()
    assert [n for n, p in learngene.named_parameters() if p.grad is None and n.startswith("shared.")] == []


@every_kind
@every_build
def test_what_stands_between_the_blocks_is_kept_whole(kind, family):
    learngene, source = fitted(kind, family)
    whole = {name for name, info in in_series(learngene.anatomy).items() if info.layer is None}
    assert {name for name, _ in learngene.outside.named_parameters()} == whole
    between = {
        "swin": "downsample",
        "convnext": "downsampling_layer.1",
        "segformer": "patch_embed",
        "hiera": "layers.0",
    }
    assert any(between[family] in name for name in whole)
    made = dict(learngene.initialize(**asked(source, 1, 0, 1, 2)).named_parameters())
    parameters = dict(source.named_parameters())
    assert all(torch.equal(made[name], parameters[name]) for name in whole)


# ---- turns


def test_pairs_of_shifted_windows_stay_pairs():
    source = tiny_swin()
    learngene = AutoLearngene.from_ancestry(source, "sws", num_stages=[1, 1, 3, 1])
    learngene.config.depth_scale = False
    for depth in (2, 4, 5, 8, 12):
        made = learngene.initialize(depths=[2, 4, depth, 2])
        blocks, theirs = (model.swin.encoder.layers[2].blocks for model in (made, source))
        origins = [_origin(block, theirs) for block in blocks]
        assert len(origins) == depth
        assert [origin % 2 for origin in origins] == [place % 2 for place in range(depth)]
        assert all(b == a + 1 for a, b in zip(origins[::2], origins[1::2], strict=False))
        assert [block.shift_size for block in blocks] == [theirs[origin].shift_size for origin in origins]
        assert origins[::2] == sorted(origins[::2])


def _origin(block, others) -> int:
    state = dict(block.named_parameters())
    found = [
        index
        for index, other in enumerate(others)
        if all(torch.equal(state[name], tensor) for name, tensor in other.named_parameters())
    ]
    assert len(found) == 1
    return found[0]


def test_each_turn_has_a_line_of_its_own_with_a_pair_at_one_place():
    source = tiny_swin()
    learngene = AutoLearngene.from_ancestry(source, "tleg")
    learngene.config.depth_scale = False
    made = learngene.weights(learngene.initialize(depths=[2, 2, 8, 2]).config)
    for template in (t for t, info in learngene.components.items() if info.stage == 2):
        base, slope = (learngene.part(template, name) for name in ("base", "slope"))
        turn = 1 if ".turn1." in template else 0
        for pair in range(4):
            name = template.replace(f".turn{turn}.{{}}.", f".{2 * pair + turn}.")
            torch.testing.assert_close(made[name], base + pair / 4 * slope)
    slopes = {name for name, _ in learngene.shared.named_parameters() if name.endswith(".slope")}
    stages = {learngene.components[t].stage for t in learngene.components if f"{t.replace('.{}', '')}.slope" in slopes}
    assert stages == {2}  # a single pair stands where a slope is not seen


def test_a_stage_without_matrices_has_no_templates():
    with pytest.raises(UnsupportedFamilyError, match="No layer in stage 0 of `poolformer` has a matrix"):
        fitted("wave", "poolformer")


@every_kind
def test_a_kind_of_block_that_the_ancestry_lacks_is_refused(kind):
    learngene, _ = fitted(kind, "swin")  # one block in its second stage: no shifted windows
    with pytest.raises(
        InvalidSizeError, match=r"Stage 1 .* has 1 of its 2 kinds of blocks .*Keep it at 1, or start with at least 2"
    ):
        learngene.initialize(depths=[2, 2, 3, 2])


@every_kind
def test_a_first_block_that_holds_a_transition_stays_alone_and_in_front(kind):
    learngene, source = fitted(kind, "hiera")
    made = learngene.initialize(**asked(source, 1, 1, 2, 1))
    mine, theirs = dict(made.named_parameters()), dict(source.named_parameters())
    leads = [stage for stage, kind_of in enumerate(learngene.anatomy.blocks) if kind_of.lead]
    assert leads == [1, 2, 3]  # nothing comes before the first stage
    first = [n for n, t in learngene.anatomy.tensors.items() if t.layer == 0 and t.stage in leads]
    assert all(torch.equal(mine[name], theirs[name]) for name in first)


# ---- the kinds


def test_groups_are_one_for_three_blocks_by_default_and_counted_in_pairs():
    learngene = AutoLearngene.from_ancestry(tiny_swin(), "sws")
    assert learngene.config.num_stages == [1, 1, 1, 1]
    convnext, _ = fitted("sws", "convnext", {"depths": [3, 3, 9, 3]})
    assert convnext.config.num_stages == [1, 1, 3, 1]
    shares = [AutoLearngene.from_ancestry(tiny_swin(), "sws", num_stages=n).stored_share for n in (1, [1, 1, 2, 1], 3)]
    assert shares == sorted(shares)
    assert shares[0] == learngene.stored_share < shares[1]


def test_more_blocks_of_a_stage_take_shorter_steps_there_alone():
    learngene, source = fitted("sws", "convnext", num_stages=EVERY)
    request = asked(source, *depths(source)[:1], 0, 0, 0)  # twice the blocks in the first stage
    made = dict(learngene.initialize(**request).named_parameters())
    for name, tensor in source.named_parameters():
        if ".stages.0.layers." in name:
            name = name.replace("layers.1.", "layers.2.")
            times = 0.5 if ".pwconv2." in name else 1.0
            torch.testing.assert_close(made[name], times * tensor)
        else:
            assert torch.equal(made[name], tensor)


@every_family
def test_steps_are_as_long_as_what_is_made_shorter(family):
    """Each block adds so much of what it added before: all of its branches, and none of them twice."""
    learngene, source = fitted("sws", family, num_stages=EVERY)
    step = {
        name for name, info in learngene.tensors.items() if info.layer is not None and learngene.writes_a_step(info)
    }
    steps = []
    for times in (1e-5, 2):
        with torch.no_grad():
            for name in step:
                source.get_parameter(name).mul_(times)
        steps.append(_added(source, learngene))
    for short, long in zip(*steps, strict=True):
        assert 0 < float(short.abs().max()) < 1e-2
        assert float((long - 2 * short).abs().max()) < 1e-2 * float(short.abs().max())


def _added(model, learngene):
    """What each block adds to what it is given."""
    found = []

    def watch(module, given, made):
        found.append((made[0] if isinstance(made, tuple) else made) - given[0])

    leads = {t.template.partition(".{}.")[0]: learngene.anatomy.blocks[t.stage].lead
             for t in learngene.anatomy.tensors.values() if t.layer is not None}  # fmt: skip
    blocks = [block for name, lead in leads.items() for block in list(model.get_submodule(name))[lead:]]
    hooks = [block.register_forward_hook(watch) for block in blocks]
    with torch.no_grad():
        model(**inputs_for(model))
    for hook in hooks:
        hook.remove()
    assert len(found) == len(blocks)
    return found


def test_templates_of_wave_are_of_their_stages_width():
    learngene = AutoLearngene.from_ancestry(tiny_swin(), "wave", template_size=[8, 8, 16, 8])
    matrices = {t: i for t, i in learngene.components.items() if i.role == "q" and i.kind == "linear"}
    sides = {info.stage: learngene.part(template, "templates").shape[-1] for template, info in matrices.items()}
    assert sides == {0: 8, 1: 8, 2: 16, 3: 8}
    whole = AutoLearngene.from_ancestry(tiny_swin(), "wave", template_share=1.0, fit_layers="all", num_vectors=EVERY)
    matrices = {t.replace(".{}", "") for t, i in whole.components.items() if i.kind == "linear" and len(i.dims) == 2}
    assert max(residual for path, residual in whole.residuals.items() if path in matrices) < 1e-6
    with pytest.raises(
        InvalidSizeError, match=r"template_size=7 does not divide .* of stage 0 .*the nearest that do are"
    ):
        AutoLearngene.from_ancestry(tiny_swin(), "wave", template_size=7)


def test_scalers_of_other_depths_are_learnt_with_the_templates_frozen():
    source = tiny_swin()
    learngene = AutoLearngene.from_ancestry(source, "wave")
    other = learngene.for_size(depths=[2, 2, 8, 4])
    assert {n.partition(".")[0] for n, p in other.named_parameters() if p.requires_grad} == {"scalers"}
    inputs = inputs_for(source)
    made = learngene.initialize(depths=[2, 2, 8, 4])
    torch.testing.assert_close(other(**inputs).logits, made(**inputs).logits)
    with pytest.raises(UnsupportedFamilyError, match="along one residual stream"):
        learngene.adapt([{"pixel_values": inputs["pixel_values"][0]}], steps=0, depths=[2, 2, 8, 4])


# ---- records


def test_record_and_card_tell_the_depths_of_the_stages(tmp_path):
    learngene = AutoLearngene.from_ancestry(tiny_swin(), "sws")
    made = learngene.initialize(depths=[2, 2, 8, 2])
    assert made.config.learngene["sizes"] == {"num_hidden_layers": [2, 2, 8, 2]}
    assert [step["method"] for step in history(made.config)[-1]["passes"]] == ["sws"]
    learngene.add_result("cifar10", {"accuracy": 0.5}, depths=[2, 2, 4, 2])
    card = learngene_card(learngene, "me/swin-sws")
    assert "learngene.initialize(depths=[2, 2, 4, 2])" in card
    assert "num_hidden_layers=[2, 2, 4, 2]" in card
    assert "The depth of every stage is free." in card
    learngene.save_pretrained(tmp_path)
    assert AutoLearngene.from_pretrained(tmp_path).config.results == learngene.config.results


def test_other_sizes_are_left_to_resize_and_the_ancestry_is_brought_to_depth():
    learngene = AutoLearngene.from_ancestry(tiny_swin(), "sws", depths=[2, 2, 4, 2], num_stages=EVERY)
    assert depths(learngene.initialize()) == [2, 2, 4, 2]
    made = learngene.initialize(depths=[2, 2, 6, 2], num_labels=7)
    assert (depths(made), made.config.num_labels) == ([2, 2, 6, 2], 7)


# ---- bad input


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in WITHIN])
def test_kinds_of_one_depth_refuse_a_hierarchy_and_name_those_that_take_it(kind):
    said = rf"`{kind}` makes layers of one width .*4 stages.* `sws`, `tleg`, `wave` share weights within each stage.*depths="
    with pytest.raises(UnsupportedFamilyError, match=said):
        AutoLearngene.from_ancestry(tiny_swin(), kind)


def test_batch_norms_are_refused_before_their_statistics_are_lost():
    with pytest.raises(
        UnsupportedFamilyError, match=r"is a batch norm, whose running statistics .* resize\(\) carries them"
    ):
        AutoLearngene.from_ancestry(tiny_model("cvt", "CvtForImageClassification"), "sws")


def test_a_config_of_one_depth_refuses_a_hierarchy():
    with pytest.raises(UnsupportedFamilyError, match=r"`fine` is made for .* stages have 2, 2, 6, 2 blocks"):
        FineConfig(base_config=tiny_swin().config)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: learngene().initialize(depths=[2, 2, 4]), InvalidSizeError, "depths is a list of 4 whole numbers"),
        (lambda: learngene().initialize(num_hidden_layers=6), InvalidSizeError, "list of 4 whole numbers"),
        (lambda: learngene().initialize(embed_dim=16), InvalidSizeError,
         r"keeps its widths: hidden_size \[8, 16, 32, 64\] → \[16, .*depths= alone, and resize"),
        (lambda: learngene().initialize(stages=[0, 0]), InvalidSizeError, "stages names the layers of one depth.*depths="),
        (lambda: learngene(num_stages=[1, 1, 1]), InvalidSizeError, "3 entries, and the auxiliary model has 4 stages, of 2, 2"),
        (lambda: learngene(num_stages=[1, 1, 4, 1]), InvalidSizeError,
         r"num_stages\[2\]=4 .*6 blocks, which alternate and are shared 2 at a time; it lies between 1 and 3"),
        (lambda: learngene(num_stages=[1, 0, 1, 1]), InvalidSizeError, r"num_stages\[1\] is at least 1"),
        (lambda: learngene(stages=[0, 1, 1, 1]), InvalidSizeError, r"num_stages=\[1, 1, 1, 1\]"),
        (lambda: learngene(calibration="synthetic"), UnsupportedFamilyError, "along one residual stream.*Leave calibration out"),
        (lambda: SwsConfig(base_config=tiny_swin().config, num_stages=0), InvalidSizeError, "num_stages is at least 1"),
        (lambda: WaveConfig(base_config=tiny_swin().config, template_size=[8]), InvalidSizeError, "1 entries.*has 4: give one"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()


def learngene(**options):
    return AutoLearngene.from_ancestry(tiny_swin(), "sws", **options)


def test_a_smaller_descendant_on_examples_is_a_calibrated_shrink_of_the_auxiliary_model():
    source = tiny_hierarchy("convnext", dtype=torch.float32, depths=[1, 1, 3, 1])
    made = AutoLearngene.from_ancestry(source, "sws", num_stages=EVERY)
    small = made.initialize(depths=[1, 1, 2, 1], calibration=images_for(source, 12))
    assert depths(small) == [1, 1, 2, 1]
    assert small.config.learngene["passes"][0]["method"] == "calibrated"
