"""A base resized with the adapter on it, and an adapter carried to a base that was resized before."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.utils import get_peft_model_state_dict, load_peft_weights
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_learngene.adapters import Adapter, attach, carry, read_adapter
from hf_learngene.anatomy import anatomy_of
from hf_learngene.anatomy.sections import sections_of
from hf_learngene.anatomy.stages import listed
from hf_learngene.disk import check_files
from hf_learngene.errors import AdapterError, LearngeneError, first_line, naming
from hf_learngene.hub import provenance
from hf_learngene.hub.load import load_config, load_source, load_whole, pinned
from hf_learngene.maps.task import WIDTHS
from hf_learngene.methods import METHODS
from hf_learngene.resizing.calibrating import carry_out
from hf_learngene.resizing.execute import check_source, execute
from hf_learngene.resizing.passes import Pass
from hf_learngene.resizing.plan import Plan, make_plan
from hf_learngene.resizing.sizes import canonical
from hf_learngene.resizing.spec import ResizeSpec
from hf_learngene.resizing.stage_sizes import stage_size
from hf_learngene.state import quiet


# Sizes that follow others where they are not named; a record leaves out those that are the source's.
_FOLLOWING = (*WIDTHS, "mlp_ratio", "num_hidden_layers")
TOGETHER = "Resize both in one call: resize(peft_model, ...)"


class _Following:
    """An adapter on its way through the passes of a resize."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def __call__(self, step: Pass, source: PreTrainedModel) -> None:
        self.adapter = carry(self.adapter, source, step.task, step.recipes, step.method.name)


def resize_adapted(model: peft.PeftModel, spec: ResizeSpec) -> peft.PeftModel:
    """A base and its adapter, resized together. What is kept is chosen by the base alone, and the adapter follows.

    Raises:
        LearngeneError: what `resize` refuses, or an adapter that cannot follow.
    """
    adapter, base = read_adapter(model)
    check_source(base)
    provenance.check(base.config)
    plan = make_plan(base.config, type(base), spec)
    fitted = [step.method for step in plan.passes if step.method.refits or step.method.learns]
    if fitted:
        other = "grow by method='lemon', which learns nothing"
        if not fitted[0].learns:
            other = "shrink by what keeps weights as they are: method='weight_selection'"
        raise AdapterError(
            f"method={fitted[0].name!r} fits every matrix anew to what the base computes, and an adapter has no part in that. "
            f"Merge it, then resize: peft_model.merge_and_unload(). Or {other}."
        )
    following = _Following(adapter)
    made = carry_out(plan, base, source=base.config._name_or_path or None, follow=following)
    return attach(following.adapter, made)


def resize_adapter(
    adapter: str | os.PathLike[str] | peft.PeftModel,
    resized_base: PreTrainedModel | str | os.PathLike[str],
    source: PreTrainedModel | str | os.PathLike[str] | None = None,
) -> peft.PeftModel:
    """An adapter carried to a base that was resized before: LoRA, with or without DoRA, IA³ and `modules_to_save`.

    The resize is repeated from its record in `config.learngene`, and has to give the resized base again. Grown without loss, base
    and adapter compute what they did; shrunk, the adapter keeps what the base keeps.

    Args:
        adapter (`str` or `PeftModel`): the folder or Hub id of an adapter, or a model that carries one.
        resized_base (`PreTrainedModel` or `str`): what this package made of the adapter's base, not trained since.
        source (`PreTrainedModel` or `str`, *optional*): the adapter's base. Default: that of the `PeftModel`, or the one that the
            adapter's settings name.

    Returns:
        `PeftModel` over the resized base, whose modules are wrapped in place; its `save_pretrained` writes a stock adapter.

    Raises:
        AdapterError: an adapter of another base, a base that was trained since, or what does not follow.

    Example:
        >>> import peft, transformers
        >>> from hf_learngene import resize
        >>> config = transformers.BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2)
        >>> bert = transformers.BertModel(config)
        >>> grown = resize(bert, hidden_size=32)
        >>> adapted = peft.get_peft_model(bert, peft.LoraConfig(r=4, target_modules=["query"]))
        >>> carried = resize_adapter(adapted, grown)
        >>> carried.get_base_model().encoder.layer[0].attention.self.query.lora_A["default"].weight.shape
        torch.Size([4, 32])
    """
    resized_base = check_source(resized_base if isinstance(resized_base, nn.Module) else load_whole(resized_base))
    record = provenance.record_of(resized_base.config)
    source, missing = _source(adapter, type(resized_base), source)
    if type(source) is not type(resized_base):
        raise AdapterError(
            f"The source is a {type(source).__name__}, and the resized base a {type(resized_base).__name__}."
        )
    model = adapter if isinstance(adapter, peft.PeftModel) else _loaded(adapter, source)
    with naming("the adapter" if isinstance(adapter, peft.PeftModel) else adapter):
        read, base = read_adapter(model)
    unlike = _first_unlike(base, source, read.saved.keys() | missing, exactly=True)
    if unlike is not None:
        settings: Any = read.config
        raise AdapterError(
            f"The adapter's base is not the source: `{unlike}` differs. Give the base that it was trained on as source. (An "
            f"initialisation that changes the base, as pissa and olora do, is undone by "
            f"save_pretrained(path_initial_model_for_weight_conversion=...); here it is "
            f"{getattr(settings, 'init_lora_weights', None)!r}.)"
        )
    plan = _plan_again(record, source, missing - read.saved.keys())
    following = _Following(read)
    with quiet():
        again = execute(plan, source, follow=following)
    unlike = _first_unlike(
        again, resized_base, read.saved.keys() | following.adapter.saved.keys() | set(record["fresh"])
    )
    if unlike is not None:
        raise AdapterError(
            f"The resized base is not what its record makes of the source: `{unlike}` differs. Either it was made of another "
            f"one, or trained since. {TOGETHER}; a base that was trained needs an adapter of its own."
        )
    return attach(following.adapter, resized_base)


