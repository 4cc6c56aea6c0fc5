"""`Plan`: what a resize would do, before any weight is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import Anatomy, anatomy_of
from hf_learngene.anatomy.admit import refuse_stages
from hf_learngene.anatomy.config_fields import section_name
from hf_learngene.anatomy.sections import sections_of
from hf_learngene.anatomy.stages import listed
from hf_learngene.budget.meter import Meter
from hf_learngene.budget.spend import metered, spent
from hf_learngene.errors import UnsupportedSourceError
from hf_learngene.hub import provenance
from hf_learngene.methods import LearnedGrowth
from hf_learngene.resizing.by_section import by_section, check_several
from hf_learngene.resizing.costs import Cost, computation, cost_table, storage, time
from hf_learngene.resizing.layer_lines import layer_lines
from hf_learngene.resizing.origins import COMPUTED, TensorOrigin, origins
from hf_learngene.resizing.passes import Pass, make_pass
from hf_learngene.resizing.planned import check_planned
from hf_learngene.resizing.proof import prove
from hf_learngene.resizing.route import examples_origin, route_of, spends_by_error
from hf_learngene.resizing.sizes import check_names, complete, config_at, describe, raw_sizes
from hf_learngene.resizing.spec import GIVEN, SYNTHETIC, ResizeSpec
from hf_learngene.resizing.table import origin_table
from hf_learngene.tables import folded, html, paragraphs, render
from hf_learngene.vocabulary.rows import Vocabulary, read_vocabulary


@dataclass(frozen=True, eq=False)
class Plan:
    """What a resize does. `print` shows a table of where each tensor comes from.

    Attributes:
        spec: what was asked for.
        target_config: the config of the result.
        num_parameters: its parameters, tied ones counted once; `source_parameters` those of the source.
        tensors: one `TensorOrigin` for each tensor of the result.
        method: name of the method, both names joined by `+` for a mixed resize.
        sizes: those that the caller asked for, by canonical name.
        passes: the methods that are run, one after the other.
        examples: where its calibration examples come from, `given` or `synthetic`; None where it needs none.
        meter: the budget that was asked for; None where none was.
        budget: the same while it is still to be spent, by the error that examples show; None where the sizes are settled.
        several: whether the class builds from several sections of its config, each with sizes of its own.
        carry_out: what `apply` does; None for a plan that is a step of another.
    """

    spec: ResizeSpec = field(repr=False)
    source_config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    sizes: Mapping[str, Any]
    passes: tuple[Pass, ...] = field(repr=False)
    examples: str | None = None
    meter: Meter | None = None
    budget: Meter | None = None
    several: bool = False
    carry_out: Callable[[Plan, PreTrainedModel], PreTrainedModel] | None = field(default=None, repr=False)

    @property
    def target_config(self) -> PreTrainedConfig:
        return self.passes[-1].config

    @property
    def source(self) -> Anatomy:
        """The source's anatomy."""
        return self.passes[0].task.source

    @property
    def target(self) -> Anatomy:
        """The target's anatomy."""
        return self.passes[-1].task.target

    @property
    def seed(self) -> int:
        return self.spec.seed

    @property
    def num_parameters(self) -> int:
        return self.target.num_parameters

    @property
    def source_parameters(self) -> int:
        return self.source.num_parameters

    @cached_property
    def costs(self) -> list[Cost]:
        """Parameters, bytes and, where they can be counted, FLOPs of source and result."""
        return [
            *storage(self.source, self.target, self.source_config),
            *computation(self.source_config, self.target_config, self.model_class),
        ]

    @cached_property
    def latency(self) -> Cost:
        """The time of a forward pass of source and result on this CPU, measured when it is first asked for.

        It is measured with random weights in float32, both in turns, and takes seconds; afterwards the plan shows it too.

        Raises:
            UnsupportedFamilyError: a family that runs on none of the inputs that are tried.

        Example:
            >>> from transformers import BertConfig
            >>> from hf_learngene import plan
            >>> bert = BertConfig(hidden_size=64, num_attention_heads=2, intermediate_size=128, num_hidden_layers=4)
            >>> plan(bert, num_hidden_layers=1).latency.share < 1
            True
        """
        return time(self.source_config, self.target_config, self.model_class)

    def apply(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model that the plan describes, as `resize` makes it. The source is left as it is.

        Args:
            model (`PreTrainedModel`): of the class and with the config that was planned for.

        Raises:
            UnsupportedSourceError: a model of another class, or with another config; it names what differs.
            LearngeneError: as `resize`.

        Example:
            >>> from transformers import BertConfig, BertModel
            >>> from hf_learngene import plan
            >>> config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2)
            >>> made = plan(config, num_hidden_layers=4).apply(BertModel(config))
            >>> made.config.num_hidden_layers
            4
        """
        check_planned(self.source_config, self.model_class, model)
        if self.carry_out is None:
            raise UnsupportedSourceError(
                "This plan is a part of another one. `hf_learngene.plan` makes plans to apply."
            )
        return self.carry_out(self, model)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Which tokens are kept; None where the caller did not say."""
        return next((step.vocabulary for step in reversed(self.passes) if step.vocabulary is not None), None)

    @property
    def method(self) -> str:
        return "+".join(step.method.name for step in self.passes)

    @property
    def changes(self) -> str:
        """The sizes that change, in a line."""
        before, after = dict[str, Any](), dict[str, Any]()
        for first, last in self._ends():
            source, sizes = first.task.source, last.sizes
            known = {**source.sizes, **raw_sizes(first.source_config, source, sizes)}
            before |= {self._named(n, first): v for n, v in known.items()}
            after |= {self._named(n, first): v for n, v in sizes.items()}
        return describe(after, before)

    def _ends(self) -> list[tuple[Pass, Pass]]:
        """First and last pass of each section."""
        by_section: dict[str, list[Pass]] = {}
        for step in self.passes:
            by_section.setdefault(step.section, []).append(step)
        return [(steps[0], steps[-1]) for steps in by_section.values()]

    def _named(self, size: str, step: Pass) -> str:
        return _named(size, step.section, self.several)

    @cached_property
    def tensors(self) -> list[TensorOrigin]:
        """Where each tensor of the result comes from."""
        return origins(self.passes)

    @property
    def fresh(self) -> list[str]:
        """Names of the tensors that the result's own initialisation draws, not those that it computes."""
        return [t.name for t in self.tensors if t.fresh and t.origin != COMPUTED]

    def without(self, missing: frozenset[str]) -> Plan:
        """The same plan, taking nothing from tensors that the checkpoint did not hold (a new head, a pooler)."""
        return dataclasses.replace(self, passes=tuple(step.without(missing) for step in self.passes))

    def replacing(self, number: int, step: Pass) -> Plan:
        """The same plan with another pass in the place of one."""
        return dataclasses.replace(self, passes=(*self.passes[:number], step, *self.passes[number + 1 :]))

    def record(self, source: str | None, commit: str | None) -> dict[str, Any]:
        """The entry of `config.learngene`. Of a local source only the folder's name is kept."""
        sizes = {
            self._named(n, first): v
            for first, last in self._ends()
            for n, v in listed(last.sizes).items()
            if listed(first.task.source.sizes).get(n, v) != v
        }
        made = provenance.entry(
            source=provenance.public_name(source) if source else None,
            commit=commit,
            passes=[(step.method.name, _options(step)) for step in self.passes],
            seed=self.seed,
            sizes=sizes,
            fresh=[] if self.method == "random" else self.fresh,
            before=self.source_config,
        )
        return made if self.vocabulary is None else {**made, "kept_tokens": self.vocabulary.record()}

    def __str__(self) -> str:
        if self.budget is not None:
            return self._awaited(self.budget)
        costs = self.costs + ([self.latency] if "latency" in vars(self) else [])
        lines = [*self._head(), *map(str, costs), *self._limit(), *self._layers()]
        return "\n".join(lines) + f"\n\n{render(origin_table(self.tensors), whole=True)}"

    def _repr_html_(self) -> str:
        if self.budget is not None:
            return paragraphs(self._awaited(self.budget))
        costs = self.costs + ([self.latency] if "latency" in vars(self) else [])
        below = "\n".join([*self._limit(), *self._layers()])
        return "\n".join(
            [
                paragraphs("\n".join(self._head())),
                html(cost_table(costs)),
                *([paragraphs(below)] if below else []),
                folded(f"{len(self.tensors):,} tensors", html(origin_table(self.tensors))),
            ]
        )

    def _awaited(self, budget: Meter) -> str:
        """A plan whose sizes nobody knows yet: what it holds until then are the source's own."""
        return (
            f"{self.model_class.__name__}, method {self.method}: {budget.told(budget.source)} → at most "
            f"{budget.told(budget.ceiling)}\nThe sizes are chosen when the model is made, by the error that each leaves on the "
            "examples. Planned without calibration=, the budget goes by rule, and the plan shows to which sizes."
        )

    def _head(self) -> list[str]:
        made_up = ["calibrated on made-up examples"] if self.examples == SYNTHETIC else []
        learned = [_learned(step) for step in self.passes if isinstance(step.method, LearnedGrowth)]
        return [f"{self.model_class.__name__}, method {self.method}: {self.changes}", *made_up, *learned]

    def _limit(self) -> list[str]:
        """The budget of a plan whose sizes follow from one that is not of parameters."""
        meter = self.meter
        if meter is None or meter is self.budget or meter.budget.quantity == "params":
            return []
        amount, most = meter.exact(self.passes[-1].sizes), meter.told(meter.ceiling)
        return [f"{meter.told(meter.source)} → {meter.told(amount)}, of {most} allowed"]

    def _layers(self) -> list[str]:
        return [f"{self._named('', step)[:-1]} {line}".lstrip() for step in self.passes for line in layer_lines(step)]


