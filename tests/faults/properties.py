"""What holds of every resize, whatever is asked of whatever model: `check` looks at all of it, for one case.

It is refused with a typed error, by its plan as by `resize`, or it gives the model that its plan describes. Either way the
source and all that the process shares are as they were.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from faults.cases import Case, source_of
from faults.untouched import same, untouched
from hf_learngene import plan, resize, verify
from hf_learngene.anatomy.config_fields import as_pair, section
from hf_learngene.errors import CalibrationError, LearngeneError
from hf_learngene.maps.task import GEOMETRY, changes
from hf_learngene.methods import METHODS, Front, Lemon
from hf_learngene.resizing.outputs import in_float64, named_tensors, outputs_of, random_inputs
from hf_learngene.resizing.plan import Plan
from hf_learngene.resizing.sizes import canonical
from hf_learngene.resizing.stage_sizes import stage_size
from hf_learngene.state import seeded
from testing.examples import examples_for


EXACT = 1e-9  # relative, in float64
# How far a function may move, computed in float64: weights of float32 are rounded, and many layers of random ones blow that up.
ALLOWED = {torch.float64: EXACT, torch.float32: 1e-4}
TOKENS = (10, 16, 64)  # some attentions take only certain lengths
# Classes of which it is said that what was grown is found again: nothing in them reads heads one by one, nor lacks a norm.
_BACK = ("ViTForImageClassification", "Dinov2Model", "BertForMaskedLM")
# Keywords of `resize` that say nothing of a plan.
_CARRIED_OUT = ("calibration_size",)
# Fields of a config that say nothing of the model.
_ORIGIN = ("learngene", "transformers_version", "dtype", "architectures", "_name_or_path")


def check(case: Case) -> str:
    """Whether everything holds of a case; the name of the error that it is refused with, or nothing where it is not.

    Raises:
        AssertionError: what does not hold.
        Exception: an error without a type, which nobody may be shown.
    """
    source, request = source_of(case), _request(case)
    asked = {name: value for name, value in request.items() if name not in _CARRIED_OUT}
    if case.config_only:
        asked["model_class"] = type(source)
    with untouched(source, case.training):
        planned, against = attempted(lambda: plan(source.config if case.config_only else source, **asked))
        made, refused = attempted(lambda: resize(source, **request))
    if against is not None or refused is not None:
        _check_refusal(planned, against, refused)
        return type(refused).__name__
    assert planned is not None
    assert made is not None
    _check_planned(planned, made)
    _check_asked(planned, request)
    _check_plain(planned, source, made)
    _check_runs(source, made)
    _check_function(planned, source, made)
    _check_own_size(planned, source, made)
    for name in case.also:
        with untouched(source, False):
            _ALSO[name](planned, source, made, request)
    return ""


def _request(case: Case) -> dict[str, Any]:
    if case.examples is None:
        return case.request
    known = METHODS.get(case.request["method"])
    labels = known is not None and known.needs_labels
    return {**case.request, "calibration": examples_for(source_of(case), case.examples, labels=labels)}


def attempted(what: Callable[[], Any]) -> tuple[Any, LearngeneError | None]:
    """What a call gives, or the typed error that it raises. Any other is nobody's to catch."""
    try:
        return what(), None
    except LearngeneError as error:
        return None, error


def _check_refusal(planned: Plan | None, against: LearngeneError | None, refused: LearngeneError | None) -> None:
    assert refused is not None, f"plan refuses what resize makes: {against!r}"
    assert len(str(refused)) > 20, f"{refused!r} says too little"
    if against is not None:
        assert (type(against), str(against)) == (type(refused), str(refused)), (
            f"plan: {against!r}, resize: {refused!r}"
        )
        return
    assert planned is not None
    looks = any(step.method.needs_examples for step in planned.passes)
    assert looks, f"plan makes what resize refuses: {refused!r}"
    assert isinstance(refused, CalibrationError), f"not of the examples, so to be said by the plan: {refused!r}"


# ---- what was made


def _check_planned(planned: Plan, made: PreTrainedModel) -> None:
    """The model is the one that the plan describes."""
    ties = planned.target.ties  # a class may build its head, and the name that is tied, before its encoder
    found = [(ties.get(name, name), tuple(p.shape)) for name, p in made.named_parameters()]
    wanted = [(tensor.name, tuple(tensor.shape)) for tensor in planned.tensors]
    assert found == wanted, f"planned and not made: {set(wanted) - set(found)}; made: {set(found) - set(wanted)}"
    assert made.num_parameters() == planned.num_parameters, (
        f"{made.num_parameters()}, planned {planned.num_parameters}"
    )
    chosen = any(step.method.selects for step in planned.passes)  # lists over layers follow the layers that it chose
    if not chosen:
        _same_config(_fields(made.config), _fields(planned.target_config), "planned")
    assert set(planned.fresh) <= {name for name, _ in found}


