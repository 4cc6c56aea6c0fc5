"""What calibration cannot take is told by example and bound, before a model is run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from hf_learngene import errors, resize
from hf_learngene.calibration.examples import Examples
from hf_learngene.calibration.input_bounds import InputBounds


TINY = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 1, "vocab_size": 61}
TEXTS = ["Bert", "Roberta", "MPNet", "DistilBert", "Nystromformer", "RoFormer", "Deberta", "ModernBert"]


def text_model(stem):
    config = getattr(transformers, f"{stem}Config")(**TINY, max_position_embeddings=20)
    config.pad_token_id = min(config.pad_token_id or 0, 1)
    return getattr(transformers, f"{stem}Model")(config).eval()


def bert():
    return BertModel(BertConfig(**TINY, max_position_embeddings=20))


def vit():
    sizes = {n: v for n, v in TINY.items() if n != "vocab_size"}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4))


@pytest.mark.parametrize("stem", TEXTS)
def test_the_bounds_are_those_at_which_a_model_fails(stem):
    model = text_model(stem)
    bounds = InputBounds.of(model)
    assert bounds.tokens == 61

    def takes(length):
        try:
            with torch.no_grad():
                model(input_ids=torch.full((1, length), 5), attention_mask=torch.ones(1, length, dtype=torch.long))
        except (IndexError, RuntimeError):
            return False
        return True

    if bounds.length is None:
        assert takes(30)
    else:
        assert takes(bounds.length)
        assert not takes(bounds.length + 1)


def texts(bad, count=40, place=35):
    rows = [{"input_ids": [5 + i % 50] * 4} for i in range(count)]
    rows[place] = rows[place] | bad
    return rows


def pictures(bad, count=40, place=35):
    generator = torch.Generator().manual_seed(0)
    rows = [{"pixel_values": torch.randn(3, 8, 8, generator=generator)} for _ in range(count)]
    rows[place] = bad(rows[place]["pixel_values"])
    return rows


def single(pixels, index, value):
    pixels = pixels.clone()
    pixels[index] = value
    return {"pixel_values": pixels}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"input_ids": [5, 61]}, r"example 35 has 61 in input_ids, and the model's go from 0 to 60.*tokenizer"),
        ({"input_ids": [5, -1]}, r"example 35 has -1 in input_ids"),
        ({"input_ids": [5] * 21}, r"example 35 has 21 tokens, and the model reads at most 20.*max_length=20"),
        ({"input_ids": []}, r"example 35 has no tokens"),
        ({"input_ids": None}, r"'input_ids' of calibration example 35 .*NoneType"),
        ({"input_ids": ["a", "b"]}, r"'input_ids' of calibration example 35 cannot be read as numbers"),
    ],
)
def test_texts_that_the_model_cannot_take(bad, message):
    with pytest.raises(errors.CalibrationError, match=message):
        resize(bert(), calibration=texts(bad), intermediate_size=20)


def test_token_types_that_the_model_cannot_take():
    rows = [{"input_ids": [5] * 4, "token_type_ids": [0, 0, 1, 1 + (i == 33)]} for i in range(40)]
    with pytest.raises(errors.CalibrationError, match=r"example 33 has 2 in token_type_ids, .* 0 to 1"):
        resize(bert(), calibration=rows, intermediate_size=20)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"input_ids": []}] * 40, "example 0 has no tokens"),
        ([{"input_ids": [0.5, 0.2]}] * 40, "whole numbers"),
        ([{"input_ids": 5}] * 40, "whole numbers"),
        ([{"input_ids": [5]}] * 39 + [{"text": "a"}], "example 39 holds 'text'; the first ones hold 'input_ids'"),
        ([{"input_ids": [5, 6], "attention_mask": [0, 0]}] * 40, "example 0 has no tokens"),
    ],
)
def test_columns_that_the_model_cannot_take(rows, message):
    with pytest.raises(errors.CalibrationError, match=message):
        resize(bert(), calibration=rows, intermediate_size=20)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda p: single(p, (0, 0, 0), torch.nan), "example 35 has pixels that are no finite numbers"),
        (lambda p: single(p, (1, 2, 3), torch.inf), "example 35 has pixels that are no finite numbers"),
        (lambda p: single(p, (1, 2, 3), -1e30), r"example 35 has pixels up to 1.0e\+30.*image processor"),
        (lambda p: {"pixel_values": p[:, :4]}, r"\(3, 8, 8\) in example 32, \(3, 4, 8\) in example 35"),
    ],
)
def test_images_that_the_model_cannot_take(bad, message):
    with pytest.raises(errors.CalibrationError, match=message):
        resize(vit(), calibration=pictures(bad), intermediate_size=20)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 8, 8), r"shape \(1, 8, 8\), and the model reads images of 3 channels\. The"),
        ((8, 8, 3), r"3 channels\. Channels come before"),
        (
            (3, 12, 12),
            r"calibration images are 12 × 12, and the model reads 8 × 8 \(image_size\).*image processor",
        ),
    ],
)
def test_images_of_another_shape(shape, message):
    rows = [{"pixel_values": torch.randn(*shape)} for _ in range(40)]
    with pytest.raises(errors.CalibrationError, match=message):
        resize(vit(), calibration=rows, intermediate_size=20)
    batches = DataLoader(rows, batch_size=8)
    with pytest.raises(errors.CalibrationError, match=message):
        resize(vit(), calibration=batches, method="minitron", intermediate_size=20)


def test_images_that_were_not_processed():
    raw = [{"pixel_values": torch.zeros(3, 8, 8, dtype=torch.uint8)}] * 40
    with pytest.raises(errors.CalibrationError, match="torch.uint8.*image processor"):
        resize(vit(), calibration=raw, intermediate_size=20)
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    images = [Image.fromarray(np.full((9, 9, 3), i, dtype=np.uint8)) for i in range(40)]
    assert len(list(Examples(images, vit(), processor).batches())) == 2
    with pytest.raises(errors.CalibrationError, match="cannot read the calibration examples .*str"):
        resize(vit(), calibration=["a.png"] * 40, processing_class=processor, intermediate_size=20)


def test_a_loader_gives_tensors():
    rows = DataLoader([{"input_ids": [5, 6, 7]}] * 40, batch_size=4)  # its collation gives a list of columns
    with pytest.raises(errors.CalibrationError, match="batches of tensors.*list.*collate_fn"):
        resize(bert(), calibration=rows, intermediate_size=20)


def test_raw_texts_are_cut_to_what_the_model_reads():
    def tokenizer(rows, max_length, **given):
        assert given == {"padding": True, "truncation": True, "return_tensors": "pt"}
        ids = torch.tensor([([5 + len(r) % 50] * 30)[:max_length] for r in rows])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    batches = list(Examples(["text"] * 40, bert(), tokenizer).batches())
    assert {b["input_ids"].shape[1] for b in batches} == {20}


def test_a_processor_that_makes_another_size_is_refused_before_the_model_has_worked(monkeypatch):
    model, seen = vit().train(), []
    model.vit.layers[0].register_forward_hook(lambda *_: seen.append(1))
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    images = [Image.fromarray(np.full((9, 9, 3), i, dtype=np.uint8)) for i in range(40)]
    with pytest.raises(errors.CalibrationError, match="images are 16 × 16, and the model reads 8 × 8"):
        Examples(images, model, processor).num_batches  # noqa: B018
    assert not seen
    assert model.training


def test_a_family_that_interpolates_takes_any_size():
    sizes = {n: v for n, v in TINY.items() if n != "vocab_size"}
    model = Dinov2Model(Dinov2Config(**sizes, image_size=8, patch_size=4))
    assert Examples([{"pixel_values": torch.randn(3, 16, 12)}] * 3, model).tokens == 3 * 12
