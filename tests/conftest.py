"""What every test shares: no network, no progress bars, one profile for hypothesis, tiny checkpoints on disk, a Hub."""

from __future__ import annotations

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported: before everything below

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from transformers.utils import logging

from testing.families import FIRST, tiny_model


# Derandomised: a failure shows up in every run, not in one of ten.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")
logging.disable_progress_bar()


# Packages whose tests are about numbers: `make test-numeric` runs them once more with other kernels.
NUMERIC = {"anatomy", "maps", "methods", "pruning", "budget", "vocabulary", "learngenes"}


def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.parent
        numeric = folder.name in NUMERIC and folder.parent == Path(__file__).parent
        if numeric and not item.get_closest_marker("not_numeric"):
            item.add_marker("numeric")
        if item.get_closest_marker("every_family") and item.callspec.params["case"][2] not in FIRST:
            item.add_marker("every_head")


def save_tiny(folder, model_type, class_name, dtype=torch.float32, **extra):
    """A tiny random model, saved to `folder`."""
    model = tiny_model(model_type, class_name, extra, dtype=dtype)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="session")
def _checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tiny(folder / "vit", "vit", "ViTForImageClassification")
    save_tiny(folder / "bert", "bert", "BertForMaskedLM")
    return folder


@pytest.fixture
def vit_folder(_checkpoints, tmp_path):
    """A folder with a tiny `ViTForImageClassification` (width 24, 3 layers, 3 heads), free to be damaged."""
    return shutil.copytree(_checkpoints / "vit", tmp_path / "vit")


@pytest.fixture
def bert_folder(_checkpoints, tmp_path):
    """A folder with a tiny `BertForMaskedLM` (width 24, 3 layers, 3 heads), free to be damaged."""
    return shutil.copytree(_checkpoints / "bert", tmp_path / "bert")


@pytest.fixture
def config_only(vit_folder):
    """A ViT checkpoint without weights: whatever reads weights fails, so an error of another kind came before that."""
    (vit_folder / "model.safetensors").unlink()
    return vit_folder


# ---- a Hub on loopback and a client of it, one for the session: a process with all imports takes seconds to start


@pytest.fixture(scope="session")
def _hub():
    from testing.hub import Hub

    with Hub() as hub:
        yield hub


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def _client(_hub, home):
    from testing.hub_client import Client

    with Client(_hub.endpoint, home) as client:
        yield client


@pytest.fixture(scope="module")
def served(_hub):
    """The Hub, empty, for a module to fill."""
    _hub.clear()
    return _hub


@pytest.fixture(scope="module")
def client(_client, served):
    return _client


@pytest.fixture
def hub(served):
    """With all switches off and nothing on record; it knows everything that it is asked for."""
    served.calm()
    yield served
    assert [str(r) for r in served.requests if r.status == 501] == []
