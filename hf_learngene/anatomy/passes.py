"""Plain forward passes over an uninitialised model: of what is traced, and of what is about to be made."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy.config_fields import changed, native_name, section
from hf_learngene.anatomy.initialising import check_initialisation
from hf_learngene.anatomy.inputs import example_inputs, main_input
from hf_learngene.anatomy.probe import build
from hf_learngene.anatomy.small import light
from hf_learngene.anatomy.trace import Trace, record
from hf_learngene.anatomy.types import DISTANCES, PATCHES, RELATIVE, SIDE
from hf_learngene.anatomy.whole import Anatomy
from hf_learngene.errors import InvalidSizeError
from hf_learngene.state import exclusive, seeded


_TOKENS = (10, 64, 16)  # some attentions take only certain lengths
_WINDOWS = ("attention_window",)


def plain_pass(
    model: PreTrainedModel,
    config: PreTrainedConfig,
    layers: set[str],
    on_cpu: Iterable[PreTrainedConfig | None] = (),
) -> Trace:
    """What flows where in the first plain pass that succeeds.

    Args:
        model (`PreTrainedModel`): the model on `meta`.
        config (`PreTrainedConfig`): its config.
        layers (`set[str]`): names of its encoder layer modules.
        on_cpu (`Iterable[PreTrainedConfig]`): configs to build on the CPU where that fails, one after the other: a model that
            looks at values cannot run on `meta`. One that gives other parameters is passed over, and so is None.

    Raises:
        Exception: what the last pass raised, where none succeeds.
    """
    failure: Exception | None = None
    try:
        looks_at_values = False
        for candidate, own, tokens in _candidates(model, config, on_cpu):
            device = str(next(candidate.parameters()).device)
            if looks_at_values and device == "meta":  # at any length
                continue
            try:
                with seeded(0):  # some draw in eval mode too (a layer dropout that is then not applied)
                    return record(candidate, example_inputs(candidate, own, device, tokens), layers)
            except Exception as error:  # any class of error may come from a family's own code
                failure = error
                looks_at_values = looks_at_values or "meta tensor" in str(error)
        raise failure or RuntimeError("no pass was tried")
    finally:
        del failure  # its frames hold this one and all callers', and with them every model there


def _candidates(
    model: PreTrainedModel, config: PreTrainedConfig, on_cpu: Iterable[PreTrainedConfig | None]
) -> Iterator[tuple[PreTrainedModel, PreTrainedConfig, int]]:
    """Models to run, each with its config and a number of tokens; one on the CPU is built when it is come to."""
    lengths = _TOKENS[:1] if main_input(type(model)).startswith("pixel_values") else _TOKENS
    built = _built(model, on_cpu)
    first: tuple[PreTrainedModel, PreTrainedConfig] | None = None
    for tokens in lengths:
        yield model, config, tokens
        first = first or next(built, None)
        if first is not None:
            yield *first, tokens
    for candidate, own in built:
        for tokens in lengths:
            yield candidate, own, tokens


def _built(
    model: PreTrainedModel, configs: Iterable[PreTrainedConfig | None]
) -> Iterator[tuple[PreTrainedModel, PreTrainedConfig]]:
    """Models of the same parameters on the CPU, each with its config."""
    ranks = {name: parameter.dim() for name, parameter in model.named_parameters(remove_duplicate=False)}
    for config in filter(None, configs):
        own = _short_windows(config)
        try:
            with exclusive():
                built = build(type(model), own, "cpu")
                nn.Module.to(built, torch.float32)
        except Exception:  # sizes that the family refuses
            continue
        if {n: p.dim() for n, p in built.named_parameters(remove_duplicate=False)} == ranks:
            yield built, own


def _short_windows(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config with small attention windows: inputs are padded to a whole window, and the flow is the same in any."""
    short = copy.deepcopy(config)
    for name in _WINDOWS:
        windows = getattr(short, name, None)
        if isinstance(windows, int):
            setattr(short, name, min(windows, 16))
        elif isinstance(windows, (list, tuple)):
            setattr(short, name, type(windows)(min(w, 16) for w in windows))
    return short


