"""Layers of several kinds in one encoder: SAM's windowed and global layers, whose tables of distances differ in length."""

import pytest
import torch
from transformers import SamVisionModel
from transformers.models.sam.modeling_sam import SamVisionEncoder

from hf_learngene import plan, resize
from hf_learngene.anatomy import anatomy_of
from hf_learngene.errors import InvalidSizeError, LossyGrowthError, UnknownOptionError, UnsupportedFamilyError
from hf_learngene.learngenes import AutoLearngene
from testing.families import model_class, randomise, tiny_config


WINDOWED, GLOBAL = 3, 7  # rows of the tables: windows of 2, and images of 4 patches a side
KINDS = {"num_hidden_layers": 4, "image_size": 16, "global_attn_indexes": [1, 3]}
CASES = {
    "sam": lambda: of("sam_vision_model", "SamVisionModel", **KINDS),
    "encoder": lambda: of("sam_vision_model", SamVisionEncoder, **KINDS),
    "no positions": lambda: of("sam_vision_model", "SamVisionModel", use_abs_pos=False, **KINDS),
    "sam_hq": lambda: of("sam_hq_vision_model", "SamHQVisionModel", **KINDS),
    "vitdet": lambda: of(
        "vitdet", "VitDetModel", num_hidden_layers=4, image_size=16, window_size=2, window_block_indices=[0, 2],
        use_relative_position_embeddings=True, mlp_ratio=2,
    ),
}  # fmt: skip


def of(kind, cls, **extra):
    cls = model_class(cls) if isinstance(cls, str) else cls
    torch.manual_seed(0)
    return randomise(cls(tiny_config(kind, **extra)).double()).eval()


def sam(**extra):
    return of("sam_vision_model", "SamVisionModel", **{**KINDS, **extra})


def pixels(side=16):
    return torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rows(model):
    return [len(p) for n, p in model.named_parameters() if n.endswith("rel_pos_h")]


@torch.no_grad()
def last(model, images):
    return model(images).last_hidden_state


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "asked",
    [
        {"hidden_size": 48},
        {"hidden_size": 40, "num_attention_heads": 5},
        {"mlp": 2},
        {"num_hidden_layers": 7},
        {"hidden_size": 48, "num_hidden_layers": 6, "mlp": 2},
    ],
    ids=str,
)
def test_grows_without_loss(case, asked, tmp_path):
    model = CASES[case]()
    field = "mlp_ratio" if case == "vitdet" else "mlp_dim"
    sizes = {n: v for n, v in asked.items() if n != "mlp"}
    if "mlp" in asked:
        sizes[field] = asked["mlp"] * getattr(model.config, field)
    grown = resize(model, **sizes)
    if case == "sam":
        grown.save_pretrained(tmp_path)
        grown = type(grown).from_pretrained(tmp_path, dtype=torch.float64).eval()
    before, after = (last(m, pixels()) for m in (model, grown))
    if case == "vitdet":  # its output is the residual stream
        after = after[:, : before.shape[1]]
    assert torch.allclose(before, after, atol=1e-10, rtol=0)


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 9])
def test_every_layer_keeps_its_kind(depth):
    model = sam()
    other = resize(model, num_hidden_layers=depth, calibration=None)
    named = other.config.global_attn_indexes
    assert rows(other) == [GLOBAL if i in named else WINDOWED for i in range(depth)]
    known = {WINDOWED: [], GLOBAL: []}
    for name, table in model.named_parameters():
        if name.endswith("rel_pos_h"):
            known[len(table)].append(table)
    for name, table in other.named_parameters():
        if name.endswith("rel_pos_h"):
            assert any(torch.equal(table, one) for one in known[len(table)])


def test_global_layers_behind_the_first_two_are_seen():
    model = sam(num_hidden_layers=6, global_attn_indexes=[2, 5])
    assert rows(model) == [WINDOWED, WINDOWED, GLOBAL, WINDOWED, WINDOWED, GLOBAL]
    grown = resize(model, hidden_size=48, num_hidden_layers=8)
    assert torch.allclose(last(model, pixels()), last(grown, pixels()), atol=1e-10, rtol=0)


def images(count, seed):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [{"mlp_dim": 24}, {"hidden_size": 16, "num_attention_heads": 2}], ids=str)
def test_shrinks_on_examples(sizes):
    model, held_back = sam().float(), images(16, 3)
    examples = [{"pixel_values": image} for image in images(32, 2)]
    fitted = resize(model, method="calibrated", calibration=examples, **sizes)
    selected = resize(model, method="weight_selection", calibration=None, **sizes)
    near, far = ((last(m, held_back) - last(model, held_back)).norm() for m in (fitted, selected))
    assert near < 0.9 * far


@pytest.mark.parametrize("sizes", [{"image_size": 32}, {"image_size": 8}, {"patch_size": 2}])
@pytest.mark.parametrize("absolute", [True, False])
def test_another_grid_is_refused(sizes, absolute):
    with pytest.raises(InvalidSizeError, match=r"4×4 patches.*Keep image_size and patch_size"):
        plan(sam(use_abs_pos=absolute).config, model_class=SamVisionModel, **sizes)


def test_the_same_grid_of_larger_patches_is_resampled():
    larger = resize(sam(), image_size=32, patch_size=8)
    assert rows(larger) == [WINDOWED, GLOBAL, WINDOWED, GLOBAL]
    assert last(larger, pixels(32)).shape[-2:] == (4, 4)


def test_another_head_size():
    model = sam()
    with pytest.raises(LossyGrowthError, match="cannot be grown without loss"):  # queries meet the tables unscaled
        resize(model, hidden_size=48, num_attention_heads=3)
    examples = [{"pixel_values": image} for image in images(32, 2)]
    with pytest.raises(InvalidSizeError, match="their size stays 8"):  # all heads read one table
        resize(model.float(), hidden_size=12, num_attention_heads=3, method="calibrated", calibration=examples)


@pytest.mark.parametrize("name", ["window_size", "global_attn_indexes", "mlp_ratio"])
def test_what_is_no_size_is_refused(name):
    with pytest.raises(UnknownOptionError, match=f"has no size field '{name}'.*mlp_dim"):
        plan(sam().config, model_class=SamVisionModel, **{name: 3})


def test_what_mixes_layers_is_refused():
    model = sam()
    with pytest.raises(UnsupportedFamilyError, match=r"mixes layers.*rel_pos_h.*lemon"):
        resize(model, num_hidden_layers=6, method="front")
    with pytest.raises(UnsupportedFamilyError, match=r"learns to mix layers.*rel_pos_h"):
        plan(model.config, model_class=SamVisionModel, num_hidden_layers=6, method="ligo")
    with pytest.raises(UnsupportedFamilyError, match=r"what all layers share.*rel_pos_h"):
        AutoLearngene.from_ancestry(model, "tleg")
    assert resize(model, hidden_size=48, method="front").config.hidden_size == 48


def test_layers_of_one_kind_are_not_of_several_shapes():
    only_windows = sam(global_attn_indexes=[])
    assert not anatomy_of(only_windows.config, type(only_windows)).of_several_shapes
    model = sam()
    assert anatomy_of(model.config, type(model)).of_several_shapes.endswith("rel_pos_h")
