#!/usr/bin/env python
"""Fine-tune a text classifier with LoRA, grown (or shrunk) from a checkpoint of another size.

    python examples/finetune_lora.py \
        --model_name_or_path google-bert/bert-base-uncased --num_hidden_layers 24 \
        --train_file train.jsonl --test_file test.jsonl --output_dir runs/bert-24-lora --learning_rate 5e-4 --merge

An adapter fits one base only, so the resized model is kept beside it, in `base/`.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from datasets.exceptions import DatasetsError
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import HfArgumentParser, PreTrainedModel, TrainingArguments, set_seed

from hf_learngene import AutoModelForSequenceClassification, save_resized
from hf_learngene.calibration.processing import processor_of
from hf_learngene.metrics import Accuracy
from hf_learngene.training import CheckpointSafeTrainer
from hf_learngene.training.data import read_data, training_data


logger = logging.getLogger(__name__)

SIZE_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@dataclass
class ModelArguments:
    """Which checkpoint, which size, which adapter."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint to start from: a Hub id or a folder."})
    method: str = field(default="auto", metadata={"help": "How to resize; `auto` grows with `lemon`."})
    hidden_size: int | None = field(default=None, metadata={"help": "New width. Left out: that of the checkpoint."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "New depth."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "New number of heads."})
    intermediate_size: int | None = field(default=None, metadata={"help": "New width of the feed-forward layers."})
    lora_rank: int = field(default=8, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=16, metadata={"help": "The adapter is scaled by lora_alpha / lora_rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout in front of the adapter."})
    target_modules: str = field(
        default="all-linear", metadata={"help": "Which layers it adapts: `all-linear`, or names joined by commas."}
    )
    merge: bool = field(
        default=False, metadata={"help": "Also write `merged/`: a plain model with the adapter in it."}
    )


@dataclass
class DataArguments:
    """Where the texts are."""

    train_file: str = field(metadata={"help": "Parquet, csv, json or jsonl file, or Hub id."})
    test_file: str | None = field(default=None, metadata={"help": "The same; reported on at the end."})
    text_column: str | None = field(default=None, metadata={"help": "Texts. Left out: found by type."})
    label_column: str = field(default="label", metadata={"help": "Labels."})
    max_seq_length: int = field(default=128, metadata={"help": "Cut longer texts to this many tokens."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use a random part of the data."})


def label_names(dataset: Dataset, column: str) -> list[str]:
    """The names of the labels in the data, in order."""
    if column not in dataset.column_names:
        raise ValueError(f"no column {column!r} in the data; columns are {', '.join(dataset.column_names)}")
    feature = dataset.features[column]
    return feature.names if isinstance(feature, ClassLabel) else [str(v) for v in sorted(dataset.unique(column))]


def build_base(args: ModelArguments, names: list[str]) -> PreTrainedModel:
    """The model of the size asked for, which the adapter leaves as it is."""
    sizes = {name: getattr(args, name) for name in SIZE_FIELDS if getattr(args, name) is not None}
    return AutoModelForSequenceClassification.from_pretrained_resized(
        args.model_name_or_path,
        method=args.method,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        dtype=torch.float32,
        **sizes,
    )


def add_adapter(args: ModelArguments, base: PreTrainedModel, home: Path) -> PeftModel:
    """The base with an adapter, which names `home` as the place of its base."""
    # A resized model goes by the name of its source, which has other sizes: no adapter for this one fits it.
    base.name_or_path = str(home)
    names = args.target_modules.split(",")
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=names if len(names) > 1 else names[0],
    )
    return get_peft_model(base, config)


def compute_metrics(prediction) -> dict[str, float]:
    """Accuracy."""
    return Accuracy().compute(predictions=np.argmax(prediction.predictions, axis=-1), references=prediction.label_ids)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Entry point; returns the figures."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments), description=__doc__.split("\n")[0])
    try:
        model_args, data_args, args = parser.parse_args_into_dataclasses(sys.argv[1:] if argv is None else argv)
        set_seed(args.seed)
        home = Path(args.output_dir) / "base"
        dataset = read_data(data_args.train_file)
        base = build_base(model_args, label_names(dataset, data_args.label_column))
        tokenizer = processor_of(model_args.model_name_or_path, base.main_input_name)
        if data_args.max_train_samples is not None and data_args.max_train_samples < len(dataset):
            dataset = dataset.shuffle(seed=args.seed).select(range(data_args.max_train_samples))
        columns = {
            "input_column": data_args.text_column,
            "label_column": data_args.label_column,
            "max_length": data_args.max_seq_length,
        }
        data = training_data(dataset, base, tokenizer, **columns)
        test = None
        if data_args.test_file is not None:
            test = training_data(read_data(data_args.test_file, split="test"), base, tokenizer, **columns).dataset
        if args.should_save:
            save_resized(base, home, source=model_args.model_name_or_path, overwrite=True)
        model = add_adapter(model_args, base, home)
    except (DatasetsError, OSError, ValueError) as error:
        # Up to here all that can go wrong is what was asked for, and a traceback would only bury the reason.
        logger.debug("setting up failed", exc_info=True)
        sys.exit(f"error: {error}")
    trainable, total = model.get_nb_trainable_parameters()
    logger.info("%d of %d parameters are trained", trainable, total)

    trainer = CheckpointSafeTrainer(
        model,
        args,
        train_dataset=data.dataset,
        eval_dataset=test,
        data_collator=data.collator,
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    results = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint).metrics
    trainer.save_model()
    if test is not None:
        results |= trainer.evaluate(metric_key_prefix="test")
    trainer.log_metrics("all", results)
    trainer.save_metrics("all", results)
    if model_args.merge and args.should_save:
        merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        save_resized(merged, Path(args.output_dir) / "merged", source=model_args.model_name_or_path, overwrite=True)
    return results


if __name__ == "__main__":
    main()