def round_trip(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config as it is after it was saved and loaded: built anew from its plain data, and checked by its own rules."""
    validate = getattr(config, "validate", None)  # as `save_pretrained` does
    if validate is not None:
        validate()
    return type(config).from_dict(config.to_dict())


def check_target(
    anatomy: Anatomy,
    known: Anatomy,
    config: PreTrainedConfig,
    model: PreTrainedModel,
    run: PreTrainedConfig,
) -> None:
    """Refuses a target that its family can build but not save, load or run.

    Args:
        anatomy (`Anatomy`): the target's.
        known (`Anatomy`): the source's.
        config (`PreTrainedConfig`): the target's.
        model (`PreTrainedModel`): one of `run` on `meta`.
        run (`PreTrainedConfig`): the config, or one of fewer tokens where no parameter counts them.

    Raises:
        InvalidSizeError: says what the family answers, or which tensor would have no entry.
    """
    model_class = type(model)
    empty = next((name for name, tensor in anatomy.tensors.items() if 0 in tensor.shape), None)
    if empty is not None and all(0 not in t.shape for t in known.tensors.values()):
        raise InvalidSizeError(  # a family's own quotient of a size, rounded down (LiLT's layout side)
            f"`{anatomy.model_type}` as {model_class.__name__} with {_changes(known, anatomy)} would have no entry in `{empty}`. "
            "Give larger sizes."
        )
    try:
        _check_round_trip(anatomy, config)
        check_initialisation(model, run, anatomy.section)
        trace = _short_pass(anatomy, run, model_class)
    except Exception as error:  # any refusal by the family's own code
        raise InvalidSizeError(
            f"`{anatomy.model_type}` as {model_class.__name__} can be built with {_changes(known, anatomy)}, but not saved, "
            f"loaded and run: {error}"
        ) from error
    _check_grid(anatomy, known, trace)


def _check_round_trip(anatomy: Anatomy, config: PreTrainedConfig) -> None:
    part, again = (section(c, anatomy.section) for c in (config, round_trip(config)))
    for native in {*anatomy.fields.values(), *anatomy.per_layer} & vars(part).keys():
        before, after = getattr(part, native), getattr(again, native, None)
        if _plain(before) != _plain(after):
            raise ValueError(f"{native}={before} comes back as {after}.")


def _short_pass(anatomy: Anatomy, config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> Trace:
    depth = native_name(section(config, anatomy.section), "num_hidden_layers")
    if depth is None or anatomy.num_stages or anatomy.num_layers <= 2:
        return plain_pass(build(model_class, config), config, set(), [light(config, anatomy.section), config])
    short = changed(config, anatomy.section, {depth: 2}, anatomy.per_layer)
    on_cpu = [light(short, anatomy.section), short]
    # what reads certain layers (a head on a backbone) needs them all; on `meta` that is known sooner than on the CPU
    sooner = [short, config] if anatomy.section else []
    attempts = [*((run, list[PreTrainedConfig]()) for run in sooner), (short, on_cpu), (config, [])]
    failure: Exception | None = None
    try:
        for run, others in attempts:
            try:
                return plain_pass(build(model_class, run), run, set(), others)
            except Exception as error:
                failure = error if run is short else failure
        raise failure or RuntimeError("no pass was tried")
    finally:
        del failure  # its frames hold this one


def _changes(known: Anatomy, anatomy: Anatomy) -> str:
    sizes = [f"{n} {known.sizes[n]} → {v}" for n, v in anatomy.sizes.items() if known.sizes.get(n, v) != v]
    if known.grid != anatomy.grid and known.grid and anatomy.grid:
        sizes.append(f"{_times(known.grid)} → {_times(anatomy.grid)} patches")
    return ", ".join(sizes) or "the sizes it has"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, (list, tuple)) else value


def _check_grid(anatomy: Anatomy, known: Anatomy, trace: Trace) -> None:
    """Refuses a grid that the family's forward pass reads as another one.

    Tables over patches are resampled row by row and column by column. A forward pass that takes the root of their number for
    both (DINOv2), or swaps them (BEiT), resamples a table of its own size, and finds the rows elsewhere.
    """
    if anatomy.grid == known.grid or anatomy.grid is None or known.grid is None:
        return
    if not known.reads_grid:
        raise InvalidSizeError(
            f"The source, a `{known.model_type}`, does not read its own table over {_times(known.grid)} patches as that grid, so "
            "what stands where in it is not known. Keep image_size and patch_size."
        )
    apart = next((t for t in known.templates.values() if any(d.axis in (DISTANCES, SIDE) for d in t.dims)), None)
    if apart is not None:
        raise InvalidSizeError(
            f"`{apart.template}` {apart.shape} of `{known.model_type}` stands for {_times(known.grid)} patches, line by line; "
            f"what it would be at {_times(anatomy.grid)} is not known. Keep image_size and patch_size, or change both alike."
        )
    side = min(anatomy.grid)
    if not reads_grid(anatomy.grid, trace, anatomy):
        raise InvalidSizeError(
            f"The forward pass of `{anatomy.model_type}` does not read a table over {_times(anatomy.grid)} patches as that grid. "
            f"As many patches in height as in width work: {side}×{side}, for one."
        )


def reads_grid(grid: tuple[int, int] | None, trace: Trace, anatomy: Anatomy) -> bool:
    """Whether a pass over an image of the config's own size takes the tables over patches as they stand."""
    if grid is None or grid[0] == grid[1]:
        return True
    tables = any(d.axis in (PATCHES, RELATIVE) for t in anatomy.templates.values() for d in t.dims)
    entries = {grid[0] * grid[1], (2 * grid[0] - 1) * (2 * grid[1] - 1)}
    return not (tables and entries & trace.resampled)


def _times(grid: tuple[int, int]) -> str:
    return f"{grid[0]}×{grid[1]}"
