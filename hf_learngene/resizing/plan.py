"""`plan`: what a resize would do, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy, anatomy_like, anatomy_of
from hf_learngene.anatomy.config_fields import as_pair, section
from hf_learngene.budget import count as budget
from hf_learngene.errors import DirectionError, InvalidSizeError, LearngeneError, UnknownOptionError
from hf_learngene.hub import provenance
from hf_learngene.maps import TensorRecipe
from hf_learngene.maps.task import WIDTHS, ResizeTask, changes, flat_heads, source_axes
from hf_learngene.methods import METHODS, Calibrated, Lemon, Method, WeightSelection, make_method, recipes_for
from hf_learngene.methods.recipes import COMPUTED
from hf_learngene.resizing.sizes import check_names, complete, describe, target_config
from hf_learngene.resizing.table import plan_table
from hf_learngene.vocabulary.rows import KeptTokens, Vocabulary, check_padding, read_vocabulary, renumbered


@dataclass(frozen=True)
class Pass:
    """One method from one size to another. A mixed resize has two."""

    method: Method
    task: ResizeTask
    config: PreTrainedConfig
    recipes: tuple[TensorRecipe, ...]
    sizes: Mapping[str, Any]
    missing: frozenset[str] = frozenset()
    vocabulary: Vocabulary | None = None


@dataclass(frozen=True)
class TensorOrigin:
    """What becomes of one tensor.

    Attributes:
        name: the target tensor.
        shape: its shape, and `source_shape` that of the tensor it comes from (None if fresh).
        origin: `kept`, `selected 384 of 768`, `duplicated ×2`, `interpolated 14×14 → 16×16`, `fresh (...)`, ...
    """

    name: str
    shape: tuple[int, ...]
    source_shape: tuple[int, ...] | None
    origin: str

    @property
    def fresh(self) -> bool:
        return self.source_shape is None


@dataclass(frozen=True)
class Plan:
    """What a resize does. `print` shows a table of what becomes of each tensor.

    Attributes:
        target_config: the config of the result.
        num_parameters: its parameters, tied ones counted once; `source_parameters` those of the source.
        tensors: one `TensorOrigin` for each tensor of the result.
        method: name of the method, both names joined by `+` for a mixed resize.
        seed: for every random number.
        asked: sizes that the caller gave, by canonical name.
        budget: parameters still to be spent by the error that examples show; None where the sizes are settled.
    """

    target_config: PreTrainedConfig
    source_config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    passes: tuple[Pass, ...] = field(repr=False)
    seed: int = 0
    asked: Mapping[str, Any] = field(default_factory=dict, repr=False)
    budget: str | int | float | None = None

    @property
    def source(self) -> Anatomy:
        return self.passes[0].task.source

    @property
    def target(self) -> Anatomy:
        return self.passes[-1].task.target

    @property
    def num_parameters(self) -> int:
        return self.target.num_parameters

    @property
    def source_parameters(self) -> int:
        return self.source.num_parameters

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Which tokens stay; None where the caller did not say."""
        return self.passes[-1].vocabulary

    @property
    def method(self) -> str:
        return "+".join(stage.method.name for stage in self.passes)

    @property
    def changes(self) -> str:
        """The sizes that change, in a line."""
        sizes = self.passes[-1].sizes
        return describe(sizes, {**self.source.sizes, **_raw(self.source_config, self.source, sizes)})

    @property
    def tensors(self) -> list[TensorOrigin]:
        origins: dict[str, TensorOrigin] = {}
        for stage in self.passes:
            previous, origins = origins, {}
            for recipe in stage.recipes:
                first = recipe.sources[0][0] if recipe.sources else None
                before = previous.get(first) if first else None
                if first is None or (before is not None and before.fresh):
                    origins[recipe.name] = TensorOrigin(
                        recipe.name, recipe.shape, None, before.origin if before else recipe.origin
                    )
                    continue
                shape = before.source_shape if before else stage.task.source.tensors[first].shape
                words = [w for w in ((before.origin if before else "kept"), recipe.origin) if w != "kept"]
                origins[recipe.name] = TensorOrigin(recipe.name, recipe.shape, shape, ", then ".join(words) or "kept")
        return list(origins.values())

    @property
    def fresh(self) -> list[str]:
        """Names of the tensors that the result's own initialisation draws, not those that it computes."""
        return [t.name for t in self.tensors if t.fresh and t.origin != COMPUTED]

    def record(self, source: str | None, commit: str | None) -> dict[str, Any]:
        """The entry of `config.learngene`. Of a local source only the folder's name is kept."""
        sizes = self.passes[-1].sizes
        made = provenance.entry(
            source=provenance.public_name(source) if source else None,
            commit=commit,
            passes=[(s.method.name, s.method.options()) for s in self.passes],
            seed=self.seed,
            sizes={n: v for n, v in sizes.items() if self.source.sizes.get(n, v) != v},
            fresh=[] if self.method == "random" else self.fresh,
            before=self.source_config,
        )
        return made if self.vocabulary is None else {**made, "kept_tokens": self.vocabulary.record()}

    def __str__(self) -> str:
        return plan_table(self)


