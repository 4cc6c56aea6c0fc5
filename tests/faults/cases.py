"""What is drawn: a tiny model of any family, and a resize of it, mostly one that the family and the method can have.

Every draw comes from a `random.Random`, so a run draws by a seed, and hypothesis, which hands out one of its own, can shrink.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

import torch
from transformers import PreTrainedModel

from faults.chances import chance, weighted
from faults.sizes import drawn_sizes
from hf_learngene.anatomy import anatomy_of
from hf_learngene.errors import LearngeneError
from hf_learngene.methods import METHODS
from hf_learngene.resizing.outputs import outputs_of, random_inputs
from testing.families import listed, tiny_model
from testing.hierarchies import CASES as HIERARCHIES


DTYPES = {"float64": 8, "float32": 5, "bfloat16": 2, "float16": 1}
CLASSES = [*listed(), *HIERARCHIES]  # (model type, extra config, class)
# Other sizes of a source, where its family can have them: each class has one of these beside the usual ones.
SHAPES: tuple[dict[str, Any], ...] = (
    {"num_hidden_layers": 1},
    {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2},
    {"num_attention_heads": 1, "num_hidden_layers": 2},
)


@dataclass(frozen=True)
class Case:
    """One resize. Its `repr` is a call that makes it again.

    Attributes:
        kind, extra, name: model type, fields of its config, and class.
        dtype: of the source.
        training: whether the source is in train mode, as a Trainer leaves it.
        request: keywords of `resize`.
        examples: how many calibration examples are given; None where the request says all.
        config_only: whether the plan is made from the config alone.
        also: which of the dear properties are looked at: `shown`, `again`, `applied`, `saved`, `back`.
    """

    kind: str
    name: str
    extra: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float64"
    training: bool = False
    request: dict[str, Any] = field(default_factory=dict)
    examples: int | None = None
    config_only: bool = False
    also: tuple[str, ...] = ()


# ---- the source


def source_of(case: Case) -> PreTrainedModel:
    """The source of a case. It is shared by cases, so none may change it."""
    return _source(case.kind, case.name, _hashable(case.extra), case.dtype)


def _hashable(extra: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(extra.items())


@lru_cache(maxsize=64)
def _source(kind: str, name: str, extra: tuple[tuple[str, Any], ...], dtype: str) -> PreTrainedModel:
    model = (
        tiny_model(kind, name, dict(extra))
        if dtype == "float64"
        else copy.deepcopy(_source(kind, name, extra, "float64"))
    )
    model = model.to(getattr(torch, dtype))
    for number, parameter in enumerate(model.parameters()):
        if number % 5 == 1:  # some are frozen
            parameter.requires_grad_(False)
    return model


@lru_cache(maxsize=512)
def _fits(kind: str, name: str, extra: tuple[tuple[str, Any], ...]) -> bool:
    """Whether a family can have such a source: transformers builds and runs it, and it is known what its tensors are."""
    try:
        model = _source(kind, name, extra, "float64")
        outputs_of(model, random_inputs(model))
        anatomy_of(model.config, type(model))
    except Exception:  # a family's own code may fail anywhere at sizes that it does not expect
        return False
    return True


def _extra(rng: Random, kind: str, name: str, extra: dict[str, Any]) -> dict[str, Any]:
    staged = (kind, extra, name) in HIERARCHIES
    tried = {**extra, **(SHAPES[len(name) % len(SHAPES)] if not staged and chance(rng, 40) else {})}
    if "tie_word_embeddings" not in tried and name.endswith(("MaskedLM", "PreTraining")) and chance(rng, 30):
        tried["tie_word_embeddings"] = False
    return tried if tried == extra or _fits(kind, name, _hashable(tried)) else extra


# ---- the method


def shares() -> dict[str, int]:
    """How often each method is drawn. Examples are dear to look at; what is learned is dearer still, and has tests of its own."""
    found = {"auto": 24, "lemon": 20, "weight_selection": 16}
    for name, method in METHODS.items():
        if method.__module__.startswith("hf_learngene.") and not method.learns:
            found.setdefault(name, 1 if method.needs_examples else 10)
    return found


# Option -> what it is set to. One that is not here keeps its default.
OPTIONS: dict[str, Sequence[Any]] = {
    "element_selection": ("uniform", "consecutive", "random", "random_inconsistent"),
    "layer_selection": ("first", "uniform"),
    "head_selection": ("flat", "headwise"),
    "symmetry": ("proj", "equal", "comp"),
    "depth": ("allzero", "cancelzero"),
    "new_units": ("copies", "aki"),
    "allow_lossy": (False, False, True),
    "expansion": ("aki", "fpi"),
    "snr": (None, 10.0, -3),
    "scaling": ("constant", "released"),
    "order": ("stack", "repeat"),
    "tiling": ("middle", "edge"),
    "ridge": (1e-3, 1e-1),
    "refit": (False, True),
}
# Values that no option has.
WRONG = ("nonsense", 7, None, [], -1.0)


def options(rng: Random, name: str, depths: Sequence[int], staged: bool) -> dict[str, Any]:
    """Options of a method: for half of the cases the defaults, rarely ones that there are not."""
    if name == "auto":
        return {}
    known = METHODS[name].option_names()
    found = {}
    if "layer_map" in known:
        maps = [_layers(rng, depth) for depth in depths]
        found["layer_map"] = maps if staged else maps[0]
    if chance(rng, 50):
        found |= {option: rng.choice(OPTIONS[option]) for option in known if option in OPTIONS}
    if chance(rng, 2):
        found[rng.choice([*known, "strength"])] = rng.choice(WRONG)
    return found


def _layers(rng: Random, depth: int) -> list[int]:
    if chance(rng, 70):  # ascending, each at most once
        kept = [i for i in range(depth) if chance(rng, 70)]
        return kept or [0]
    low, high = (-depth, depth - 1) if not chance(rng, 10) else (-depth - 1, depth)
    return [rng.randint(low, high) for _ in range(rng.randint(1, depth + 2))]


# ---- the case


def draw(rng: Random, of: tuple[str, dict[str, Any], str] | None = None) -> Case:
    """A case, of one class or of any.

    Args:
        rng: what is drawn from.
        of: model type, extra config and class.
    """
    kind, extra, name = of or rng.choice(CLASSES)
    extra = _extra(rng, kind, name, dict(extra))
    model = _source(kind, name, _hashable(extra), "float64")
    try:
        anatomy = anatomy_of(model.config, type(model))
    except LearngeneError:  # whatever is asked of it, it is refused
        return Case(kind, name, extra, request={"num_hidden_layers": 2})
    method = weighted(rng, shares())
    depths = [part.num_layers for part in anatomy.parts]
    request: dict[str, Any] = {"method": method, **options(rng, method, depths, bool(anatomy.num_stages))}
    request |= drawn_sizes(rng, anatomy, kind, request)
    if chance(rng, 40):
        request["seed"] = rng.choice((1, 2, 2**63, -1))
    examples = None
    looks = method == "auto" or METHODS[method].needs_examples
    if method == "auto" and not chance(rng, 8):
        request["calibration"] = None
    elif looks and chance(rng, 50):
        examples = rng.choice((24, 1, 2))
    elif looks:
        request["calibration_size"] = 24
    also = tuple(
        n
        for n, percent in (("shown", 4), ("again", 15), ("applied", 25), ("saved", 8), ("back", 30))
        if chance(rng, percent)
    )
    return Case(
        kind,
        name,
        extra,
        weighted(rng, DTYPES),
        chance(rng, 25),
        request,
        examples,
        chance(rng, 40),
        also,
    )