def _check_asked(planned: Plan, request: Mapping[str, Any]) -> None:
    """Every size has the value that was asked for, which is a whole number or several."""
    anatomy = planned.source
    part = section(planned.target_config, anatomy.section)
    for name, value in request.items():
        size = stage_size(anatomy, name) or canonical(anatomy, name)
        if size is None:
            continue
        assert all(type(v) is int for v in (value if isinstance(value, (list, tuple)) else (value,))), (
            f"{name}={value!r}"
        )
        if "." in name or stage_size(anatomy, name):
            continue
        found = planned.target.sizes.get(size, getattr(part, anatomy.fields.get(size, size), value))
        assert found == value or as_pair(found) == as_pair(value), f"{name} is {found!r}, asked for was {value!r}"


def _fields(config: Any) -> dict[str, Any]:
    return _plain(json.loads(config.to_json_string(use_diff=False)))


def _plain(value: Any) -> Any:
    return {n: _plain(v) for n, v in value.items() if n not in _ORIGIN} if isinstance(value, dict) else value


def _same_config(found: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    other = {n: (found.get(n), wanted.get(n)) for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n)}
    assert not other, f"config fields, here and {what}: {other}"


def _check_plain(planned: Plan, source: PreTrainedModel, made: PreTrainedModel) -> None:
    """A plain model like the source, with memory of its own, whose config reads back as it is."""
    assert type(made) is type(source)
    assert made.dtype == source.dtype
    dtypes = dict(source.named_parameters())
    for name, parameter in made.named_parameters():
        assert parameter.dtype == (dtypes[name].dtype if name in dtypes else source.dtype), (
            f"`{name}`: {parameter.dtype}"
        )
        assert bool(torch.isfinite(parameter).all()), f"`{name}` is not finite"
        assert parameter.is_leaf
        assert not parameter.is_inference()
    assert not any(m.training for m in made.modules()), "the result is in train mode"
    theirs = {p.data_ptr() for p in source.parameters() if p.numel()}
    shared = [name for name, p in made.named_parameters() if p.numel() and p.data_ptr() in theirs]
    assert not shared, f"the source's own memory: {shared}"
    own = dict(made.named_parameters(remove_duplicate=False))
    untied = [(a, b) for a, b in planned.target.ties.items() if own[a] is not own[b]]
    assert not untied, f"not tied: {untied}"
    config = made.config
    _same_config(_fields(type(config).from_dict(json.loads(config.to_json_string()))), _fields(config), "read back")
    assert json.loads(json.dumps(config.learngene)) == config.learngene


def _check_runs(source: PreTrainedModel, made: PreTrainedModel) -> None:
    """The model runs wherever its source does, in single or double precision backwards too."""
    if not _tokens(source):
        return
    inputs = random_inputs(made, tokens=_tokens(source))
    if made.dtype not in (torch.float32, torch.float64):
        outputs_of(made, inputs)
        return
    loose, steep = _loose(made, inputs)
    assert not loose, f"outputs that are not finite: {loose}"
    # MobileBERT has no norms that would bound what random weights make in many layers
    assert not steep or made.dtype == torch.float32 or _steep(source), f"gradients that are not finite: {steep}"