def _raw(config: PreTrainedConfig, anatomy: Anatomy, sizes: Mapping[str, Any]) -> dict[str, Any]:
    part = section(config, anatomy.section)
    found = {n: getattr(part, anatomy.fields.get(n, n), None) for n in sizes if n not in anatomy.sizes}
    return {n: v for n, v in found.items() if v is not None}


def make_plan(
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    sizes: Mapping[str, Any],
    method: str | Method = "auto",
    options: Mapping[str, Any] | None = None,
    params: str | int | float | None = None,
    seed: int = 0,
    missing: frozenset[str] = frozenset(),
    calibrated: bool = False,
    kept_tokens: Any = None,
    pad_to_multiple_of: int | None = None,
) -> Plan:
    """The plan for a config and a class. `plan` is the verb for people; this is what it and `resize` share."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
        raise InvalidSizeError(f"seed is a whole number of at most 64 bits; it was {seed!r}.")
    chosen = make_method(method, dict(options or {}))
    _check_calibration(chosen, calibrated)
    source = anatomy_of(config, model_class)
    asked = wanted = check_names(source, sizes)
    vocabulary = read_vocabulary(kept_tokens, pad_to_multiple_of, source, config, model_class)
    if vocabulary is not None:
        asked = wanted = {**wanted, "vocab_size": _agreed(wanted.get("vocab_size"), vocabulary)}
    waits = params is not None and calibrated and _spends_by_error(chosen, params, source, wanted)
    if params is not None and not waits:
        wanted = {**budget.fit(source, params, wanted), **wanted}
    if chosen is not None:
        wanted = {**chosen.implied_sizes(source.sizes), **wanted}
    full = complete(source, config, wanted)
    alone = chosen is None and not waits and not changes(source, full, source.sizes.keys() - {"vocab_size"})
    if vocabulary is not None and vocabulary.shift and "max_position_embeddings" not in wanted:
        full["max_position_embeddings"] -= vocabulary.shift  # as many positions behind the first as before
    stages = [(chosen, full)] if chosen is not None else _auto(source, config, full, calibrated)
    if vocabulary is not None:
        stages = [(KeptTokens(), full)] if alone else _vocabulary_last(stages, source.sizes, vocabulary)
    built: list[Pass] = []
    start = config
    for number, (one, stage_sizes) in enumerate(stages, 1):
        absent = frozenset() if built else missing
        tokens = vocabulary if number == len(stages) else None
        built.append(make_stage(one, start, model_class, stage_sizes, seed, absent, tokens))
        start = built[-1].config
    return Plan(start, config, model_class, tuple(built), seed, asked, params if waits else None)


def _agreed(vocab_size: int | None, vocabulary: Vocabulary) -> int:
    if vocab_size not in (None, vocabulary.size):
        raise InvalidSizeError(
            f"vocab_size={vocab_size} contradicts kept_tokens, which make {vocabulary.size} rows. Leave vocab_size out."
        )
    return vocabulary.size


def _vocabulary_last(
    stages: list[tuple[Method, dict[str, Any]]], old: Mapping[str, int], vocabulary: Vocabulary
) -> list[tuple[Method, dict[str, Any]]]:
    """The vocabulary changes with the last stage, and behind any that looks at examples: those are in the source's ids."""
    if any(method.takes_calibration for method, _ in stages):
        stages = [*stages, (KeptTokens(), stages[-1][1])]
    before = {name: old[name] for name in ("vocab_size", *(["max_position_embeddings"] if vocabulary.shift else []))}
    return [*((method, {**sizes, **before}) for method, sizes in stages[:-1]), stages[-1]]


