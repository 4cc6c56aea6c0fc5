#!/usr/bin/env python
"""Shrink a checkpoint without training, on several processes: each looks at its share of the examples.

    torchrun --nproc_per_node 4 examples/resize_calibrated.py \
        --model_name_or_path google/vit-base-patch16-224 --calibration images/ --params 0.5 --output_dir runs/vit-half

Runs unchanged in one process, under `accelerate launch` and `torchrun`. Without `--calibration` the examples are made up.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import PartialState
from transformers import HfArgumentParser, PreTrainedModel
from transformers.utils import logging as transformers_logging

from hf_learngene import resize, save_resized
from hf_learngene.hub.load import load_whole


logger = logging.getLogger(__name__)
SIZE_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@dataclass
class ShrinkArguments:
    """Which checkpoint, to what size, and on which examples."""

    model_name_or_path: str = field(metadata={"help": "A Hub id or a folder."})
    output_dir: str = field(metadata={"help": "A folder for the smaller model."})
    hidden_size: int | None = field(default=None, metadata={"help": "Width."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Depth."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Heads of each layer."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Units of each ffn."})
    params: str | None = field(
        default=None, metadata={"help": "A budget, such as 20M or 0.5, in place of sizes or beside some."}
    )
    calibration: str | None = field(
        default=None, metadata={"help": "A folder of images, a file of texts, or a Hub id. Left out: made up."}
    )
    calibration_column: str | None = field(default=None, metadata={"help": "Its column. Left out: found."})
    calibration_size: int | None = field(default=None, metadata={"help": "Examples that are looked at. Default: 512."})
    dtype: str = field(default="float32", metadata={"help": "Of the weights while they are fitted, and afterwards."})
    seed: int = field(default=0, metadata={"help": "For which examples are taken or made up."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave accelerators alone."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace what lies there."})


def shrink(args: ShrinkArguments, state: PartialState) -> PreTrainedModel:
    """The smaller model, the same in every process."""
    sizes: dict[str, Any] = {n: getattr(args, n) for n in SIZE_FIELDS if getattr(args, n) is not None}
    if args.params is not None:
        sizes["params"] = float(args.params) if args.params.replace(".", "", 1).isdigit() else args.params
    model = load_whole(args.model_name_or_path, dtype=getattr(torch, args.dtype)).to(state.device)
    return resize(
        model,
        method="calibrated",
        calibration=args.calibration or "synthetic",
        calibration_column=args.calibration_column,
        calibration_size=args.calibration_size,
        processing_class=args.model_name_or_path if args.calibration else None,
        seed=args.seed,
        **sizes,
    )


def main(argv: list[str] | None = None) -> PreTrainedModel:
    """Entry point; returns the smaller model."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    parser = HfArgumentParser(ShrinkArguments, description=__doc__.split("\n")[0])
    (args,) = parser.parse_args_into_dataclasses(sys.argv[1:] if argv is None else argv)
    state = PartialState(cpu=args.use_cpu)  # from here on the processes share the examples
    if not state.is_main_process:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
    try:
        model = shrink(args, state)
        if state.is_main_process:
            save_resized(model, args.output_dir, source=args.model_name_or_path, overwrite=args.overwrite_output_dir)
    except (OSError, ValueError) as error:
        logger.debug("shrinking failed", exc_info=True)
        sys.exit(f"error: {error}")
    state.wait_for_everyone()
    return model


if __name__ == "__main__":
    main()
