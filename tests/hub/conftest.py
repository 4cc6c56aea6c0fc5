"""A Hub on loopback, and a client of it in a process that is online: for the modules that use them."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def served():
    from testing.hub import Hub

    with Hub() as hub:
        yield hub


@pytest.fixture
def hub(served):
    """With all switches off and nothing on record; it knows everything that it is asked for."""
    served.calm()
    yield served
    assert [str(r) for r in served.requests if r.status == 501] == []


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(served, home):
    from testing.hub_client import Client

    with Client(served.endpoint, home) as client:
        yield client
