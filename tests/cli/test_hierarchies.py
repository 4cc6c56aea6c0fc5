"""Sizes of a hierarchy on the command line."""

from __future__ import annotations

import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import SwinForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from testing.hierarchies import tiny_hierarchy


def test_the_command_line_takes_lists(run, tmp_path):
    tiny_hierarchy("swin", dtype=torch.float32).save_pretrained(tmp_path / "swin")
    shown = run("plan", str(tmp_path / "swin"), "--size", "depths=1,1,2,2", "--method", "weight_selection")
    assert shown.exit_code == 0, shown.output
    assert "num_hidden_layers [2, 1, 3, 2] → [1, 1, 2, 2]" in shown.output
    wrong = run("plan", str(tmp_path / "swin"), "--size", "depths=1,1,2")
    assert wrong.exit_code == 2
    assert "depths is a list of 4 whole numbers" in wrong.output + wrong.stderr
    layers = "layer_map=[[0,1],[0],[0],[0,1]]"
    made = run("plan", str(tmp_path / "swin"), "--method", "layers", "--option", layers)
    assert made.exit_code == 0, made.output
    assert "num_hidden_layers [2, 1, 3, 2] → [2, 1, 1, 2]" in made.output


def test_learngenes_of_a_hierarchy_from_the_command_line(run, tmp_path):
    tiny_hierarchy("swin", dtype=torch.float32, depths=[2, 2, 4, 2]).save_pretrained(tmp_path / "swin")
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "swin")
    built = run(
        "build",
        tmp_path / "swin",
        "swin-sws",
        "--learngene-type",
        "sws",
        "--steps",
        0,
        "--option",
        "num_stages=1,1,2,1",
    )
    assert built.exit_code == 0, built.output
    assert "stages of 2, 2, 4, 2 blocks, widths 8, 16, 32, 64" in " ".join(built.output.split())
    assert "init swin-sws NAME --size depths=2,2,4,2" in " ".join(built.output.split())
    made = run("init", "swin-sws", "swin-deep", "--size", "depths=2,4,6,2")
    assert made.exit_code == 0, made.output
    assert "[2, 2, 4, 2] → [2, 4, 6, 2] blocks" in " ".join(made.output.split())
    assert list(SwinForImageClassification.from_pretrained("swin-deep").config.depths) == [2, 4, 6, 2]
    features = Features({"image": Image(), "label": ClassLabel(names=[f"LABEL_{i}" for i in range(5)])})
    images = [PILImage.new("RGB", (64, 64), color) for color in ("red", "green", "blue", "white")]
    Dataset.from_dict({"image": images, "label": [0, 1, 2, 3]}, features=features).to_parquet(
        tmp_path / "images.parquet"
    )
    shallow = run(
        "build", tmp_path / "swin", "swin-two", "--learngene-type", "tleg", "--steps", 0, "--size", "depths=2,2,2,2",
        "--eval-data", tmp_path / "images.parquet", "--eval-layers", "[[2,2,2,2],[2,2,4,2]]",
    )  # fmt: skip
    assert shallow.exit_code == 0, shallow.output
    said = " ".join(shallow.output.split())
    assert "stages of 2, 2, 2, 2 blocks" in said
    assert "2, 2, 4, 2 blocks, as initialised: accuracy 0." in said
    assert r"num_hidden_layers=\[2, 2, 4, 2\] | images.parquet" in (tmp_path / "swin-two" / "README.md").read_text()
    wrong = run("build", tmp_path / "swin", "swin-fine", "--learngene-type", "fine", "--steps", 0)
    assert wrong.exit_code == 2
    assert "`sws`, `tleg`, `wave` share" in " ".join((wrong.output + wrong.stderr).split())
