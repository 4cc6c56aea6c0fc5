"""Positions, grids, kernels, channels and tables are resampled, so that the model sees the same."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hf_learngene import resize
from hf_learngene.maps.ops import Context
from hf_learngene.maps.resample import MixChannels, ResampleGrid, ResampleKernel, ResampleLine, ResampleRelative
from testing.families import inputs_for, plan_of, tiny_model


NO_CONTEXT = Context({}.__getitem__)


def origins(kind, class_name, extra=None, **request):
    return {t.name: t.origin for t in plan_of(kind, class_name, extra, **request).tensors}


def smooth(*shape):
    """Slow waves along the last two dimensions, one phase for each entry of the others."""
    rows, columns = (torch.linspace(0, 1, n, dtype=torch.float64) for n in shape[-2:])
    phase = torch.arange(math.prod(shape[:-2]), dtype=torch.float64).reshape(*shape[:-2], 1, 1)
    return torch.sin(2 * rows[:, None] + phase) + torch.cos(3 * columns[None] + 2 * phase)


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
    assert any(f.startswith("interpolated 3×3 → 5×5") for f in origins(kind, class_name, image_size=20).values())


def test_patches_as_many_in_another_shape_are_resampled_too():
    extra = {"image_size": (32, 8), "patch_size": 4}  # 8 × 2 patches, then 4 × 4
    assert (
        origins("vit", "ViTModel", extra, image_size=16)["embeddings.position_embeddings"] == "interpolated 8×2 → 4×4"
    )


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
        model, vocab_size=70, max_position_embeddings=64, type_vocab_size=1, hidden_size=12, num_attention_heads=3,
        calibration=None,
    )  # fmt: skip
    assert torch.equal(made.get_input_embeddings().weight[:61], model.get_input_embeddings().weight[:, ::2])
    assert made(input_ids=torch.arange(4, 20)[None]).logits.shape == (1, 16, 70)
