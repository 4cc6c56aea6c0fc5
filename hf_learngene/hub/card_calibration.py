"""What a card says of calibration and distillation: on what a model was fitted, and how well it agrees with its source since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_learngene.calibration.record import BOTH, COMPARED_ON, GIVEN, SYNTHETIC
from hf_learngene.hub.markdown import plain
from hf_learngene.pruning.agreement import Agreement


_KINDS = {
    SYNTHETIC: "made-up examples, so no data was needed",
    GIVEN: "unlabelled examples that were given",
    BOTH: "unlabelled examples, some given and the others made up",
}


def calibrated_on(record: Mapping[str, Any]) -> str:
    """Plain sentences on `record["calibration"]`, as far as it tells; nothing for a model that was not calibrated.

    Example:
        >>> told = {"examples": "synthetic", "count": 512, "agreement": {"kind": "same top class", "value": 0.9375, "count": 64}}
        >>> calibrated_on({"calibration": told})
        'It was calibrated on 512 made-up examples, so no data was needed. It agrees with the source on 93.8 % of 64 held-back
        made-up examples.'
        >>> calibrated_on({"fallback": {"from": "calibrated", "why": "..."}})
        'A calibrated shrink was tried first and did not do, so that its weights were selected without examples.'
    """
    if isinstance(record.get("fallback"), Mapping):
        return (
            "A calibrated shrink was tried first and did not do, so that its weights were selected without examples."
        )
    told = record.get("calibration")
    if not isinstance(told, Mapping):
        return ""
    sentences = []
    kind = _KINDS.get(str(told.get("examples")), "examples")
    count, tokens = _number(told.get("count")), _number(told.get("tokens"))
    if count is not None:
        of = f" ({tokens:,} tokens)" if tokens is not None else ""
        what, comma, rest = kind.partition(",")
        sentences.append(f"It was calibrated on {count:,} {what}{of}{comma}{rest}.")
    elif told.get("examples") in _KINDS:
        sentences.append(f"It was calibrated on {kind}.")
    if (found := _agreement(told.get("agreement"))) is not None:
        held = COMPARED_ON.get(str(told.get("examples")), COMPARED_ON[GIVEN])
        sentences.append(f"It {plain(found.on(held))}.")
    return " ".join(sentences)


def distilled_on(record: Mapping[str, Any]) -> str:
    """Plain sentences on `record["distillation"]`, as far as it tells; nothing for a model that was not distilled.

    Example:
        >>> distilled_on({"distillation": {"examples": "given", "count": 1792, "steps": 300}})
        'It was then distilled from its source for 300 steps on 1,792 unlabelled examples.'
    """
    told = record.get("distillation")
    if not isinstance(told, Mapping):
        return ""
    steps, count = _number(told.get("steps")), _number(told.get("count"))
    if steps is None or count is None:
        return ""
    what = "made-up" if told.get("examples") == SYNTHETIC else "unlabelled"
    found = _agreement(told.get("agreement"))
    said = f"It was then distilled from its source for {steps:,} steps on {count:,} {what} examples."
    held = COMPARED_ON[SYNTHETIC if told.get("examples") == SYNTHETIC else GIVEN]
    return f"{said} It {plain(found.on(held))}." if found is not None else said


def learned_on(record: Mapping[str, Any]) -> str:
    """A plain sentence on `record["training"]`, as far as it tells; nothing for a model whose growth was not learned.

    Example:
        >>> told = {"count": 2000, "steps": 100, "learning_rate": 1e-3, "data": "5feceb66ffc8"}
        >>> learned_on({"training": told})
        'How it grew was learned in 100 steps at a peak rate of 0.001 on 2,000 examples (data 5feceb66ffc8).'
    """
    told = record.get("training")
    if not isinstance(told, Mapping):
        return ""
    steps, count, rate = _number(told.get("steps")), _number(told.get("count")), told.get("learning_rate")
    if steps is None or count is None:
        return ""
    at = f" at a peak rate of {rate:g}" if isinstance(rate, (int, float)) and not isinstance(rate, bool) else ""
    data = told.get("data")
    known = f" (data {data[:12]})" if isinstance(data, str) and data.isalnum() else ""
    return f"How it grew was learned in {steps:,} steps{at} on {count:,} examples{known}."


def _agreement(told: Any) -> Agreement | None:
    if not isinstance(told, Mapping):
        return None
    kind, value, count = told.get("kind"), told.get("value"), _number(told.get("count"))
    if not isinstance(kind, str) or not isinstance(value, (int, float)) or count is None:
        return None
    alike = told.get("commonest")
    return Agreement(kind, float(value), count, float(alike) if isinstance(alike, float) else None)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


__all__ = ["calibrated_on", "distilled_on", "learned_on"]
