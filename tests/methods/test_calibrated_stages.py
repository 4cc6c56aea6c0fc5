"""Calibrated shrink within the stages of a hierarchy: its own size is left alone, and less is lost than by weight selection."""

from __future__ import annotations

import pytest
import torch

from hf_learngene import resize, save_resized
from hf_learngene.anatomy import anatomy_of
from hf_learngene.errors import DirectionError, InvalidSizeError
from hf_learngene.methods import Calibrated
from hf_learngene.pruning.activations import Runner, stages_of_layers
from hf_learngene.pruning.landing import landing_of
from testing.hierarchies import depths, images_for, native, structured, tiny_hierarchy


FIT, HELD = 120, 48
SELECTION = {"method": "weight_selection", "layer_selection": "uniform"}


def source_of(kind, name="", **extra):
    return structured(tiny_hierarchy(kind, name, torch.float32, **extra))


def output(model, examples):
    with torch.no_grad():
        found = model(pixel_values=torch.stack([e["pixel_values"] for e in examples]))
    return next(v for v in found.values() if isinstance(v, torch.Tensor)).double()


def distance(model, source):
    """To the source on images that were not looked at, as a share of the source's spread."""
    held = images_for(source, HELD, seed=1)
    wanted = output(source, held)
    return float((output(model, held) - wanted).norm() / (wanted - wanted.mean(0)).norm())


def calibrated(source, count=FIT, **sizes):
    return resize(source, **{**_fit(source), "calibration": images_for(source, count)}, **sizes)


def same_weights(a, b):
    other = b.state_dict()
    return a.state_dict().keys() == other.keys() and all(torch.equal(v, other[n]) for n, v in a.state_dict().items())


FFN = {
    "swin": {"mlp_ratio": 2},
    "swinv2": {"mlp_ratio": 2},
    "hiera": {"mlp_ratio": 2},
    "pvt": {"mlp_ratios": [2, 1, 2, 1]},
    "segformer": {"mlp_ratios": [2, 1, 2, 1]},
    "poolformer": {"mlp_ratio": 2},
}
NARROW = {
    "swin": {"embed_dim": 6, "num_heads": [1, 2, 2, 4]},
    "convnext": {"hidden_sizes": [6, 12, 18, 24]},
    "poolformer": {"hidden_sizes": [6, 12, 18, 24]},
    "pvt": {"hidden_sizes": [6, 12, 18, 24], "num_attention_heads": [1, 2, 2, 4]},
}


@pytest.mark.parametrize("kind", ["swin", "swinv2", "convnextv2", "hiera"])
def test_at_its_own_size_nothing_moves(kind):
    source = source_of(kind)
    assert same_weights(calibrated(source, 24, num_hidden_layers=depths(source)), source)


@pytest.mark.parametrize("kind", FFN)
def test_fewer_units_lose_less_than_by_weight_selection(kind):
    source = source_of(kind)
    ours, theirs = (distance(resize(source, **FFN[kind], **how), source) for how in (_fit(source), SELECTION))
    assert ours < 0.8 * theirs


@pytest.mark.parametrize("kind", ["swin", "swinv2", "convnextv2", "hiera", "segformer"])
def test_fewer_layers_lose_less_than_by_weight_selection(kind):
    source = source_of(kind)
    less = {native(source, "num_hidden_layers"): [2, 1, 2, 1]}
    ours, theirs = (distance(resize(source, **less, **how), source) for how in (_fit(source), SELECTION))
    assert ours < 0.8 * theirs


@pytest.mark.parametrize("kind", NARROW)
def test_narrower_stages_lose_less_than_by_weight_selection(kind):
    source = source_of(kind)
    ours, theirs = (distance(resize(source, **NARROW[kind], **how), source) for how in (_fit(source), SELECTION))
    assert ours < theirs


def _fit(source):
    return {"method": "calibrated", "calibration": images_for(source, FIT), "calibration_top_up": False}