def _spends_by_error(
    method: Method | None, params: str | int | float, source: Anatomy, wanted: Mapping[str, Any]
) -> bool:
    """Whether a budget waits for the examples: where all shrinks by `calibrated`, it goes by the error each size leaves."""
    smaller = budget.parse_budget(params, source.num_parameters) < source.num_parameters
    names = (*WIDTHS, "num_hidden_layers", "mlp_ratio")
    grows = any(new > old for old, new in changes(source, wanted, names).values())
    return smaller and not grows and (method is None or isinstance(method, Calibrated))


def _check_calibration(method: Method | None, given: bool) -> None:
    takers = [name for name, known in METHODS.items() if known.takes_calibration]
    if method is not None and given and not method.takes_calibration:
        raise UnknownOptionError(
            f"{method.name!r} looks at no examples, so calibration= would do nothing; {', '.join(takers)} do. Leave one of the "
            "two out."
        )


def make_stage(
    method: Method,
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    sizes: Mapping[str, Any],
    seed: int,
    missing: frozenset[str],
    vocabulary: Vocabulary | None = None,
) -> Pass:
    """One method from the size of `config` to `sizes`, and to the tokens of a vocabulary."""
    source = anatomy_of(config, model_class)
    method.check(source, sizes)
    layer_map = method.depth_map(source, sizes["num_hidden_layers"])
    part = section(config, source.section)
    edits = method.edits(source, sizes, part.to_dict())
    numbered = config if vocabulary is None else renumbered(config, vocabulary, source.sizes["vocab_size"])
    new_config = target_config(numbered, source, sizes, layer_map, edits)
    try:
        target = anatomy_like(source, new_config, model_class)
        if vocabulary is not None:
            check_padding(vocabulary, target, new_config, model_class)
    except LearngeneError:
        raise
    except Exception as error:  # the family's own checks, such as a table that ends before its padding index
        change = describe(sizes, {**source.sizes, **_raw(config, source, sizes)})
        raise InvalidSizeError(f"`{source.model_type}` cannot be built with {change}: {error}") from error
    patches = None
    if source.grid is not None:
        new_part = section(new_config, source.section)
        patches = as_pair(part.patch_size), as_pair(new_part.patch_size)
    std = float(getattr(part, "initializer_range", 0.02) or 0.02)
    tokens, positions = (None, {}) if vocabulary is None else (vocabulary.rows, vocabulary.position_rows)
    task = ResizeTask(source, target, layer_map, seed, std, patches, tokens, positions)
    recipes = tuple(recipes_for(task, method, missing))
    return Pass(method, task, new_config, recipes, sizes, missing, vocabulary)


def _auto(
    source: Anatomy, config: PreTrainedConfig, sizes: Mapping[str, Any], calibrated: bool
) -> list[tuple[Method, dict[str, Any]]]:
    """Grow by lemon, shrink by weight selection (or calibrated); mixed: first shrink what shrinks, then grow the rest."""
    # the first layers, the default of the method by itself, are measured far worse than evenly spread ones (docs/choosing.md)
    shrinking: Method = Calibrated() if calibrated else WeightSelection(layer_selection="uniform")
    old, new = dict(source.sizes), dict(sizes)
    changed = changes(source, sizes, (*WIDTHS, "num_hidden_layers", "mlp_ratio", *source_axes(source)))
    grows = [n for n, (was, now) in changed.items() if now > was]
    shrinks = [n for n, (was, now) in changed.items() if now < was]
    if flat_heads(new) <= flat_heads(old):  # the same heads cut otherwise: a selection takes them flat
        grows, shrinks = ([n for n in x if n not in ("num_attention_heads", "head_dim")] for x in (grows, shrinks))
        shrinks += ["num_attention_heads"] if flat_heads(new) < flat_heads(old) else []
    if not grows:
        return [(shrinking, dict(sizes))]
    if not shrinks:
        return [(Lemon(), dict(sizes))]
    middle = {**sizes, **{n: old[n] for n in grows}}
    if "hidden_size" in grows:
        middle.update({n: v for n, v in source.sizes.items() if n in source.linked}, hidden_size=old["hidden_size"])
    if not source.head_dim_honoured and middle["num_attention_heads"] * middle["head_dim"] != middle["hidden_size"]:
        raise DirectionError(
            f"Shrinking {', '.join(shrinks)} and growing {', '.join(grows)} in one go has no size in between that "
            f"`{source.model_type}` can have: the heads must fill the width. Resize in two calls, with sizes of your choice."
        )
    return [(shrinking, middle), (Lemon(), dict(sizes))]