def _options(step: Pass) -> dict[str, Any]:
    """The options of a pass's method, and the layers that it chose by weights or examples."""
    selection = step.task.selection
    return step.method.options() | ({} if selection is None else {"layers": selection.kept_layers})


def _learned(step: Pass) -> str:
    """What is trained, in a line; the table shows what it starts as."""
    count = cast(LearnedGrowth, step.method).operator_parameters(step.task)
    return f"learned on train_dataset=: {count:,} parameters of maps, which start as"


def make_plan(
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    spec: ResizeSpec,
    missing: frozenset[str] = frozenset(),
) -> Plan:
    """The plan for a config and a class: what `plan`, `resize` and `from_pretrained_resized` share.

    Args:
        config: of the source.
        model_class: of source and target.
        spec: what is asked for.
        missing: source tensors that the checkpoint did not hold.

    Raises:
        LearngeneError: what is asked for cannot be done.
    """
    parts = by_section(spec.sizes, config, model_class)
    several = len(sections_of(config, model_class)) > 1
    unfit: dict[str, Any] = {} if spec.budget is None else {spec.budget.quantity: spec.budget}
    unfit |= {"method": None if spec.sizes or spec.kept_tokens is not None else spec.method}
    check_several(unfit, config, model_class)
    texts = section_name(config, "input_ids") if several else next(iter(parts))
    if spec.kept_tokens is not None and not spec.sizes:
        parts = {texts: {}}
    elif spec.kept_tokens is not None:
        parts.setdefault(texts, {})
    origin = examples_origin(spec, config, model_class)
    made: list[_Part] = []
    for name, wanted in parts.items():
        before = made[-1].passes[-1].config if made else config
        own = spec if name == texts else dataclasses.replace(spec, kept_tokens=None, pad_to_multiple_of=None)
        part = _part(before, model_class, own, name, wanted, origin, frozenset() if made else missing)
        made.append(part)
    passes = tuple(step for part in made for step in part.passes)
    for step in passes:
        prove(step)
        if isinstance(step.method, LearnedGrowth):
            step.method.check_operator(step.task)
    used = origin if any(step.method.needs_examples for step in passes) or origin == GIVEN else None
    asked = {_named(n, part.section, several): v for part in made for n, v in part.asked.items()}
    meter, waits = made[0].meter, made[0].waits
    return Plan(spec, config, model_class, asked, passes, used, meter, meter if waits else None, several)


