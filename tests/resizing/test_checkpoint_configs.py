"""Plans of real checkpoints' configs, as the benchmark of sixty of them makes them. No weight is read."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from hf_learngene.anatomy import anatomy_of
from testing import ROOT


@pytest.fixture(scope="module")
def benchmark():
    folder = ROOT / "benchmarks"
    sys.path.insert(0, str(folder))
    try:
        spec = spec_from_file_location("plan_checkpoints", folder / "plan_checkpoints.py")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


@pytest.mark.parametrize(
    "name",
    [
        "facebook/wav2vec2-base-960h",  # 16 groups, which small widths have to be multiples of
        "MCG-NJU/videomae-base",
        "google/siglip-so400m-patch14-384",
        "facebook/dinov2-giant",
        "answerdotai/ModernBERT-base",
        "facebook/esm2_t36_3B_UR50D",
    ],
)
def test_depth_and_width_of_real_configs(benchmark, name):
    found = benchmark.row(name)
    plans = found["plans"]
    assert all(p["right"] for p in plans.values() if "refused" not in p)
    assert "refused" not in plans["half the width"]
    assert "refused" not in plans["twice the depth"]
    wide = plans["twice the width"].get("refused", "")
    assert ("sinusoids" in wide) == ("videomae" in name)
    assert not wide or "videomae" in name


@pytest.mark.parametrize(
    ("name", "millions"), [("FacebookAI/roberta-base", 124.7), ("microsoft/deberta-v3-base", 184.6)]
)
def test_parameters_of_some_checkpoints_are_those_of_their_cards(benchmark, name, millions):
    model_class, config = benchmark.config_of(name)
    assert anatomy_of(config, model_class).num_parameters / 1e6 == pytest.approx(millions, abs=0.1)
