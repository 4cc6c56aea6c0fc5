"""Which size field drives which dimension: the model built on `meta` at its own config and at changed ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig, PreTrainedModel

from hf_learngene.anatomy import meta
from hf_learngene.anatomy.config_fields import (
    EPS_FIELDS,
    LINKED_TO_HIDDEN,
    as_pair,
    changed,
    known_sizes,
    native_name,
    other_integers,
    section,
    to_build,
)
from hf_learngene.anatomy.reads import told_whole, watched
from hf_learngene.anatomy.trace import is_norm
from hf_learngene.state import seeded


LISTS = (nn.ModuleList, nn.Sequential)

# of what counts rows or channels: none the sum of others, so that a dimension's step says whose it is
_STEPS = {"vocab_size": 8, "max_position_embeddings": 40, "type_vocab_size": 88, "num_channels": 24}


def build(model_class: type[PreTrainedModel], config: PreTrainedConfig, device: str = "meta") -> PreTrainedModel:
    """An uninitialised model in eval mode. On `meta` it takes no memory. The config stays as it is."""
    own = to_build(config)  # some constructors write into it (Longformer's attention_window)
    # `_Unfilled` does for `meta` what the device's own mode does
    place = nullcontext() if device == "meta" else torch.device(device)
    # seeded: some constructors draw on the CPU, whatever the device
    with place, _Unfilled(device == "meta"), seeded(0):
        model: PreTrainedModel = model_class(own)
        model.train(False)
    # once: a walk over the modules takes a tenth of a build
    parameters = list(model.named_parameters(remove_duplicate=False))
    if device == "meta":
        _leave_nothing_behind(model, [(n, p) for n, p in parameters if not p.is_meta])
    if len({p.dtype for _, p in parameters if p.is_floating_point()}) > 1:
        nn.Module.to(model, torch.float32)  # a backbone takes its own config's dtype, the head over it does not
    return model


def _leave_nothing_behind(model: nn.Module, left: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Moves parameters to `meta` that a constructor allocates on the CPU whatever it is told: `torch.Tensor(size)` (wav2vec 2.0).

    With one of them left there, no pass runs on `meta`.
    """
    moved = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for _, p in left}
    for name, parameter in left:
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, moved[id(parameter)])


class _Unfilled(TorchFunctionMode):
    """Leaves parameters as they are allocated, which saves time and memory.

    Transformers' `no_init_weights` replaces `torch.nn.init` for the whole process: a model that another thread builds at that
    moment would be left at whatever memory held. A function mode belongs to its thread.

    Args:
        on_meta: whether tensors are made on `meta`, as under `torch.device("meta")`, whose own mode would be asked of each call
            too; rows of numbers, as sinusoids begin with, are not worked out there either.
    """

    def __init__(self, on_meta: bool) -> None:
        super().__init__()
        self._on_meta = on_meta

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_in_place(func):
            filled = args[0] if args else kwargs.get("tensor")  # the functions of torch.nn.init hand it on by name
            if isinstance(filled, nn.Parameter):
                return filled
        if not self._on_meta:
            return func(*args, **kwargs)
        if func is torch.arange:
            return meta.arange(args, kwargs)
        if func in meta.MAKERS and kwargs.get("device") is None:
            return func(*args, **{**kwargs, "device": "meta"})
        return meta.run(func, args, kwargs)