def _loose(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Outputs and parameters whose values and gradients are no numbers."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with seeded(0):
        given = dict(named_tensors(model(**_as(inputs, model.dtype))))
        loss = torch.stack([t.sum() for t in given.values() if t.requires_grad]).sum()
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    assert any(g is not None for g in found)
    steep = [n for n, g in zip(named, found, strict=True) if g is not None and not bool(torch.isfinite(g).all())]
    return [n for n, t in given.items() if not bool(torch.isfinite(t).all())], steep


def _steep(source: PreTrainedModel) -> bool:
    """Whether gradients of the source are no numbers: what Longformer masks gives none."""
    if source not in _STEEP:
        _STEEP[source] = bool(_loose(source, random_inputs(source, tokens=_tokens(source)))[1])
    return _STEEP[source]


def _as(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in inputs.items()}


# Source -> tokens of a text that it runs on; 0 where it runs on none, or gives what is no number.
_RUNS: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()
_STEEP: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def _tokens(source: PreTrainedModel) -> int:
    """How long a text may be; 0 for a source that does not run: half precision is not for every operation, nor every size."""
    if source not in _RUNS:
        _RUNS[source] = next(filter(lambda tokens: _finite(source, tokens), TOKENS), 0)
        assert _RUNS[source] or source.dtype in (torch.float16, torch.bfloat16)
    return _RUNS[source]


def _finite(source: PreTrainedModel, tokens: int) -> bool:
    try:
        outputs = outputs_of(source, random_inputs(source, tokens=tokens))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return all(bool(torch.isfinite(t).all()) for t in outputs.values())


def _check_function(planned: Plan, source: PreTrainedModel, made: PreTrainedModel) -> None:
    """What an exact method made has the source's function."""
    methods = [step.method for step in planned.passes]
    if (
        source.dtype not in ALLOWED
        or any(m.name not in METHODS or not m.exact for m in methods)
        or not _same_inputs(planned)
    ):
        return
    with in_float64():
        report = verify(source, made, random_inputs(source, tokens=_tokens(source)), dtype=torch.float64)
    assert report.relative <= ALLOWED[source.dtype], f"another function: {report}"


def _same_inputs(planned: Plan) -> bool:
    """Whether the model takes what its source takes, and gives as many labels."""
    source, target = planned.source, planned.target
    return planned.vocabulary is None and source.grid == target.grid and not changes(source, target.sizes, GEOMETRY)


def _check_own_size(planned: Plan, source: PreTrainedModel, made: PreTrainedModel) -> None:
    """Where no size changes, nothing does; but in methods that say otherwise."""
    if planned.changes != "nothing" or planned.vocabulary is not None:
        return
    if all(step.method.name not in ("random", "layers") for step in planned.passes):
        same(made.state_dict(), source.state_dict(), "of its own size")


# ---- what takes a second model


def _shown(planned: Plan, source: PreTrainedModel, made: PreTrainedModel, request: Mapping[str, Any]) -> None:
    """A plan can be printed, and says its number of parameters."""
    assert f"{planned.num_parameters:,}" in str(planned)


def _again(planned: Plan, source: PreTrainedModel, made: PreTrainedModel, request: Mapping[str, Any]) -> None:
    """The same seed gives the same model."""
    other = resize(source, **request)
    same(other.state_dict(), made.state_dict(), "made again")
    assert other.config.to_json_string(use_diff=False) == made.config.to_json_string(use_diff=False)


def _applied(planned: Plan, source: PreTrainedModel, made: PreTrainedModel, request: Mapping[str, Any]) -> None:
    """A plan makes what resize makes."""
    if any(name in request for name in _CARRIED_OUT):
        return
    other = planned.apply(source)
    same(other.state_dict(), made.state_dict(), "applied")
    assert other.config.to_json_string(use_diff=False) == made.config.to_json_string(use_diff=False)


def _saved(planned: Plan, source: PreTrainedModel, made: PreTrainedModel, request: Mapping[str, Any]) -> None:
    """What is saved and loaded is the same model."""
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):  # some constructors draw
        made.save_pretrained(folder)
        again = type(made).from_pretrained(folder, dtype=made.dtype)
    loaded = again.state_dict()  # transformers keeps some biases of DeBERTa in float32
    same(loaded, {n: t.to(loaded[n].dtype) if n in loaded else t for n, t in made.state_dict().items()}, "loaded")
    _same_config(_fields(again.config), _fields(made.config), "loaded")
    assert again.config.learngene == made.config.learngene


def _back(planned: Plan, source: PreTrainedModel, made: PreTrainedModel, request: Mapping[str, Any]) -> None:
    """What was grown is found again: by `front` all of it, of equal copies the first ones."""
    anatomy, method = planned.source, planned.passes[0].method
    shared = anatomy.sizes.keys() & planned.target.sizes.keys()
    pairs = changes(anatomy, planned.target.sizes, shared)
    if (
        type(source).__name__ not in _BACK
        or len(planned.passes) > 1
        or source.dtype != torch.float64
        or not _same_inputs(planned)
        or not pairs
    ):
        return
    if any(new < old for old, new in pairs.values()):
        return
    old = {n: anatomy.sizes[n] for n in pairs if n.partition(".")[0] != "head_dim" or anatomy.head_dim_honoured}
    if isinstance(method, Front) and method.scaling == "constant":
        small, factors = resize(made, method="front", scaling="constant", **old), {}
    elif isinstance(method, Lemon) and method.symmetry == "equal" and _only_copies(planned, pairs):
        small = resize(made, method="weight_selection", element_selection="consecutive", **old)
        factors = _halves(planned)
    else:
        return
    for name, parameter in source.named_parameters():
        wanted, found = parameter.detach() * factors.get(name, 1.0), small.get_parameter(name).detach()
        assert found.shape == wanted.shape
        distance = float((found - wanted).abs().max()) if wanted.numel() else 0.0
        assert distance <= EXACT * max(1.0, float(wanted.abs().max())), (
            f"there and back, `{name}` moves by {distance:.1e}"
        )


def _only_copies(planned: Plan, pairs: Mapping[str, tuple[int, int]]) -> bool:
    """Whether a growth makes whole copies of widths and nothing else."""
    widths = {"hidden_size", "num_attention_heads", "intermediate_size"}
    return (
        not planned.source.num_stages and pairs.keys() <= widths and all(new % old == 0 for old, new in pairs.values())
    )


def _halves(planned: Plan) -> dict[str, float]:
    """Parameter -> what each copy of it is read with: its share."""
    axes = planned.passes[0].task.axis_sizes
    shares = {}
    for name, info in planned.source.tensors.items():
        tied = info.module in planned.source.tied_readers
        read = (
            ["hidden"]
            if tied
            else [d.name for d in info.dims if d.side == "in" and d.name in ("hidden", "heads", "ffn")]
        )
        shares[name] = math.prod(axes[axis][0] / axes[axis][1] for axis in read if axis in axes)
    return shares | {other: shares[first] for other, first in planned.source.ties.items()}


_ALSO: dict[str, Callable[..., None]] = {
    "shown": _shown,
    "again": _again,
    "applied": _applied,
    "saved": _saved,
    "back": _back,
}
