#!/usr/bin/env python
"""Fine-tune an image classifier of any size, started from a checkpoint of another size.

    python examples/run_image_classification_resized.py \
        --model_name_or_path google/vit-base-patch16-224 --hidden_size 384 --num_hidden_layers 6 \
        --train_file train.parquet --test_file test.parquet \
        --output_dir runs/vit-small --do_train --do_eval --do_predict
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset
from datasets.exceptions import DatasetsError
from PIL import ImageOps
from transformers import (
    AutoImageProcessor,
    BaseImageProcessor,
    HfArgumentParser,
    PreTrainedModel,
    SchedulerType,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_learngene import AutoModelForImageClassification
from hf_learngene.metrics import F1, Accuracy
from hf_learngene.training import CheckpointSafeTrainer, lemon_steps


logger = logging.getLogger(__name__)

LOADERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
SIZE_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size")


@dataclass
class ModelArguments:
    """Which checkpoint to start from, and what size to give it."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint to start from: a Hub id or a folder."})
    method: str = field(default="auto", metadata={"help": "How to resize; `random` is the baseline that does not."})
    hidden_size: int | None = field(default=None, metadata={"help": "New width. Left out: that of the checkpoint."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "New depth."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "New number of heads."})
    intermediate_size: int | None = field(default=None, metadata={"help": "New width of the feed-forward layers."})
    image_size: int | None = field(default=None, metadata={"help": "New image size in pixels."})
    params: str | None = field(default=None, metadata={"help": "A parameter budget such as 20M, instead of sizes."})
    steps_from_scratch: int | None = field(
        default=None, metadata={"help": "Train by LEMON's schedule: 130/300 of these steps, instead of --max_steps."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where to keep what the Hub sends."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the checkpoint."})
    token: str | None = field(default=None, metadata={"help": "Hub token. Left out: the one you logged in with."})