class _Part(NamedTuple):
    """What is planned for one section.

    Attributes:
        section: the nested config whose sizes change.
        asked: what is asked of it, by canonical name.
        passes: that carry it out.
        meter: the budget, if there is one.
        waits: whether that is still to be spent.
    """

    section: str
    asked: Mapping[str, Any]
    passes: list[Pass]
    meter: Meter | None
    waits: bool


def _part(
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    spec: ResizeSpec,
    section_of: str,
    wanted: Mapping[str, Any],
    origin: str | None,
    missing: frozenset[str],
) -> _Part:
    method = spec.method
    source = anatomy_of(config, model_class, section_of)
    if method is None and spec.chooses_examples and source.composed_layers:
        origin = None  # examples show nothing of it
    asked = sizes = check_names(source, wanted)
    vocabulary = read_vocabulary(spec.kept_tokens, spec.pad_to_multiple_of, source, config, model_class)
    if vocabulary is not None:
        asked = sizes = {**sizes, "vocab_size": vocabulary.agreed(sizes.get("vocab_size"))}
    whole, at = partial(complete, source, config), partial(config_at, config, source)
    if spec.budget is not None and spec.budget.quantity != "params":
        refuse_stages(source, f"{spec.budget.quantity}= spends a budget on one width and one depth")
    meter = None if spec.budget is None else metered(spec.budget, source, config, model_class, sizes, whole, at)
    waits = meter is not None and origin is not None and spends_by_error(spec, meter, source, sizes)
    if meter is not None and not waits:
        refitted = origin is not None if method is None else method.refits
        sizes = spent(meter, source, sizes, whole, refitted)
    if method is not None:
        sizes = {**method.implied_sizes(source.sizes), **sizes}
    sizes = whole(sizes)
    if vocabulary is not None and vocabulary.shift and "max_position_embeddings" not in asked:
        sizes["max_position_embeddings"] -= vocabulary.shift  # as many positions behind the first as before
    route = route_of(spec, source, sizes, examples=origin is not None, waits=waits, vocabulary=vocabulary)
    passes: list[Pass] = []
    for number, (one, its_sizes) in enumerate(route, 1):
        passes.append(
            make_pass(
                one,
                passes[-1].config if passes else config,
                model_class,
                its_sizes,
                seed=spec.seed,
                missing=frozenset() if passes else missing,
                vocabulary=vocabulary if number == len(route) else None,
                section_of=section_of,
            )
        )
    return _Part(section_of, asked, passes, meter, waits)


def _named(size: str, section_of: str, several: bool) -> str:
    """A size as a caller names it, of a model with several sections with its section."""
    return f"{section_of}.{size}" if several and size != "num_labels" else size
