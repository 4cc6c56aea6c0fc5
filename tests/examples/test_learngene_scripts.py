"""The example scripts that build a learngene and fine-tune from it."""

from __future__ import annotations

import pytest
from transformers import (
    AutoModelForImageClassification,
)

from testing.checkpoints import save_checkpoint, write_images
from testing.families import load_example


@pytest.fixture
def vit(tmp_path):
    save_checkpoint(tmp_path / "vit", "vit", "ViTForImageClassification")
    return tmp_path / "vit"


@pytest.fixture
def image_parquet(tmp_path):
    return write_images(tmp_path / "train.parquet")


@pytest.mark.parametrize("adapt", [0, 2])
def test_builds_a_learngene_and_fine_tunes_from_it(vit, image_parquet, tmp_path, adapt):
    build, tune = load_example("build_learngene"), load_example("finetune_from_learngene")
    common = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--report_to", "none", "--use_cpu",
              "--save_strategy", "no", "--disable_tqdm", "true"]  # fmt: skip
    learngene = build.main(
        ["--teacher", str(vit), "--train_file", str(image_parquet), "--learngene_type", "fine", "--options", '{"rank": 8}',
         "--output_dir", str(tmp_path / "gene"), "--sandwich_weight", "0.5", *common]
    )  # fmt: skip
    assert learngene.config.rank == 8
    results = tune.main(
        ["--learngene", str(tmp_path / "gene"), "--train_file", str(image_parquet), "--test_file", str(image_parquet),
         "--num_hidden_layers", "3", "--adapt_steps", str(adapt), "--output_dir", str(tmp_path / "model"), *common]
    )  # fmt: skip
    assert {"start_accuracy", "test_accuracy", "train_loss"} <= results.keys()
    made = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    assert made.config.num_hidden_layers == 3


def test_the_learngene_scripts_name_what_is_wrong(vit, tmp_path):
    build, tune = load_example("build_learngene"), load_example("finetune_from_learngene")
    with pytest.raises(SystemExit, match="error: give --train_file or --dataset_name"):
        build.main(["--teacher", str(vit), "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"error: none.parquet does not exist"):
        build.main(["--teacher", str(vit), "--output_dir", str(tmp_path), "--train_file", "none.parquet"])
    with pytest.raises(SystemExit, match="error: .*not a learngene"):
        tune.main(["--learngene", str(vit), "--train_file", "none.parquet", "--output_dir", str(tmp_path)])
