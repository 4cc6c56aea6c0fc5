"""What a resize leaves behind in its process: verdicts and anatomies, but no model and no weights."""

import gc
import weakref

import pytest
import torch

from hf_learngene import plan, resize
from hf_learngene.budget import latency
from hf_learngene.errors import LossyGrowthError
from hf_learngene.maps import noise
from testing.families import model_class, tiny_config, tiny_model
from testing.hierarchies import smaller, tiny_hierarchy


SHRINK = {"num_hidden_layers": 2, "intermediate_size": 24, "calibration": "synthetic", "calibration_size": 16}
GROW = {"hidden_size": 48, "num_hidden_layers": 4}


@pytest.fixture
def by_counting():
    """References alone free what is kept, so that a cycle shows; what earlier tests left is gone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def weights():
    """Bytes of every tensor that is alive."""
    known = (o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter) and o.device.type != "meta")
    return sum({o.untyped_storage().data_ptr(): o.untyped_storage().nbytes() for o in known}.values())


def tiny(kind, name):
    return tiny_hierarchy(kind).float() if name is None else tiny_model(kind, name, dtype=torch.float32)


@pytest.mark.parametrize(
    ("kind", "name", "sizes"),
    [
        ("vit", "ViTModel", SHRINK),
        ("vit", "ViTModel", GROW),
        ("bert", "BertForMaskedLM", SHRINK),
        ("bert", "BertForMaskedLM", GROW),
        ("deberta", "DebertaModel", SHRINK),  # looks at values: its first pass, on `meta`, fails
        ("deberta", "DebertaModel", GROW),
        ("longformer", "LongformerModel", SHRINK),
        ("convnext", None, {"calibration": "synthetic", "calibration_size": 16}),
    ],
)
def test_nothing_of_a_resize_stays_alive(kind, name, sizes, by_counting):
    noise._pool(0)  # the noise that all models draw from
    source = tiny(kind, name)
    if name is None:
        sizes = {**smaller(source), **sizes}
    before = weights()
    result = resize(source, **sizes)
    ends = [weakref.ref(tensor) for model in (source, result) for tensor in model.parameters()]
    del result
    assert weights() == before
    del source
    assert not [end for end in ends if end() is not None]


def test_nothing_of_a_refused_growth_stays_alive(by_counting):
    source = tiny("mobilebert", "MobileBertModel")
    before = weights()
    with pytest.raises(LossyGrowthError):
        resize(source, hidden_size=48)
    gc.collect()  # the error and its frames, which pytest had
    assert weights() == before


def test_resizes_of_many_configs_leave_no_more_than_one_does(by_counting):
    def one(number):
        config = tiny_config("vit", layer_norm_eps=number * 1e-6)  # a miniature of its own
        resize(model_class("ViTModel")(config), hidden_size=48)

    one(1)
    before = weights()
    for number in range(2, 8):
        one(number)
    assert weights() == before


def test_a_stopwatch_holds_no_model(by_counting, monkeypatch):
    monkeypatch.setattr(latency, "_WATCHES", type(latency._WATCHES)())
    monkeypatch.setattr(latency, "ROUNDS", 1)
    before = weights()
    config = tiny_config("vit")
    watch = latency.stopwatch(config, model_class("ViTModel"))
    watch.time(plan(config, model_class=model_class("ViTModel"), hidden_size=48).target_config)
    assert watch is latency.stopwatch(config, model_class("ViTModel"))
    assert weights() == before


def test_old_stopwatches_make_room(monkeypatch):
    monkeypatch.setattr(latency, "_WATCHES", type(latency._WATCHES)())
    monkeypatch.setattr(latency.Stopwatch, "__init__", lambda self, config, model_class: None)
    for width in range(40, 140):
        latency.stopwatch(tiny_config("vit", intermediate_size=width), model_class("ViTModel"))
    assert len(latency._WATCHES) == latency._MOST_WATCHES
