"""What a model and a data set are known by when a comparison goes on: digests that are the same in every process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from hf_learngene.training.digest import pieces


LOOKS = 16  # examples that are looked at, spread over the data set
ENTRIES = 4096  # of each tensor: training moves them all
# What a config says of where a model came from, and not of the model.
_NOT_THE_MODEL = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def of_model(model: PreTrainedModel) -> str:
    """Of its config and its weights.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_attention_heads=1, intermediate_size=8, num_hidden_layers=1)
        >>> model = BertModel(config)
        >>> before = of_model(model)
        >>> model.pooler.dense.bias.data += 1
        >>> of_model(model) == before
        False
    """
    config = {k: v for k, v in model.config.to_dict().items() if k not in _NOT_THE_MODEL}
    found = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()
        found.update(name.encode())
        for piece in pieces(values[:: max(1, len(values) // ENTRIES)].cpu()):
            found.update(piece)
    return found.hexdigest()[:16]


def of_data(dataset: Any) -> str:
    """Of its length and of examples spread over it, as the model gets them.

    What is drawn anew at each reading, such as a random crop, is left out; so is a stream.

    Example:
        >>> of_data([{"labels": 0}, {"labels": 1}]) == of_data([{"labels": 1}, {"labels": 0}])
        False
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return type(dataset).__name__
    count = len(dataset)
    found = hashlib.sha256(str(count).encode())
    for place in sorted({i * (count - 1) // max(1, LOOKS - 1) for i in range(LOOKS)}) if count else ():
        first, again = (_digests(dataset[place]) for _ in range(2))
        for name in sorted(first):
            found.update(f"{name} {first[name] if first[name] == again.get(name) else 'drawn'}".encode())
    return found.hexdigest()[:16]


def name_of(thing: Any) -> str | None:
    """What a function or an object of a class is called."""
    return None if thing is None else getattr(thing, "__qualname__", type(thing).__qualname__)


def _digests(example: Any) -> dict[str, str]:
    columns = example if isinstance(example, Mapping) else {"": example}
    return {str(k): hashlib.sha256(b"".join(pieces(v))).hexdigest() for k, v in columns.items()}
