"""Sizes that are asked for: smaller, larger, mixed and the source's own, and such as no model has."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from faults.chances import chance, weighted
from hf_learngene.anatomy import Anatomy
from hf_learngene.anatomy.stages import staged
from hf_learngene.methods import METHODS
from hf_learngene.resizing.sizes import size_names
from testing.families import DEPTH_STAYS, WIDTH_STAYS


# What a method keeps as it is, so that most cases are ones that it can make. A method that is not here is asked for anything.
KEEPS = {
    "hyperclone": ("depth",),
    "wanda": ("depth",),
    "stack": ("width", "ffn"),
    "layers": ("width", "ffn", "depth"),  # its option says the depth
    "shortgpt": ("width", "ffn"),
}
# Those that make whole multiples of a width in any family.
WHOLE = {"auto": 75, "lemon": 75, "hyperclone": 95, "bert2bert": 40}
NONSENSE: tuple[Any, ...] = (
    0, -1, -(2**63), True, False, None, 2.0, 16.5, "16", "", b"8", [8], (8, 8), {}, {"a": 1}, 2**31, 2**70, 1j,
)  # fmt: skip
NO_NAMES = (
    "hiden_size",
    "dropout",
    "vision_config",
    "text_config.hidden_size",
    "hidden_size.0",
    "calibration_data",
    "",
)
SMALLER, LARGER = "smaller", "larger"


def drawn_sizes(rng: Random, anatomy: Anatomy, kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of sizes, for a request that has its method already."""
    name = request["method"]
    known = METHODS.get(name)
    ways = [
        way for way, can in ((SMALLER, known is None or known.shrinks), (LARGER, known is None or known.grows)) if can
    ]
    if chance(rng, 4):
        ways = [SMALLER, LARGER]  # what it may refuse
    found = _wanted(rng, anatomy, kind, name, ways)
    if anatomy.sizes.get("vocab_size") and not anatomy.num_stages and chance(rng, 3):
        found.pop("vocab_size", None)
        rows = anatomy.sizes["vocab_size"]
        found["kept_tokens"] = sorted({*range(5), *rng.sample(range(rows), rng.randint(1, rows))})
        if chance(rng, 50):
            found["pad_to_multiple_of"] = rng.choice((8, 64, 1, 0))
    if chance(rng, 3):
        found["params"] = rng.choice((0.5, 0.75, "0.9", 1.0, 2.5, "2K", 0.01, 0, -1, "x", True))
    if chance(rng, 6):
        found[rng.choice([*found, *size_names(anatomy), *NO_NAMES])] = rng.choice(NONSENSE)
    return found


def _wanted(rng: Random, anatomy: Anatomy, kind: str, name: str, ways: list[str]) -> dict[str, Any]:
    if chance(rng, 8):  # the source's own, said or left out
        own = {n: v for n, v in anatomy.sizes.items() if "." not in n and n != "head_dim" and n in anatomy.fields}
        return {n: v for n, v in own.items() if chance(rng, 30)}
    if chance(rng, 6) and not anatomy.num_stages:
        return {"hidden_size": rng.randint(1, 50), "num_attention_heads": rng.randint(1, 6)}
    whole = chance(rng, WHOLE.get(name, 0))
    way = rng.choice(ways)
    mixed = len(ways) > 1 and chance(rng, 20)
    seldom = {"width": kind in WIDTH_STAYS, "depth": kind in DEPTH_STAYS or anatomy.shared_layers}
    axes = [
        axis for axis in ("width", "depth", "ffn")
        if axis not in KEEPS.get(name, ()) and chance(rng, 8 if seldom.get(axis) else 60)
    ]  # fmt: skip
    found: dict[str, Any] = {}
    for axis in axes:
        here = rng.choice(ways) if mixed else way
        make = _STAGED[axis] if anatomy.num_stages else _FLAT[axis]
        found |= make(rng, anatomy, here, whole)
    if chance(rng, 15):
        found |= _beside(rng, anatomy)
    return found


def _named(rng: Random, anatomy: Anatomy, size: str) -> str:
    """A size by its usual name, or the family's own."""
    return rng.choice((size, anatomy.fields.get(size, size)))


# ---- one width, one depth


