"""`learngene.adapt(...)`: the scalers of a new size, learnt on a little data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from transformers import PreTrainedModel

from hf_learngene.disk import scratch
from hf_learngene.errors import UnknownOptionError
from hf_learngene.learngenes.ancestry_mixin import lasting
from hf_learngene.learngenes.growth import OWN
from hf_learngene.learngenes.protocol import LearngeneLike
from hf_learngene.learngenes.refit import check_one_depth, refit
from hf_learngene.resizing.calibrating import examples_of
from hf_learngene.resizing.spec import ResizeSpec
from hf_learngene.state import undisturbed
from hf_learngene.training import LearngeneTrainer, LearngeneTrainingArguments


L = TypeVar("L", bound=LearngeneLike)
_TRAINER = ("data_collator", "processing_class", "teacher_processing_class")


def adapted(learngene: L, train_dataset: Any, teacher: Any, steps: int, given: Mapping[str, Any]) -> L:
    """A learngene at another size, trained; see `Learngene.adapt`."""
    fields = {f.name for f in dataclasses.fields(LearngeneTrainingArguments)}
    options = {k: v for k, v in given.items() if k in fields}
    passed = {k: v for k, v in given.items() if k in _TRAINER}
    sizes = {k: v for k, v in given.items() if k not in fields and k not in _TRAINER}
    other = learngene.for_size(**sizes)
    if not steps:
        _check_untrained({**options, **passed}, teacher)
        check_one_depth(learngene.anatomy)
        own = {n: other.anatomy.sizes[n] for n in OWN if n in other.anatomy.sizes and n != "head_dim"}
        looks = {
            "calibration": lasting(train_dataset),
            "processing_class": passed.get("processing_class", learngene.input_processor()),
            "seed": options.get("seed", 0),
        }
        wanted = learngene.initialize(**own, **looks)
        with undisturbed(), examples_of(ResizeSpec.parse({}, **looks), wanted) as examples:
            refit(other, wanted, examples, scalers_only=True)
        return cast(Any, other).eval()
    with undisturbed(), scratch("adapt") as folder:
        defaults: dict[str, Any] = {
            "output_dir": str(folder),
            "max_steps": steps,
            "learning_rate": 1e-3,
            "warmup_steps": steps // 10,  # a large first step throws away where interpolation put the scalers
            "weight_decay": 0.0,
            "lr_scheduler_type": "cosine",
            "save_strategy": "no",
            "report_to": "none",
        }
        args = LearngeneTrainingArguments(**{**defaults, **options})
        trainer = LearngeneTrainer(cast(PreTrainedModel, other), args, teacher, train_dataset=train_dataset, **passed)
        trainer.train()
    return cast(Any, other).eval()


def _check_untrained(given: Mapping[str, Any], teacher: Any) -> None:
    """Refuses what only training would read."""
    name = next(
        (n for n in given if n not in ("seed", "processing_class")), "teacher" if teacher is not None else None
    )
    if name is not None:
        raise UnknownOptionError(
            f"steps=0 trains nothing, so {name}= would do nothing: scalers are fitted to the auxiliary model. Leave it out, or "
            "give steps."
        )