def test_units_that_do_nothing_leave_without_a_trace():
    source = source_of("swin")
    with torch.no_grad():
        for layer in (m for n, m in source.named_modules() if n.endswith(".mlp")):
            idle = torch.randperm(layer.fc2.weight.shape[1], generator=torch.Generator().manual_seed(2))
            layer.fc2.weight[:, idle[: len(idle) // 2]] = 0.0
    assert distance(calibrated(source, mlp_ratio=2), source) < 2e-3
    assert distance(resize(source, mlp_ratio=2, **SELECTION), source) > 0.1


def test_layers_that_do_nothing_leave_without_a_trace_and_each_other_keeps_its_turn():
    source = source_of("swin", depths=(2, 1, 6, 2))
    with torch.no_grad():
        for layer in (2, 3):
            block = source.get_submodule(f"swin.encoder.layers.2.blocks.{layer}")
            for writer in (block.attention.o_proj, block.mlp.fc2):
                writer.weight.zero_()
                writer.bias.zero_()
    small = calibrated(source, depths=[2, 1, 4, 2])
    assert small.config.learngene["passes"][0]["options"]["layers"][2] == [0, 1, 4, 5]
    assert distance(small, source) < 2e-3
    for depth in (5, 3, 1):
        kept = calibrated(source, depths=[2, 1, depth, 2]).config.learngene["passes"][0]["options"]["layers"][2]
        assert [layer % 2 for layer in kept] == [place % 2 for place in range(depth)]


def test_the_block_that_holds_a_transition_stays():
    kept = calibrated(source_of("hiera"), depths=[1, 1, 1, 1]).config.learngene["passes"][0]["options"]["layers"]
    assert [layers[0] for layers in kept[1:]] == [0, 0, 0]


def test_entries_of_a_stage_that_hold_nothing_leave():
    source = source_of("convnext")
    idle = [1, 5]
    with torch.no_grad():  # in the first stage, what writes these entries writes nothing
        stem, stage = source.convnext.embeddings, source.convnext.encoder.stages[0]
        stem.layernorm.weight[idle], stem.layernorm.bias[idle] = 0.0, 0.0
        for block in stage.layers:
            block.layer_scale_parameter[idle] = 0.0
    small = calibrated(source, hidden_sizes=[6, 16, 24, 32])
    kept = [i for i in range(8) if i not in idle]
    assert torch.equal(small.convnext.embeddings.patch_embeddings.weight, stem.patch_embeddings.weight[kept])
    assert distance(small, source) < distance(resize(source, hidden_sizes=[6, 16, 24, 32], **SELECTION), source)


def test_the_same_under_a_seed_saved_and_loaded(tmp_path):
    source = source_of("swin")
    sizes = {"mlp_ratio": 2, "depths": [2, 1, 2, 1]}
    small = calibrated(source, **sizes)
    assert same_weights(small, calibrated(source, **sizes))
    save_resized(small, tmp_path / "small")
    loaded = type(small).from_pretrained(tmp_path / "small")
    assert same_weights(small, loaded)
    assert torch.equal(output(small, images_for(source, 4)), output(loaded, images_for(source, 4)))
    assert loaded.config.learngene["passes"][0]["options"]["layers"] == [[0, 1], [0], [0, 1], [0]]


def test_what_is_refused_says_why():
    with pytest.raises(
        InvalidSizeError, match=r"Stage 0 of `swinv2`: The heads of `swinv2` are rotated, normalised or compared"
    ):
        calibrated(source_of("swinv2"), 24, embed_dim=4, num_heads=[1, 2, 2, 4])
    with pytest.raises(DirectionError, match=r"Stage 0 of `swin`: calibrated shrinks; it cannot grow"):
        calibrated(source_of("swin"), 24, depths=[3, 1, 3, 2])


# ---- pieces


@pytest.mark.parametrize(
    ("kind", "writer"),
    [
        ("swin", "mlp.fc2"),
        ("swinv2", "layernorm_after"),
        ("convnext", "pwconv2"),
        ("poolformer", "output.conv2"),
        ("pvt", "mlp.dense2"),
        ("hiera", "mlp.fc2"),
    ],
)
def test_what_writes_a_layer_is_found_with_its_scale(kind, writer):
    source = source_of(kind)
    layer = stages_of_layers(anatomy_of(source.config, type(source)))[0][0]
    inside = [n for n, m in source.named_modules() if n.startswith(f"{layer}.") and not list(m.children())]
    batch = {"pixel_values": images_for(source, 1)[0]["pixel_values"][None]}
    found = landing_of(source, layer, [n for n in inside if list(source.get_submodule(n).parameters())], batch)
    assert found is not None
    assert found.writer == f"{layer}.{writer}"
    named = {"convnext": "layer_scale_parameter", "poolformer": "layer_scale_2"}.get(kind)
    wanted = source.get_parameter(f"{layer}.{named}") if named else torch.ones(8)
    torch.testing.assert_close(found.scale.float(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["swin", "convnext", "hiera", "pvt", "segformer"])
def test_a_pass_behind_kept_layers_gives_what_a_whole_pass_gives(kind):
    source = source_of(kind)
    anatomy = anatomy_of(source.config, type(source))
    names = [n for stage in stages_of_layers(anatomy) for n in stage]
    batches = [
        {"pixel_values": torch.stack([e["pixel_values"] for e in images_for(source, 3, seed)])} for seed in (0, 1)
    ]
    with Runner(source, anatomy) as whole, Runner(source, anatomy) as runner:
        wanted = [whole.capture(i, b, outputs=names).outputs for i, b in enumerate(batches)]
        for done in (1, 2, 4, 5, len(names) - 1):  # over the ends of stages, and to them
            runner.cache_prefix(done, batches)
            for number, batch in enumerate(batches):
                for name in names[done:]:
                    (found,) = runner.capture(number, batch, outputs=[name]).outputs[name]
                    torch.testing.assert_close(found, wanted[number][name][0])


def test_the_method_says_that_it_goes_into_stages():
    assert Calibrated.within_stages
