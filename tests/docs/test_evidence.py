"""docs/evidence.md says what the results say, and each command on it is one that a benchmark wrote."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks" / "claims.py").exists(), reason="benchmarks are not in a built package"
)


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import evidence

    yield evidence
    for name in ("evidence", "claims", "jobs", "growth"):
        sys.modules.pop(name, None)


def test_the_page_is_what_the_results_say(evidence):
    kept = ROOT / "benchmarks" / "results" / "evidence.json"
    minutes = json.loads(kept.read_text())["minutes"] if kept.exists() else {}
    assert (ROOT / "docs" / "evidence.md").read_text() == evidence.page(minutes)


def test_every_verdict_says_why_it_does_not_hold(evidence):
    for claim in evidence.CLAIMS:
        found = evidence.verdict(claim)
        assert found.verdict in ("holds", "in part", "not here", "not measured"), claim.name
        if found.verdict == "not here":
            assert found.why.startswith(": "), claim.name


def test_every_command_is_a_benchmark(evidence):
    for claim in evidence.CLAIMS:
        program, script, *_ = shlex.split(claim.command)
        assert program == "python", claim.name
        assert (ROOT / script).exists(), claim.name
