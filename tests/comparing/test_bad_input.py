"""What `compare` cannot do is refused before anything is trained, with an error that says what would work."""

from __future__ import annotations

import pytest

from hf_learngene.errors import (
    CalibrationError,
    DirectionError,
    InvalidSizeError,
    TrainingDataError,
    UnknownOptionError,
    UnsupportedSourceError,
)
from testing.comparing import EVAL, SMALL, TRAIN, forbid_training, small
from testing.training import Images, teacher_of


@pytest.fixture
def untrained(monkeypatch):
    """Fails on any training or measuring."""
    forbid_training(monkeypatch)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"sizes": []}, InvalidSizeError, "sizes is empty: name one at least"),
        ({"sizes": SMALL}, InvalidSizeError, r"one was 16. For this one size: \[\{'hidden_size': 16\}\]"),
        ({"sizes": [{}]}, InvalidSizeError, "A size is empty"),
        ({"sizes": [SMALL, SMALL]}, InvalidSizeError, "'hidden_size=16' was given twice"),
        ({"sizes": [{"seed": 1}]}, UnknownOptionError, "'seed' is no size"),
        ({"sizes": [SMALL, {"hiden_size": 8}]}, UnknownOptionError, "No method can make .* Did you mean 'hidden_size'"),
        ({"sizes": [SMALL, {"hidden_size": 32}], "methods": ["calibrated", "weight_selection"]}, DirectionError,
         "size 'hidden_size=32'. calibrated: calibrated shrinks.*; weight_selection: weight_selection picks"),
        ({"methods": []}, UnknownOptionError, "methods is empty"),
        ({"methods": "random"}, UnknownOptionError, "methods is a list of names"),
        ({"methods": ["random", "weight_selektion"]}, UnknownOptionError, "Did you mean 'weight_selection'"),
        ({"methods": ["random", "random"]}, UnknownOptionError, "'random' was given twice. .* label them"),
        ({"methods": {"a": {"layer_map": [0]}}}, UnknownOptionError, "a dict that names it"),
        ({"methods": {"a": {"method": "layers"}}}, UnknownOptionError, "needs layer_map"),
        ({"methods": {"r": "random", "l": {"method": "layers", "layer_map": [0, 2]}}, "sizes": [{"num_labels": 4}]},
         InvalidSizeError, "num_hidden_layers=3 for 'r' and num_hidden_layers=2 for 'l'.* Name num_hidden_layers"),
        ({"seeds": []}, UnknownOptionError, "seeds is a list of one whole number at least"),
        ({"seeds": 3}, UnknownOptionError, r"range\(3\)"),
        ({"seeds": [1, 1]}, UnknownOptionError, "seeds holds one twice"),
        ({"seeds": [-1]}, UnknownOptionError, "one was -1"),
        ({"steps": 0}, UnknownOptionError, "steps is a whole number of at least 1; it was 0"),
        ({"eval_steps": 0}, UnknownOptionError, "eval_steps is a whole number"),
        ({"batch_size": 2.5}, UnknownOptionError, "batch_size .* it was 2.5"),
        ({"learning_rate": {"randm": 1e-3}}, UnknownOptionError, "Did you mean 'random'"),
        ({"learning_rate": {}}, UnknownOptionError, "no entry for 'random'"),
        ({"learning_rate": 0}, UnknownOptionError, "above 0"),
        ({"calibration_size": 0}, UnknownOptionError, "calibration_size is a whole number"),
        ({"calibration": [TRAIN[0]]}, UnknownOptionError, "None of the methods uses calibration examples.* calibrated"),
        ({"calibration": iter([TRAIN[0]]), "methods": ["calibrated"]}, CalibrationError, r"read once only.* list\(calibration\)"),
        ({"calibration": {"train": TRAIN}, "methods": ["calibrated"]}, CalibrationError, r"calibration\['train'\]"),
        ({"train": iter([]), "methods": ["calibrated"]}, CalibrationError, "is a stream"),
        ({"held": Images(0)}, TrainingDataError, "eval_dataset is empty"),
        ({"train": []}, TrainingDataError, "train_dataset is empty"),
        ({"held": {"test": EVAL}}, TrainingDataError, "has the parts 'test'"),
        ({"train": "train.csv"}, TrainingDataError, "datasets.load_dataset"),
        ({"metric": "f1"}, UnknownOptionError, "metric='f1' needs compute_metrics"),
        ({"args": {"max_steps": 3}}, UnknownOptionError, "args is a TrainingArguments; it was a dict"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_trained(tmp_path, untrained, given, error, message):
    with pytest.raises(error, match=message):
        small(tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_head_is_refused(tmp_path, untrained):
    with pytest.raises(UnsupportedSourceError, match="ViTModel takes no labels"):
        small(tmp_path, teacher_of("vit").vit)


def test_labels_that_are_no_classes_need_a_metric(tmp_path):
    bare = [{"pixel_values": EVAL[i]["pixel_values"]} for i in range(8)]
    with pytest.raises(TrainingDataError, match="holds no labels"):
        small(tmp_path / "a", held=bare)
    soft = [{**e, "labels": [0.0, 1.0, 0.0, 0.0, 0.0]} for e in bare]
    with pytest.raises(TrainingDataError, match="give compute_metrics"):
        small(tmp_path / "b", held=soft)
    with pytest.raises(UnknownOptionError, match="is to be one number"):
        small(tmp_path / "c", compute_metrics=lambda p: {"each": [1, 2]}, metric="each")