def _source(
    adapter: Any, model_class: type[PreTrainedModel], source: PreTrainedModel | str | os.PathLike[str] | None
) -> tuple[PreTrainedModel, frozenset[str]]:
    """The adapter's base, and the names of its parameters that its checkpoint did not hold."""
    if isinstance(source, nn.Module):
        return check_source(source), frozenset()
    if source is None and isinstance(adapter, peft.PeftModel):
        return read_adapter(adapter)[1], frozenset()
    name = source if source is not None else _settings(adapter).base_model_name_or_path
    if not name:
        raise AdapterError(
            "The adapter's settings name no base model. Give it: resize_adapter(adapter, resized_base, source)."
        )
    loading = pinned(name, {})
    config = load_config(name, loading)
    return load_source(name, model_class, config, anatomy_of(config, model_class), {**loading, "dtype": "auto"})


def _settings(adapter: str | os.PathLike[str]) -> peft.PeftConfig:
    check_files(adapter)
    try:
        return peft.PeftConfig.from_pretrained(os.fspath(adapter))
    except Exception as error:  # what damaged settings make of the reader
        raise AdapterError(f"`{adapter}` holds no adapter that peft reads: {first_line(error)}") from error


def _loaded(adapter: str | os.PathLike[str], source: PreTrainedModel) -> peft.PeftModel:
    """A copy of the source with the adapter of a folder, which has to fill what its settings ask for.

    Raises:
        AdapterError: it does not fit the source.
    """
    name, settings = os.fspath(adapter), _settings(adapter)
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")  # of keys, which are compared below
            model = peft.PeftModel.from_pretrained(copy.deepcopy(source), name, config=settings, torch_device="cpu")
            wanted, allowed = (get_peft_model_state_dict(model, save_embedding_layers=e).keys() for e in (False, True))
            held = load_peft_weights(name, device="cpu").keys()
    except LearngeneError:
        raise
    except Exception as error:  # peft raises what comes: ValueError for targets, RuntimeError for shapes
        raise AdapterError(
            f"The adapter `{adapter}` does not fit {type(source).__name__}: {first_line(error)}"
        ) from error
    if unlike := sorted((wanted - held) | (held - allowed)):
        raise AdapterError(
            f"The adapter `{adapter}` is not of this base: `{unlike[0]}` is {'absent' if unlike[0] in wanted else 'left over'}. "
            "Give the base that it was trained on as source."
        )
    return model


def _plan_again(record: Mapping[str, Any], source: PreTrainedModel, missing: frozenset[str]) -> Plan:
    """The plan that a record tells of.

    Raises:
        AdapterError: a record does not tell all of it.
    """
    passes = [(one["method"], dict(one["options"])) for one in record["passes"]]
    for name, options in passes:
        known = METHODS.get(name)
        if known is None or known.needs_examples or known.learns or known.refits_with(options):
            raise AdapterError(
                f"The base was resized by {name!r}, whose choices are not in its record. {TOGETHER}, where no weight is "
                "refitted; or merge the adapter, then resize: peft_model.merge_and_unload()."
            )
    if "kept_tokens" in record:
        raise AdapterError(
            f"The base was resized to some of its tokens, and its record does not name them. {TOGETHER}."
        )
    sizes = _sizes_again(record["sizes"], source)
    single = passes[0][0] if len(passes) == 1 else "auto"
    names = METHODS[single].option_names() if single != "auto" else []
    given = {**sizes, **(({n: v for n, v in passes[0][1].items() if n in names}) if names else {})}
    spec = ResizeSpec.parse(given, method=single, seed=record["seed"], calibration=None)
    return make_plan(source.config, type(source), spec, missing)


def _sizes_again(told: Mapping[str, Any], source: PreTrainedModel) -> dict[str, Any]:
    """The sizes that a record tells of, with those of the source that would follow them if they were not named."""
    config, model_class = source.config, type(source)
    known = sections_of(config, model_class)
    several = len(known) > 1
    found = {n: v for n, v in told.items() if several and "." not in n}  # of the whole
    for section in known:
        prefix = f"{section}." if several else ""
        own = {n.removeprefix(prefix): v for n, v in told.items() if n.startswith(prefix)}
        if several and not own:
            continue
        anatomy = anatomy_of(config, model_class, section if several else None)
        own = {n: v for n, v in listed(anatomy.sizes).items() if n in _FOLLOWING} | own
        found |= {f"{prefix}{n}": v for n, v in own.items() if canonical(anatomy, n) or stage_size(anatomy, n)}
    return found


def _first_unlike(
    made: PreTrainedModel, wanted: PreTrainedModel, without: set[str] | frozenset[str], exactly: bool = False
) -> str | None:
    """The first parameter in which two models differ by more than rounding; None where there is none."""
    tensors: dict[str, Tensor] = dict(made.named_parameters(remove_duplicate=False))
    others: dict[str, Tensor] = dict(wanted.named_parameters(remove_duplicate=False))
    for name in sorted(tensors.keys() | others.keys()):
        if name in without:
            continue
        if name not in tensors or name not in others or tensors[name].shape != others[name].shape:
            return name
        if torch.equal(tensors[name].cpu(), others[name].cpu()):
            continue
        if exactly:
            return name
        one, other = (t.detach().cpu().double() for t in (tensors[name], others[name]))
        coarsest = max(torch.finfo(t.dtype).eps for t in (tensors[name], others[name]))
        if not float((one - other).abs().max()) <= 4 * coarsest * float(other.abs().max()):
            return name
    return None


__all__ = ["resize_adapted", "resize_adapter"]
