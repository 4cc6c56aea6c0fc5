#!/usr/bin/env python
"""Build a learngene: fitted to a teacher in closed form, then distilled from it.

    python examples/build_learngene.py \
        --teacher google/vit-base-patch16-224 --train_file train.parquet \
        --learngene_type wave --num_hidden_layers 6 --output_dir runs/vit-wave --max_steps 1000

Runs unchanged under `accelerate launch` and `torchrun`. `--resume_from_checkpoint runs/vit-wave/checkpoint-500` goes on after an
interruption, and says which checkpoint is whole where that one is not.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, field

import torch
from datasets.exceptions import DatasetsError
from transformers import HfArgumentParser, PreTrainedModel, set_seed

from hf_learngene import AutoLearngene, LearngeneTrainer, LearngeneTrainingArguments
from hf_learngene.calibration.processing import processor_of
from hf_learngene.hub.load import load_whole
from hf_learngene.learngenes import Learngene
from hf_learngene.training.data import TrainingData, read_data, training_data


logger = logging.getLogger(__name__)


@dataclass
class LearngeneArguments:
    """Which teacher, and what to make of it."""

    teacher: str = field(metadata={"help": "The ancestry model: a Hub id or a folder."})
    learngene_type: str = field(default="wave", metadata={"help": "wave, sws, tleg, fine or lets."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Depth of the auxiliary model."})
    options: str = field(default="{}", metadata={"help": "Its options as JSON, such as '{\"template_share\": 0.1}'."})


@dataclass
class DataArguments:
    """What to train on."""

    train_file: str | None = field(
        default=None, metadata={"help": "Parquet, csv, json or jsonl file, or image folder."}
    )
    dataset_name: str | None = field(default=None, metadata={"help": "A data set on the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    input_column: str | None = field(default=None, metadata={"help": "Images or texts. Left out: found by type."})
    label_column: str | None = field(default=None, metadata={"help": "Labels. Left out: found by name."})
    max_seq_length: int = field(default=128, metadata={"help": "Longest text, in tokens."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use a random part of the data."})

    def __post_init__(self) -> None:
        """Checks that there is one source of data.

        Raises:
            ValueError: there is none, or there are two.
        """
        if (self.train_file is None) == (self.dataset_name is None):
            raise ValueError("give --train_file or --dataset_name")


def prepare(args: DataArguments, teacher: PreTrainedModel, source: str, seed: int) -> TrainingData:
    """The training data, as the teacher reads it."""
    dataset = read_data(args.train_file or args.dataset_name, config_name=args.dataset_config_name)
    if args.max_train_samples is not None and args.max_train_samples < len(dataset):
        # Rows are often sorted by class, so the first few would all be alike.
        dataset = dataset.shuffle(seed=seed).select(range(args.max_train_samples))
    return training_data(
        dataset,
        teacher,
        processor_of(source, teacher.main_input_name),
        input_column=args.input_column,
        label_column=args.label_column,
        max_length=args.max_seq_length,
        seed=seed,
    )


def main(argv: list[str] | None = None) -> Learngene:
    """Entry point; returns the trained learngene."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    parser = HfArgumentParser(
        (LearngeneArguments, DataArguments, LearngeneTrainingArguments), description=__doc__.split("\n")[0]
    )
    try:
        gene_args, data_args, args = parser.parse_args_into_dataclasses(sys.argv[1:] if argv is None else argv)
        set_seed(args.seed)
        args.remove_unused_columns = False
        teacher = load_whole(gene_args.teacher, dtype=torch.float32)
        options = json.loads(gene_args.options)
        if gene_args.num_hidden_layers is not None:
            options["num_hidden_layers"] = gene_args.num_hidden_layers
        learngene = AutoLearngene.from_ancestry(teacher, gene_args.learngene_type, seed=args.seed, **options)
        data = prepare(data_args, teacher, gene_args.teacher, args.seed)
    except (DatasetsError, OSError, ValueError) as error:
        # Up to here all that can go wrong is what was asked for, and a traceback would only bury the reason.
        logger.debug("setting up failed", exc_info=True)
        sys.exit(f"error: {error}")
    logger.info("stores %.0f%% of the dense model's parameters", 100 * learngene.stored_share)

    trainer = LearngeneTrainer(
        learngene.train(),
        args,
        teacher,
        train_dataset=data.dataset,
        data_collator=data.collator,
        processing_class=data.processing_class,
        teacher_processing_class=data.processing_class,
    )
    metrics = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint).metrics
    trainer.save_model()
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    return learngene.eval()


if __name__ == "__main__":
    main()
