"""Sizes of a hierarchy: lists over its stages as a caller gives them, what follows from them, and how its config says them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.config_fields import ALIASES, section
from hf_learngene.anatomy.stages import StageField, in_stages, sizes_of_stage, staged
from hf_learngene.errors import InvalidSizeError


Check = Callable[[str, Any, str], int]


def by_stage(anatomy: Anatomy, asked: Mapping[str, Any], checked: Check) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was asked for of stages, by canonical name, one by one; and the rest as it was asked for.

    Args:
        anatomy: of the source.
        asked: sizes as a caller named them.
        checked: takes the words for a size, its value and its canonical name; gives the whole number that it is.

    Raises:
        InvalidSizeError: a number for a list, a list of another length, one size said twice.
    """
    found: dict[str, Any] = {}
    rest = dict(asked)
    for name in asked:
        size = stage_size(anatomy, name)
        if size is None:
            continue
        values = _values(anatomy, size, name, rest.pop(name), checked)
        twice = sorted(values.keys() & found.keys())
        if twice:
            raise InvalidSizeError(f"{name!r} says {', '.join(twice)} once more; give each size once.")
        found |= values
    return found, rest


def stage_size(anatomy: Anatomy, name: str) -> str | None:
    """Canonical name of the size of stages that is meant, from any of its spellings; None where it is none."""
    plain = name.partition(".")[0]
    for size, field in anatomy.stage_fields.items():
        if plain in (size, field.native) or plain in ALIASES.get(size, ()):
            return size
    return None


def _values(anatomy: Anatomy, size: str, name: str, value: Any, checked: Check) -> dict[str, int]:
    field, stages = anatomy.stage_fields[size], anatomy.num_stages
    own = [anatomy.sizes[staged(size, stage)] for stage in range(stages)]
    _, dot, place = name.partition(".")
    if dot:
        if not place.isdigit() or int(place) >= stages:
            raise InvalidSizeError(f"{name}: `{anatomy.model_type}` has the stages 0 to {stages - 1}.")
        return {staged(size, int(place)): checked(name, value, size)}
    if field.factor is not None and name == field.native:
        if isinstance(value, (list, tuple)):
            raise InvalidSizeError(
                f"{name} is one number, the width of the first stage, and every further stage has {field.factor} times as "
                f"much; it was {value!r}. Give {name}={value[0] if value else own[0]}."
            )
        return in_stages({size: field.read(checked(name, value, size), stages)})
    if not isinstance(value, (list, tuple)):
        one = f", or {field.native}, the first of them" if field.factor is not None else ""
        raise InvalidSizeError(
            f"{name} is a list of {stages} whole numbers, one for each stage, such as {name}={own}{one}; it was {value!r}."
        )
    if len(value) != stages:
        raise InvalidSizeError(
            f"{name} is a list of {stages} whole numbers, one for each stage, such as {name}={own}; it had {len(value)}: "
            f"{list(value)!r}. The number of stages stays."
        )
    return {staged(size, i): checked(f"{name}[{i}]", v, size) for i, v in enumerate(value)}


def complete_stages(anatomy: Anatomy, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """All sizes of the target: what was asked for, and the rest as the source has it, with as many heads as keep their size.

    Raises:
        InvalidSizeError: widths that no number of heads divides as the source's do, with the nearest that do.
    """
    sizes: dict[str, Any] = {**anatomy.sizes, **wanted}
    _check_widths(anatomy, sizes)
    if "num_attention_heads" not in anatomy.stage_fields:
        return sizes
    for stage in range(anatomy.num_stages):
        old, new = anatomy.of_stage(stage).sizes, sizes_of_stage(sizes, stage)
        width, heads, head = new["hidden_size"], staged("num_attention_heads", stage), old["head_dim"]
        if heads not in wanted and width != old["hidden_size"]:
            if width % head:
                raise InvalidSizeError(
                    f"{_said(anatomy, 'hidden_size', stage)}={width} cannot keep the source's head size of {head}. "
                    f"{_nearest(anatomy, stage, width)}; or give {_said(anatomy, 'num_attention_heads')} too, whose entries "
                    "divide the widths."
                )
            sizes[heads] = width // head
        if width % sizes[heads]:
            divisors = [n for n in range(1, width + 1) if width % n == 0]
            near = sorted(divisors, key=lambda n: abs(n - sizes[heads]))[:2]
            raise InvalidSizeError(
                f"{_said(anatomy, 'hidden_size', stage)}={width} is not divisible by "
                f"{_said(anatomy, 'num_attention_heads', stage)}={sizes[heads]}. The nearest numbers of heads are "
                f"{' and '.join(map(str, sorted(near)))}."
            )
        sizes[staged("head_dim", stage)] = width // sizes[heads]
    return sizes


def _said(anatomy: Anatomy, size: str, stage: int | None = None) -> str:
    """A size as the config has it: `hidden_sizes[2]`; of one number for all stages, `hidden_size of stage 2`."""
    field = anatomy.stage_fields[size]
    if stage is None:
        return field.native
    return f"{field.native}[{stage}]" if field.factor is None else f"{size} of stage {stage}"


def _nearest(anatomy: Anatomy, stage: int, width: int) -> str:
    """The nearest widths that keep the head sizes, in words: of that stage, or of the number that says all."""
    field, steps = anatomy.stage_fields["hidden_size"], [part.sizes["head_dim"] for part in anatomy.parts]
    if field.factor is None:
        step = steps[stage]
        what = "widths"
    else:
        step = math.lcm(*(s // math.gcd(s, field.factor**i) for i, s in enumerate(steps)))
        width //= field.factor**stage
        what = f"values of {field.native}"
    low = width // step * step
    return f"The nearest {what} are {low} and {low + step}" if low else f"The nearest of the {what} is {step}"


def _check_widths(anatomy: Anatomy, sizes: Mapping[str, Any]) -> None:
    """Refuses widths that the config's one number cannot say."""
    field, stages = anatomy.stage_fields["hidden_size"], range(anatomy.num_stages)
    widths = tuple(sizes[staged("hidden_size", stage)] for stage in stages)
    said = field.read(widths[0], len(stages)) if field.factor is not None else widths
    if widths != said:
        raise InvalidSizeError(
            f"`{anatomy.model_type}` says its widths by one number, {field.native}, and every further stage has {field.factor} "
            f"times as much: {list(widths)} cannot be said. {field.native}={widths[0]} gives {list(said)}."
        )


def stage_settings(config: PreTrainedConfig, anatomy: Anatomy, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Native fields of a config -> what they have to say for sizes of the stages."""
    part = section(config, anatomy.section)
    stages = range(anatomy.num_stages)
    values: dict[str, Any] = {}
    for size, field in anatomy.stage_fields.items():
        values[field.native] = _written(field, getattr(part, field.native), [sizes[staged(size, s)] for s in stages])
    return values | {name: sizes[staged("hidden_size", stages[-1])] for name in anatomy.linked}


def _written(field: StageField, current: Any, sizes: Sequence[int]) -> Any:
    return current if field.read(current, len(sizes)) == tuple(sizes) else field.written(current, sizes)


__all__ = ["by_stage", "complete_stages", "stage_settings", "stage_size"]
