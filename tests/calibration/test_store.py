"""How much of the memory that is free a store takes for itself."""

from __future__ import annotations

import psutil
import pytest
import torch

from hf_learngene.calibration import store


CPU = torch.device("cpu")


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Files as a kernel gives them to a process in a container."""
    monkeypatch.setattr(store, "CONTAINER", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 8000}))

    def limited(limit: str, used: int = 0, cached: int = 0) -> None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\nactive_file 3\n")

    return limited


def test_a_share_of_what_the_machine_has_free_outside_a_container(container):
    assert store.room(CPU) == 1000


def test_no_more_than_a_share_of_what_the_container_may_have(container):
    container("4000", used=2000, cached=400)
    assert store.room(CPU) == 300
    container("4000", used=5000)
    assert store.room(CPU) == 0


@pytest.mark.parametrize("limit", ["max", "16000"])
def test_a_container_without_a_limit_or_with_a_larger_one_than_the_machine_has(container, limit):
    container(limit)
    assert store.room(CPU) == 1000
