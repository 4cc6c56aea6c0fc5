"""Files of a comparison that were edited, cut or mixed up: a typed error, or the job is done again."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_learngene.comparing import Comparison, Row
from hf_learngene.comparing.saved import SOURCE, check_job, fault
from hf_learngene.errors import CheckpointError


ROWS = (
    Row("half", "random", 100, (0, 5), ((0.1, 0.4), (0.2, float("nan"))), (1.0, 3.0)),
    Row("half", "layers", None, cannot="it cannot"),
)
SETTINGS = {
    "source": {"name": "me/vit", "class": "ViT"}, "methods": {"random": {"method": "random"}}, "metric": "accuracy",
    "seeds": [0, 1], "steps": 5, "batch_size": 8,
}  # fmt: skip
WHOLE = json.loads(json.dumps(Comparison(ROWS, SETTINGS, 0.5, 200, {"torch": "2"}).to_dict()))


def places(content, path=()):
    """The path of every value, containers included."""
    if path:
        yield path
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


PLACES = list(places(WHOLE))
# Written for people; read by nobody, so that they may hold anything.
UNREAD = ("before", "after", "steps_until_random", "steps_until_source", "mean")


def used(path) -> bool:
    return not (path[0] == "rows" and len(path) > 2 and path[2] in UNREAD or path[0] == "versions" and len(path) > 1)


def shown(content):
    """Everything that is made of a comparison but the picture."""
    found = Comparison.from_dict(content)
    return str(found), found.to_markdown(), found.to_dict(), [found._panel(size) for size in found.sizes]


def test_what_was_written_is_read():
    assert shown(WHOLE)[2] == WHOLE


@given(st.sampled_from(PLACES), st.sampled_from([None, "x", -1, 1.5, [], {}, [[]], [None], True, "drop"]))
def test_any_change_is_a_typed_error_or_harmless(path, value):
    content = copy.deepcopy(WHOLE)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if value == "drop":
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    try:
        shown(content)
    except CheckpointError as error:
        assert used(path)  # noqa: PT017
        assert "damaged" in str(error) or "format" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("rows",), {}, "'rows' is a list"),
        (("rows", 0, "curves"), [[0.1]], "row 0: 'curves', 'steps' and 'seconds' are not of one length"),
        (("rows", 0, "curves"), [], "row 0: it has no curves"),
        (("rows", 1, "cannot"), None, "row 1: it has no curves"),
        (("rows", 0, "same_task"), 1, "'same_task' is true or false; it was 1"),
        (("source", "metric"), "high", "of its source: 'metric' is a number or null; it was 'high'"),
        (("settings", "seeds"), 3, "of its settings: 'seeds' is a list"),
        (("format",), 2, "format 2; this version reads format 1"),
        (("format",), None, "'format' is a whole number"),
    ],
)  # fmt: skip
def test_the_error_says_where(tmp_path, path, value, message):
    content = copy.deepcopy(WHOLE)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as error:
        Comparison.load(tmp_path)
    assert message in str(error.value)
    assert str(tmp_path / "comparison.json") in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}'])
def test_what_is_no_comparison_at_all(tmp_path, content):
    (tmp_path / "comparison.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"comparison\.json"):
        Comparison.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [None, [], {}, {"steps": [0, 1], "curve": [0.1], "seconds": 1.0}, {"steps": [], "curve": [], "seconds": 1.0},
     {"steps": [0], "curve": ["x"], "seconds": 1.0}, {"steps": [0], "curve": [0.1], "seconds": None}],
)  # fmt: skip
def test_a_job_that_is_not_whole_counts_as_not_done(content):
    assert not check_job(content)
    assert check_job({"steps": [0, 1], "curve": [0.1, None], "seconds": 1.0, "method": "random"})


def test_the_record_of_the_source():
    assert fault({"metric": None, "parameters": 3}, SOURCE) is None
    assert fault([], SOURCE) == "it is an object; it was []"
