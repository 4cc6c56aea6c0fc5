"""What is read off the curves: the first step at which one start is as good as another, or as the source."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from hf_learngene.comparing import Comparison, Row


def test_labels_with_marks_stay_as_they_are(tmp_path):
    rows = tuple(Row("a $1$ | b", label, 5, (0, 1), ((0.0, 1.0),), (1.0,)) for label in ("[red]x", "$y$"))
    found = Comparison(rows, {"seeds": [0], "steps": 1, "batch_size": 1, "methods": {}})
    assert "[red]x" in str(found)
    assert len({line.count("|") for line in found.to_markdown().splitlines() if line.startswith("|")}) == 2
    found.plot(tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()


def test_many_sizes_and_methods_are_drawn(tmp_path):
    rows = [
        Row(f"size {s}", f"m{m}", 10, (0, 5), ((0.1 * m, 0.5), (0.2, 0.6)), (1.0, 1.0))
        for s in range(5)
        for m in range(9)
    ]
    rows += [Row("none", "m0", None, cannot="too small")]
    found = Comparison(tuple(rows), {"seeds": [0, 1]}, source_metric=0.7)
    found.plot(tmp_path / "x.png")
    with PILImage.open(tmp_path / "x.png") as picture:
        assert picture.width > picture.height > 600


VALUES = st.floats(0, 1)


CURVES = st.integers(1, 6).flatmap(
    lambda steps: st.lists(st.lists(VALUES, min_size=steps, max_size=steps), min_size=1, max_size=4)
)


@given(CURVES, VALUES)
def test_a_threshold_is_met_at_the_first_step_whose_mean_reaches_it(curves, threshold):
    steps = tuple(range(0, 10 * len(curves[0]), 10))
    row = Row("s", "m", 1, steps, tuple(map(tuple, curves)), (1.0,))
    means = [sum(c[i] for c in curves) / len(curves) for i in range(len(steps))]
    found = row.steps_until(threshold)
    before = steps if found is None else steps[: steps.index(found)]
    assert all(means[steps.index(s)] < threshold for s in before)
    assert found is None or means[steps.index(found)] >= threshold - 2e-9
    assert row.steps_until(None) is None


def test_steps_until_random_and_until_the_source():
    def row(method, *curves, size="s", **more):
        return Row(size, method, 1, (0, 10, 20, 30), curves, (1.0,) * len(curves), **more)

    control = row("chance", (0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.5, 0.6))  # ends at 0.5
    # one seed is there at once, the mean only at step 20; and it falls again
    ours = row("ours", (0.6, 0.6, 0.6, 0.3), (0.0, 0.2, 0.4, 0.3))
    exact = row("exact", (0.1, 0.74, 0.74, 0.74), (0.1, 0.74, 0.74, 0.74))
    low = row("low", (0.1, 0.1, 0.1, 0.49999))
    other = row("ours", (0.9, 0.9, 0.9, 0.9), size="t")
    labels = row("labels", (0.9, 0.9, 0.9, 0.9), same_task=False)
    absent = Row("s", "none", None, cannot="no")
    settings = {"methods": {"chance": {"method": "random"}, "ours": {"method": "front"}}}
    found = Comparison((ours, control, exact, low, other, labels, absent), settings, source_metric=0.75)
    assert [found.steps_until_random(r) for r in found.rows] == [20, 30, 10, None, None, 0, None]
    assert [found.steps_until_source(r) for r in found.rows] == [None, None, 10, None, 0, None, None]
    assert Comparison.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    text = str(found).splitlines()
    assert next(line for line in text if "exact" in line).split()[-3:] == ["10", "10", "1.00"]


def test_no_number_is_kept_as_none():
    row = Row("s", "m", 1, (0, 1), ((math.nan, 0.5),), (1.0,))
    found = Comparison((row,), {"methods": {"m": {"method": "random"}}}).to_dict()
    assert found["rows"][0]["curves"] == [[None, 0.5]]
    assert found["rows"][0]["steps_until_random"] == 1
    again = Comparison.from_dict(json.loads(json.dumps(found, allow_nan=False)))
    assert math.isnan(again.rows[0].before)