@dataclass
class DataArguments:
    """Where the images are. Give one of `dataset_name`, `train_file`/`validation_file` and `train_dir`."""

    dataset_name: str | None = field(default=None, metadata={"help": "A data set on the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_file: str | None = field(default=None, metadata={"help": "A parquet, csv, json or jsonl file."})
    validation_file: str | None = field(default=None, metadata={"help": "The same; left out: carved out of train."})
    test_file: str | None = field(default=None, metadata={"help": "The same, used by --do_predict only."})
    train_dir: str | None = field(default=None, metadata={"help": "A folder with one subfolder of images per class."})
    validation_dir: str | None = field(default=None, metadata={"help": "The same; left out: carved out of train."})
    test_dir: str | None = field(default=None, metadata={"help": "The same, used by --do_predict only."})
    image_column_name: str = field(default="image", metadata={"help": "Column with images or paths to them."})
    label_column_name: str = field(default="label", metadata={"help": "Column with labels."})
    validation_split: float = field(
        default=0.1, metadata={"help": "Share of train held out when no validation data is given."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use a random part of train."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use a random part of validation and test."})
    random_flip: bool = field(default=False, metadata={"help": "Mirror half of the training images."})

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is read.

        Raises:
            ValueError: If the data is given twice, not at all, or in a format that is not read.
        """
        given = [name for name in ("dataset_name", "train_file", "train_dir") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give one of --dataset_name, --train_file and --train_dir; got {given or 'none'}")
        for name, needs in (("validation_file", "train_file"), ("validation_dir", "train_dir")):
            if getattr(self, name) and not getattr(self, needs):
                raise ValueError(f"--{name} needs --{needs}")
        files = [file for file in (self.train_file, self.validation_file, self.test_file) if file]
        for path in files:
            if Path(path).suffix not in LOADERS:
                raise ValueError(f"{path}: expected a file ending in {', '.join(LOADERS)}")
        folders = [folder for folder in (self.train_dir, self.validation_dir, self.test_dir) if folder]
        for path in files + folders:
            if not Path(path).exists():
                raise ValueError(f"{path} does not exist")
        if not 0 < self.validation_split < 1:
            raise ValueError(f"--validation_split must lie between 0 and 1, got {self.validation_split}")
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be positive, got {value}")


def load_splits(args: DataArguments, cache_dir: str | None, token: str | None, seed: int) -> DatasetDict:
    """Loads train, validation and, where there is one, test."""
    if args.dataset_name:
        splits = load_dataset(args.dataset_name, args.dataset_config_name, cache_dir=cache_dir, token=token)
    else:
        kind = "file" if args.train_file else "dir"
        paths = {split: getattr(args, f"{split}_{kind}") for split in ("train", "validation", "test")}
        splits = DatasetDict()
        for split, path in paths.items():
            if path is not None:
                source = {"data_files": path} if kind == "file" else {"data_dir": path}
                loader = LOADERS[Path(path).suffix] if kind == "file" else "imagefolder"
                splits[split] = load_dataset(loader, **source, split="train", cache_dir=cache_dir)
    splits = DatasetDict({name: splits[name] for name in ("train", "validation", "test") if name in splits})
    if "train" not in splits:
        raise ValueError(f"{args.dataset_name} has no split named train")
    for name in (args.image_column_name, args.label_column_name):
        if name not in splits["train"].column_names:
            raise ValueError(f"no column {name!r} in the data; columns are {', '.join(splits['train'].column_names)}")
    if "validation" not in splits:
        # Not the test split, even where there is one: what is chosen on it can no longer be reported on it.
        carved = splits["train"].train_test_split(args.validation_split, seed=seed)
        splits["train"], splits["validation"] = carved["train"], carved["test"]
    for split in list(splits):
        if not isinstance(splits[split].features[args.image_column_name], Image):
            splits[split] = splits[split].cast_column(args.image_column_name, Image())
    return splits


def encode_labels(splits: DatasetDict, column: str) -> tuple[DatasetDict, list[str]]:
    """Numbers the labels of every split in the same way.

    Args:
        splits: The data; `train` decides which labels there are.
        column: The column with labels: class labels, integers or strings.

    Returns:
        The data with class labels in that column, and their names.

    Raises:
        ValueError: If a row has no label, or another split has a label that train has not.
    """
    feature = splits["train"].features[column]
    if isinstance(feature, ClassLabel):
        target = ClassLabel(names=feature.names)
    else:
        values = splits["train"].unique(column)
        if None in values:
            raise ValueError(f"rows without a value in column {column!r}")
        target = ClassLabel(names=[str(value) for value in sorted(values)])
    encoded = {split: number_labels(dataset, split, column, target) for split, dataset in splits.items()}
    return DatasetDict(encoded), target.names


def number_labels(dataset: Dataset, split: str, column: str, target: ClassLabel) -> Dataset:
    """Numbers the labels of one split, going by their names: two files may well number the same names differently."""
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel) and feature.names == target.names:
        return dataset
    values = dataset.unique(column)
    names = {value: feature.int2str(value) if isinstance(feature, ClassLabel) else str(value) for value in values}
    unknown = set(names.values()) - set(target.names)
    if unknown:
        raise ValueError(f"labels in {split} that train does not have: {', '.join(sorted(unknown))}")
    numbers = {value: target.str2int(name) for value, name in names.items()}
    features = dataset.features.copy()
    features[column] = target
    return dataset.map(lambda row: {column: numbers[row[column]]}, features=features, desc="Numbering labels")


def subsample(splits: DatasetDict, args: DataArguments, seed: int) -> DatasetDict:
    """Keeps as many rows of each split as asked for."""
    for split in list(splits):
        limit = args.max_train_samples if split == "train" else args.max_eval_samples
        if limit is not None and limit < len(splits[split]):
            # Rows are often sorted by class, so the first few would all be alike.
            splits[split] = splits[split].shuffle(seed=seed).select(range(limit))
    return splits


def build_model(args: ModelArguments, label_names: list[str]) -> PreTrainedModel:
    """Builds the classifier at the size asked for."""
    sizes = {name: getattr(args, name) for name in (*SIZE_FIELDS, "params") if getattr(args, name) is not None}
    return AutoModelForImageClassification.from_pretrained_resized(
        args.model_name_or_path,
        method=args.method,
        num_labels=len(label_names),
        id2label=dict(enumerate(label_names)),
        label2id={name: number for number, name in enumerate(label_names)},
        # A checkpoint in half precision would otherwise be trained in it; mixed precision is what --bf16 is for.
        dtype=torch.float32,
        cache_dir=args.cache_dir,
        revision=args.model_revision,
        token=args.token,
        **sizes,
    )


def build_image_processor(args: ModelArguments, image_size: int | tuple[int, int]) -> BaseImageProcessor:
    """Loads the preprocessing of the checkpoint, set to the image size of the resized model."""
    processor = AutoImageProcessor.from_pretrained(
        args.model_name_or_path,
        backend="pil",
        cache_dir=args.cache_dir,
        revision=args.model_revision,
        token=args.token,
    )
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    # The model has one position per patch of its own image size, whatever size the checkpoint was made for.
    processor.size = {"height": height, "width": width}
    if getattr(processor, "crop_size", None):
        processor.crop_size = {"height": height, "width": width}
    return processor


def with_pixels(
    dataset: Dataset, args: DataArguments, processor: BaseImageProcessor, num_channels: int, flip: bool
) -> Dataset:
    """Makes the data set hand out what the model takes; images are decoded when they are needed."""
    mode = "L" if num_channels == 1 else "RGB"

    def transform(rows: dict) -> dict:
        images = [image.convert(mode) for image in rows[args.image_column_name]]
        if flip:
            images = [ImageOps.mirror(image) if torch.rand(()) < 0.5 else image for image in images]
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": list(pixels), "labels": rows[args.label_column_name]}

    return dataset.with_transform(transform)


def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
    """Stacks examples into a batch."""
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }


def compute_metrics(prediction) -> dict[str, float]:
    """Accuracy, and the F1 score averaged over classes."""
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    answers = {"predictions": np.argmax(logits, axis=-1), "references": prediction.label_ids}
    return {**Accuracy().compute(**answers), **F1().compute(**answers, average="macro")}


def use_lemon_schedule(args: TrainingArguments, steps_from_scratch: int) -> None:
    """Sets LEMON's learning rates: those of training the large model from scratch, whose cosine ends sooner."""
    if args.max_steps > 0:
        raise ValueError("--steps_from_scratch says how many steps are trained; leave --max_steps out")
    args.max_steps = lemon_steps(steps_from_scratch)
    args.lr_scheduler_type, args.lr_scheduler_kwargs = SchedulerType.COSINE_WITH_MIN_LR, {"min_lr_rate": 0.01}


def parse_arguments(argv: list[str] | None) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Reads the command line, or the one JSON file it names."""
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments), description=__doc__.split("\n")[0])
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) == 1 and argv[0].endswith(".json"):
        model_args, data_args, training_args = parser.parse_json_file(argv[0])
    else:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses(argv)
    if not (training_args.do_train or training_args.do_eval or training_args.do_predict):
        raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")
    # The images are turned into `pixel_values` on the fly, from a column the model has no argument for.
    training_args.remove_unused_columns = False
    if model_args.steps_from_scratch is not None:
        use_lemon_schedule(training_args, model_args.steps_from_scratch)
    return model_args, data_args, training_args


def record(trainer: Trainer, prefix: str, metrics: dict[str, float], dataset: Dataset) -> dict[str, float]:
    """Shows figures and writes them to `<prefix>_results.json` in the output folder."""
    metrics[f"{prefix}_samples"] = len(dataset)
    trainer.log_metrics(prefix, metrics)
    trainer.save_metrics(prefix, metrics)
    return metrics


def run(trainer: Trainer, test_dataset: Dataset | None) -> dict[str, float]:
    """Trains, evaluates and tests, as far as the command line asks for it.

    Args:
        trainer: The trainer, with its data.
        test_dataset: What `--do_predict` reports on.

    Returns:
        All figures, by name.
    """
    args, results = trainer.args, {}
    if args.do_train:
        metrics = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint).metrics
        trainer.save_model()
        trainer.save_state()
        results |= record(trainer, "train", metrics, trainer.train_dataset)
    if args.do_eval:
        results |= record(trainer, "eval", trainer.evaluate(), trainer.eval_dataset)
    if args.do_predict:
        metrics = trainer.evaluate(test_dataset, metric_key_prefix="test")
        results |= record(trainer, "test", metrics, test_dataset)
    return results


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Entry point.

    Args:
        argv: The command line, for callers from Python; left out, that of the process.

    Returns:
        All figures, by name.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        model_args, data_args, training_args = parse_arguments(argv)
        set_seed(training_args.seed)
        splits = load_splits(data_args, model_args.cache_dir, model_args.token, training_args.seed)
        if training_args.do_predict and "test" not in splits:
            raise ValueError("--do_predict needs a test split, --test_file or --test_dir")
        splits, label_names = encode_labels(splits, data_args.label_column_name)
        splits = subsample(splits, data_args, training_args.seed)
        model = build_model(model_args, label_names)
        processor = build_image_processor(model_args, model.config.image_size)
    except (DatasetsError, OSError, ValueError) as error:
        # Up to here all that can go wrong is what was asked for, and a traceback would only bury the reason.
        logger.debug("setting up failed", exc_info=True)
        sys.exit(f"error: {error}")
    logger.info("%d parameters, %d labels", model.num_parameters(), len(label_names))

    for split, dataset in splits.items():
        flip = data_args.random_flip and split == "train"
        splits[split] = with_pixels(dataset, data_args, processor, model.config.num_channels, flip)
    trainer = CheckpointSafeTrainer(
        model=model,
        args=training_args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=processor,
        data_collator=collate,
        compute_metrics=compute_metrics,
    )
    results = run(trainer, splits.get("test"))
    card = {"tasks": "image-classification", "tags": ["image-classification", "learngene"]}
    if data_args.dataset_name:
        card["dataset"] = data_args.dataset_name
    if not Path(model_args.model_name_or_path).exists():
        card["finetuned_from"] = model_args.model_name_or_path
    if training_args.push_to_hub:
        trainer.push_to_hub(**card)
    elif training_args.do_train:
        trainer.create_model_card(**card)
    return results


if __name__ == "__main__":
    main()
