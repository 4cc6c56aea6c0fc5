"""What is remembered of a pass on meta is what the pass would have given, and is not run twice."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hf_learngene.budget.flops as counting
from hf_learngene.budget.remembered import Remembered
from testing.families import model_class, tiny_config


pytestmark = pytest.mark.not_numeric

FAMILIES = [
    ("bert", "BertForMaskedLM"), ("vit", "ViTForImageClassification"), ("swin", "SwinForImageClassification"),
    ("convnext", "ConvNextModel"), ("modernbert", "ModernBertForMaskedLM"), ("albert", "AlbertModel"), ("esm", "EsmModel"),
    ("distilbert", "DistilBertModel"), ("segformer", "SegformerModel"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), FAMILIES)
def test_every_module_counts_the_same(kind, name, monkeypatch):
    config, cls = tiny_config(kind), model_class(name)
    remembered = counting._by_module(config, cls, ("meta",))
    monkeypatch.setattr(counting, "Remembered", nullcontext)
    assert remembered == counting._by_module(config, cls, ("meta",))
    assert remembered[""] > 0


class Counted(TorchDispatchMode):
    """Names of the ops that are run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_an_op_is_run_once_for_each_shape():
    with Counted() as counted, Remembered():
        a, b = torch.empty(2, 3, device="meta"), torch.empty(3, 4, device="meta")
        for _ in range(5):
            assert (a @ b).shape == (2, 4)
            assert (a @ b[:, ::2]).shape == (2, 2)
            assert (a + 1).dtype == torch.float32
            assert torch.ones(2, dtype=torch.int64, device="meta").add(1.0).dtype == torch.float32
            assert torch.ones(2, dtype=torch.int64, device="meta").add(1).dtype == torch.int64
    assert counted.names.count("mm") == 2
    assert counted.names.count("add") == 3


def test_what_writes_views_or_has_values_is_run():
    with Remembered():
        values = [torch.arange(3.0) * factor for factor in (1.0, 2.0)]
        meta = torch.empty(2, 3, device="meta")
        views = [meta.t(), meta.t()]
        added = meta.add_(1)
    assert [v.tolist() for v in values] == [[0, 1, 2], [0, 2, 4]]
    assert all(view._base is meta for view in views)
    assert added is meta