def _width(rng: Random, anatomy: Anatomy, way: str, whole: bool) -> dict[str, Any]:
    old, heads = anatomy.sizes["hidden_size"], anatomy.sizes.get("num_attention_heads")
    size = anatomy.sizes.get("head_dim", 1)
    asked = _named(rng, anatomy, "hidden_size")
    if heads is None:
        return {asked: rng.randint(1, old - 1) if way == SMALLER else old * 2 if whole else old + rng.randint(1, old)}
    count = _named(rng, anatomy, "num_attention_heads")
    if way == SMALLER:
        if heads > 1 and not chance(rng, 25):
            return {asked: rng.randint(1, heads - 1) * old // heads}
        few = rng.randint(1, heads)
        return {asked: few * rng.randint(1, size), count: few}
    if anatomy.head_dim_honoured and chance(rng, 20):
        return {
            asked: old + rng.randint(0, 12),
            count: heads + rng.randint(0, 2),
            "head_dim": size + rng.randint(0, 4),
        }
    if not whole:
        return {asked: old + rng.randint(1, 3) * size}
    times = rng.choice((2, 3))
    if not (anatomy.rotary or anatomy.normalised_heads) and chance(rng, 20):
        return {asked: times * old, count: heads}  # larger heads
    return {asked: times * old}


def _depth(rng: Random, anatomy: Anatomy, way: str, whole: bool) -> dict[str, Any]:
    old = anatomy.num_layers
    if way == SMALLER:
        return {_named(rng, anatomy, "num_hidden_layers"): rng.randint(1, max(1, old - 1))}
    return {_named(rng, anatomy, "num_hidden_layers"): old + rng.randint(1, old + 2)}


def _ffn(rng: Random, anatomy: Anatomy, way: str, whole: bool) -> dict[str, Any]:
    if "mlp_ratio" in anatomy.fields:
        return {"mlp_ratio": 1 if way == SMALLER else rng.choice((3, 4))}
    old = anatomy.sizes.get("intermediate_size")
    if old is None:
        return {}
    new = rng.randint(1, max(1, old - 1)) if way == SMALLER else 2 * old if whole else old + rng.randint(1, 2 * old)
    return {_named(rng, anatomy, "intermediate_size"): new}


# ---- one of each stage


def _stage_widths(rng: Random, anatomy: Anatomy, way: str, whole: bool) -> dict[str, Any]:
    field, stages = anatomy.stage_fields["hidden_size"], range(anatomy.num_stages)
    old = [anatomy.sizes[staged("hidden_size", stage)] for stage in stages]
    alone = rng.choice(stages) if field.factor is None and chance(rng, 30) else None
    if way == SMALLER:
        new = [max(1, w // 2) for w in old]
    else:
        times = rng.choice((2, 3)) if whole or not chance(rng, 30) else 1.5
        new = [int(w * times) for w in old]
    if alone is not None:
        new = [new[stage] if stage == alone else w for stage, w in enumerate(old)]
    found: dict[str, Any] = {field.native: new if field.factor is None else new[0]}
    heads = anatomy.stage_fields.get("num_attention_heads")
    if heads is not None and (way == SMALLER or chance(rng, 15)):
        found[heads.native] = [1 for _ in stages]
    return found


def _stage_depths(rng: Random, anatomy: Anatomy, way: str, whole: bool) -> dict[str, Any]:
    old = [anatomy.sizes[staged("num_hidden_layers", stage)] for stage in range(anatomy.num_stages)]
    step = max(part.period for part in anatomy.parts) if whole or not chance(rng, 30) else 1
    sign = -1 if way == SMALLER else 1
    new = [max(1, depth + sign * step * rng.choice((0, 1, 1))) for depth in old]
    name = rng.choice(("num_hidden_layers", anatomy.stage_fields["num_hidden_layers"].native))
    if chance(rng, 25):  # of one stage
        stage = rng.randrange(len(old))
        return {staged("num_hidden_layers", stage): new[stage]}
    return {name: new}


def _stage_ratios(rng: Random, anatomy: Anatomy, way: str, whole: bool) -> dict[str, Any]:
    field = anatomy.stage_fields.get("mlp_ratio")
    if field is None:
        return {}
    old = [anatomy.sizes[staged("mlp_ratio", stage)] for stage in range(anatomy.num_stages)]
    return {field.native: [max(1, n + (-1 if way == SMALLER else rng.choice((0, 1, 2)))) for n in old]}


_FLAT = {"width": _width, "depth": _depth, "ffn": _ffn}
_STAGED = {"width": _stage_widths, "depth": _stage_depths, "ffn": _stage_ratios}


# ---- what has no direction, and what only some families have


def _beside(rng: Random, anatomy: Anatomy) -> dict[str, Any]:
    sizes = anatomy.sizes
    old = {
        n: sizes[n] for n in ("vocab_size", "max_position_embeddings", "type_vocab_size", "num_labels") if sizes.get(n)
    }
    kind = weighted(rng, {"table": 6 if old else 0, "grid": 3 if anatomy.grid else 0, "other": 4})
    if kind == "table":
        name = rng.choice(list(old))
        return {name: max(1, old[name] + rng.randint(-(old[name] // 3) - 1, 9))}
    if kind == "grid":
        return rng.choice(
            ({"image_size": 16}, {"image_size": 8}, {"image_size": (8, 12)}, {"patch_size": 2}, {"patch_size": 6})
        )
    name = rng.choice(size_names(anatomy))
    value = sizes.get(name) or sizes.get("hidden_size") or 8
    return {name: rng.choice((2 * value, value + 1, max(1, value - 1), max(1, value // 2)))}
