#!/usr/bin/env python
"""Fine-tune a model of any size, made from a learngene.

    python examples/finetune_from_learngene.py \
        --learngene runs/vit-wave --num_hidden_layers 9 --train_file train.parquet --test_file test.parquet \
        --output_dir runs/vit-9 --max_steps 500

`--adapt_steps 200` first trains the scalers of the new size with everything shared frozen (wave and fine).
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field

import numpy as np
from datasets.exceptions import DatasetsError
from transformers import HfArgumentParser, set_seed

from hf_learngene import AutoLearngene, LearngeneTrainer, LearngeneTrainingArguments
from hf_learngene.calibration.processing import processor_of
from hf_learngene.metrics import Accuracy
from hf_learngene.training.data import read_data, training_data


logger = logging.getLogger(__name__)


@dataclass
class Arguments:
    """Which learngene, which size, which data."""

    learngene: str = field(metadata={"help": "A learngene: a Hub id or a folder."})
    train_file: str = field(metadata={"help": "Parquet, csv, json or jsonl file, image folder, or Hub id."})
    test_file: str | None = field(default=None, metadata={"help": "The same; reported on at the end."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Depth. Left out: the learngene's own."})
    hidden_size: int | None = field(default=None, metadata={"help": "Width, where the learngene changes it."})
    adapt_steps: int = field(default=0, metadata={"help": "Steps on the scalers alone, before fine-tuning."})
    input_column: str | None = field(default=None, metadata={"help": "Images or texts. Left out: found by type."})
    label_column: str | None = field(default=None, metadata={"help": "Labels. Left out: found by name."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use a random part of the data."})


def compute_metrics(prediction) -> dict[str, float]:
    """Accuracy."""
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    return Accuracy().compute(predictions=np.argmax(logits, axis=-1), references=prediction.label_ids)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Entry point; returns the figures."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    parser = HfArgumentParser((Arguments, LearngeneTrainingArguments), description=__doc__.split("\n")[0])
    try:
        given, args = parser.parse_args_into_dataclasses(sys.argv[1:] if argv is None else argv)
        set_seed(args.seed)
        args.remove_unused_columns = False
        args.distillation = "none"
        learngene = AutoLearngene.from_pretrained(given.learngene)
        sizes = {n: v for n in ("num_hidden_layers", "hidden_size") if (v := getattr(given, n)) is not None}
        model = learngene.initialize(seed=args.seed, **sizes)
        processor = processor_of(given.learngene, model.main_input_name)
        columns = {"input_column": given.input_column, "label_column": given.label_column}
        dataset = read_data(given.train_file)
        if given.max_train_samples is not None and given.max_train_samples < len(dataset):
            dataset = dataset.shuffle(seed=args.seed).select(range(given.max_train_samples))
        data = training_data(dataset, model, processor, **columns)
        test = None
        if given.test_file is not None:
            test = training_data(read_data(given.test_file, split="test"), model, processor, **columns).dataset
    except (DatasetsError, OSError, ValueError) as error:
        # Up to here all that can go wrong is what was asked for, and a traceback would only bury the reason.
        logger.debug("setting up failed", exc_info=True)
        sys.exit(f"error: {error}")
    if given.adapt_steps:
        adapted = learngene.adapt(
            data.dataset,
            steps=given.adapt_steps,
            data_collator=data.collator,
            per_device_train_batch_size=args.per_device_train_batch_size,
            remove_unused_columns=False,
            seed=args.seed,
            **sizes,
        )
        model = adapted.initialize(seed=args.seed)
    trainer = LearngeneTrainer(
        model.train(),
        args,
        train_dataset=data.dataset,
        eval_dataset=test,
        data_collator=data.collator,
        processing_class=processor,
        compute_metrics=compute_metrics,
    )
    results = {}
    if test is not None:
        results |= {f"start_{k.removeprefix('eval_')}": v for k, v in trainer.evaluate().items() if "accuracy" in k}
    results |= trainer.train(resume_from_checkpoint=args.resume_from_checkpoint).metrics
    trainer.save_model()
    if test is not None:
        results |= trainer.evaluate(metric_key_prefix="test")
    trainer.log_metrics("all", results)
    trainer.save_metrics("all", results)
    return results


if __name__ == "__main__":
    main()
