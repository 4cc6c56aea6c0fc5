"""Which of the caller's keywords are sizes, which are options of the method, and which go to `from_pretrained`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_learngene.anatomy.config_fields import ALIASES
from hf_learngene.errors import UnknownOptionError, nearest
from hf_learngene.hub.files import HUB_KEYWORDS
from hf_learngene.methods import METHODS, Method
from hf_learngene.methods.registry import make_method, option_owners


# Keywords of `PreTrainedModel.from_pretrained` and of the Hub client below it.
LOADING = frozenset(
    [
        *HUB_KEYWORDS,
        "dtype",
        "torch_dtype",
        "variant",
        "use_safetensors",
        "weights_only",
        "key_mapping",
        "attn_implementation",
        "device_map",
        "low_cpu_mem_usage",
        "gguf_file",
        "adapter_kwargs",
    ]
)
# What belongs to the target's task, not to its size; set on the target's config as it is.
LABELS = frozenset({"id2label", "label2id", "problem_type"})
REFUSED = {
    "trust_remote_code": "code from a repository is never run here; resize a class that transformers has",
    "quantization_config": "packed weights cannot be resized; resize first, then quantize the result",
    "ignore_mismatched_sizes": "it leaves mismatched tensors at random values; name the size you want instead",
    "config": "the sizes are given by name; everything else follows the source",
    "state_dict": "give the model itself to `resize`",
    "output_loading_info": "`plan` tells what becomes of each tensor",
}


def split_options(given: Mapping[str, Any], method: str | Method) -> tuple[dict[str, Any], dict[str, Any]]:
    """(sizes, options of the method).

    Raises:
        UnknownOptionError: an option of another method.
    """
    if not isinstance(method, (str, Method)):
        make_method(method, {})  # says what a method may be
    cls = METHODS.get(method) if isinstance(method, str) else type(method)
    own = set(cls.option_names()) if cls is not None else set()
    options = {k: v for k, v in given.items() if k in own}
    sizes = {k: v for k, v in given.items() if k not in own}
    for name in sizes:
        owners = option_owners(name)
        if owners and name not in _all_sizes():
            used = method if isinstance(method, str) else method.name
            raise UnknownOptionError(
                f"{name!r} is an option of method {owners[0]!r}, not of {used!r}. Give method={owners[0]!r} with it."
            )
    return sizes, options


def split_loading(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(sizes and options, loading keywords, label fields).

    Raises:
        UnknownOptionError: a keyword that contradicts a resize.
    """
    for name, why in REFUSED.items():
        if name in given and given[name] not in (None, False):
            raise UnknownOptionError(f"{name!r} cannot be used when resizing: {why}.{nearest(name, ())}")
    loading = {k: v for k, v in given.items() if k in LOADING}
    labels = {k: v for k, v in given.items() if k in LABELS}
    rest = {k: v for k, v in given.items() if k not in LOADING and k not in LABELS and k not in REFUSED}
    return rest, loading, labels


def _all_sizes() -> set[str]:
    return {alias for names in ALIASES.values() for alias in names}