@functools.lru_cache(maxsize=1024)
def _is_in_place(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    return name.endswith("_") and not name.startswith("__") and name != "requires_grad_"


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape; tied parameters under each of their names."""
    return {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}


def epsilons(model: nn.Module) -> dict[str, float]:
    """Norm module -> its epsilon, however the class spells it."""
    found = {}
    for name, module in model.named_modules():
        if is_norm(module):
            eps = next((getattr(module, a) for a in ("eps", "variance_epsilon") if hasattr(module, a)), None)
            if eps is not None:
                found[name] = float(eps)
    return found


def numbers_of_depth(one: nn.Module, other: nn.Module) -> tuple[str, ...]:
    """Numbers that modules hold and that follow from the depth: a scale of every residual branch (ESM C), but no dropout."""
    others = dict(other.named_modules())
    return tuple(
        f"{name}.{attribute}"
        for name, module in one.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, float) and "drop" not in f"{attribute}{type(module).__name__}".lower() and name in others
        and isinstance(now := getattr(others[name], attribute, None), float) and now != value
    )  # fmt: skip


def layer_containers(one: nn.Module, depth_one: int, other: nn.Module, depth_other: int) -> list[str]:
    """Module lists whose length is the depth in both models."""
    lists = {n: len(m) for n, m in other.named_modules() if isinstance(m, LISTS)}
    return [
        n
        for n, m in one.named_modules()
        if isinstance(m, LISTS) and len(m) == depth_one and lists.get(n) == depth_other
    ]


@dataclass(frozen=True)
class Effect:
    """What one probe did to one dimension: `delta` entries more for `step` more of the field."""

    delta: int
    step: int


class Prober:
    """Changes one field at a time and notes which dimensions follow."""

    def __init__(
        self,
        model_class: type[PreTrainedModel],
        config: PreTrainedConfig,
        section_of: str,
        model: PreTrainedModel,
        followers: tuple[str, ...] = (),
        passed_over: Collection[str] = (),
    ) -> None:
        self.followers, self.passed_over = followers, passed_over
        self.model_class, self.config, self.section_of = model_class, config, section_of
        self.part = section(config, section_of)
        self.fields = self.fields_to_probe()
        self.model = model
        self.shapes = shapes(self.model)
        self.read = self.fields_read()
        self.effects: dict[str, list[dict[str, Effect]]] = {n: [{} for _ in s] for n, s in self.shapes.items()}
        self.linked = self.fields_of_the_width()
        self.epsilons: dict[str, float] = {}  # of the model of twice the width

    def fields_to_probe(self) -> dict[str, str]:
        """Canonical size name -> the config's own name of the field that says it."""
        return known_sizes(self.part)

    def fields_of_the_width(self) -> tuple[str, ...]:
        """Fields that repeat the width, and follow it."""
        width = getattr(self.part, self.fields["hidden_size"])
        return tuple(n for n in LINKED_TO_HIDDEN if getattr(self.part, n, None) == width)

    def run(self) -> None:
        value = {c: getattr(self.part, n) for c, n in self.fields.items()}
        hidden = value["hidden_size"]
        # a stored head_dim would pin the heads while the width doubles, or be inconsistent with it
        wide = {self.fields["hidden_size"]: 2 * hidden, **dict.fromkeys(self.linked, 2 * hidden)}
        self.try_field("hidden_size", hidden, {**wide, **self._other_epsilons()})
        heads = value.get("num_attention_heads")
        if isinstance(heads, int):
            self.probe_heads(hidden, heads, value)
        for name in ("intermediate_size", "embedding_size"):
            if isinstance(value.get(name), int) and self.fields[name] not in self.linked:
                self.try_field(name, value[name], {self.fields[name]: 2 * value[name]})
        counted = [n for n in _STEPS if isinstance(value.get(n), int) and self.fields[n] not in self.linked]
        if not self.try_counts(counted, value):
            for name in counted:
                self.try_field(name, _STEPS[name], {self.fields[name]: value[name] + _STEPS[name]})
        if ratio := getattr(self.part, "mlp_ratio", None):  # a fraction too, which is no size
            self.try_field("mlp_ratio", ratio, {"mlp_ratio": 2 * ratio})
            if self.follows("intermediate_size") and not self.follows("mlp_ratio"):
                self.fields.pop(
                    "mlp_ratio", None
                )  # what the width was made from where none was given (SAM) says nothing more
        self.probe_images(value)
        self.try_field("num_labels", 3, {"num_labels": (self.config.num_labels or 0) + 3})
        for name in other_integers(self.part):
            if name not in self.linked and name not in self.passed_over:
                step = getattr(self.part, name)
                self.try_field(name, step, {name: 2 * step})

    def probe_heads(self, hidden: int, heads: int, value: Mapping[str, Any]) -> None:
        head_dim = value.get("head_dim") or hidden // heads
        name = self.fields["num_attention_heads"]
        kv = value.get("num_key_value_heads")
        if isinstance(kv, int) and kv != heads:
            self.try_field("num_key_value_heads", kv, {"num_key_value_heads": 2 * kv})
        more = {"num_key_value_heads": 2 * kv} if isinstance(kv, int) else {}
        others = [2 * heads, *(h for h in range(heads // 2, 0, -1) if hidden % h == 0)]
        for other in others:
            if hidden % other == 0 and self.try_field("num_attention_heads", other - heads, {name: other, **more}):
                break
        # pairs of head dimensions rotate together, so the size stays even
        native = self.fields.get("head_dim", "head_dim")
        self.try_field("head_dim", head_dim, {native: 2 * head_dim})
        if any("head_dim" in e for effects in self.effects.values() for e in effects):
            # with the head size pinned, what grows with the number of heads is heads x head size, even at one head
            self.try_field("num_attention_heads", heads, {name: 2 * heads, native: head_dim, **more})

    def probe_images(self, value: Mapping[str, Any]) -> None:
        twice = {
            n: type(value[c])(2 * x for x in value[c]) if isinstance(value[c], (list, tuple)) else 2 * value[c]
            for c in ("image_size", "patch_size")
            if c in value and isinstance(value[c], (int, list, tuple))
            for n in (self.fields[c],)
        }
        if self.fields.get("image_size") in twice:
            self.try_field("image_size", 1, {self.fields["image_size"]: twice[self.fields["image_size"]]})
        if self.fields.get("patch_size") in twice:
            # both doubled: the grid stays, only the kernel grows
            self.try_field("patch_size", as_pair(value["patch_size"])[0], twice)

    def try_field(self, name: str, step: int, values: Mapping[str, Any]) -> bool:
        """Builds the model with `values`; False when the family refuses them."""
        if self.read is not None and not self.read & values.keys():
            return True
        model = self._built(values)
        if model is None:
            return False
        if name == "hidden_size":
            self.epsilons = epsilons(model)
        other = shapes(model)
        for tensor, shape in self.shapes.items():
            if tensor in other and len(other[tensor]) == len(shape):
                for effects, old, new in zip(self.effects[tensor], shape, other[tensor], strict=True):
                    if new != old:
                        effects[name] = Effect(new - old, step)
        return True

    def try_counts(self, names: Sequence[str], value: Mapping[str, int]) -> bool:
        """Changes fields that count rows in one build, each by its own step; False where a dimension took another one."""
        read = [n for n in names if self.read is None or self.fields[n] in self.read]
        if len(read) < 2:
            return False
        model = self._built({self.fields[n]: value[n] + _STEPS[n] for n in read})
        other = shapes(model) if model is not None else {}
        if other.keys() != self.shapes.keys():
            return False
        of_step = {_STEPS[n]: n for n in read}
        found = [
            (effects, new - old)
            for tensor, shape in self.shapes.items()
            for effects, old, new in zip(self.effects[tensor], shape, other[tensor], strict=True)
            if new != old
        ]
        if not all(delta in of_step for _, delta in found):
            return False
        for effects, delta in found:
            effects[of_step[delta]] = Effect(delta, delta)
        return True

    def _built(self, values: Mapping[str, Any]) -> PreTrainedModel | None:
        """The model with `values`; None where the family refuses them."""
        try:
            wide = values.get(self.fields["hidden_size"]) if self.followers else None
            outside = dict.fromkeys(self.followers, wide) if wide is not None else {}
            other_config = changed(self.config, self.section_of, values, outside=outside, copied=to_build)
            return build(self.model_class, other_config)
        except Exception:  # any refusal by the family's own checks only means: not a field to probe this way
            return None

    def follows(self, field: str) -> bool:
        """Whether a dimension followed a field."""
        return any(field in effect for effects in self.effects.values() for effect in effects)

    def stand_for(self, whole: PreTrainedModel, stand_in: Callable[[str], str]) -> None:
        """Says of a whole model what was seen of the one that was probed; `stand_in` names the parameter there for each of it."""
        self.model, self.shapes = whole, shapes(whole)
        self.effects = {name: self.effects[stand_in(name)] for name in self.shapes}

    def writers(self) -> set[str]:
        """Parameters that write a vector over the width or the heads of this section: of a matrix, its rows follow."""
        wide = {"hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"}
        return {
            name
            for name, effects in self.effects.items()
            if any(wide & one.keys() for one in (effects[:1] if len(effects) == 2 else effects))
        }

    def fields_read(self) -> set[str] | None:
        """Names of the config's fields that the constructor reads; None where that is not known."""
        config, read = watched(self.config, self.section_of)
        try:
            build(self.model_class, config)
        except Exception:  # a constructor that looks its config's class up does not know this one
            return None
        return None if told_whole(read) else read

    def eps_field(self) -> tuple[str | None, set[str]]:
        """The config field of the epsilon, and the norms that follow it: it changes no shape, so twice the width shows it too."""
        before, after = epsilons(self.model), self.epsilons
        if not after:  # the family refuses twice the width
            after = epsilons(build(self.model_class, changed(self.config, self.section_of, self._other_epsilons())))
        for native, value in self._other_epsilons().items():
            times = value / getattr(self.part, native)
            followers = {n for n, eps in before.items() if eps and math.isclose(after.get(n, eps) / eps, times)}
            if followers:
                return native, followers
        return None, set()

    def _other_epsilons(self) -> dict[str, float]:
        """Another epsilon for each field that may say one, each so many times as large as no other; none for one of zero."""
        natives = dict.fromkeys(native_name(self.part, name) for name in EPS_FIELDS)
        values = {native: getattr(self.part, native) for native in natives if native is not None}
        return {n: times * value for (n, value), times in zip(values.items(), (3, 5, 7, 11), strict=False) if value}
