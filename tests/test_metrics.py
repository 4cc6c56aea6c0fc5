"""The offline metrics agree with scikit-learn and behave like any other `evaluate` metric."""

from __future__ import annotations

import doctest
import json

import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

import hf_learngene.metrics
from hf_learngene.metrics import F1, Accuracy, MatthewsCorrcoef


@pytest.fixture
def labels():
    generator = np.random.default_rng(0)
    return generator.integers(0, 3, 50), generator.integers(0, 3, 50)


def test_docstring_examples_run():
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    results = doctest.testmod(hf_learngene.metrics, optionflags=flags)
    assert results.attempted >= 12
    assert results.failed == 0


@pytest.mark.parametrize(
    ("metric", "key", "options", "function"),
    [
        (Accuracy, "accuracy", {}, accuracy_score),
        (Accuracy, "accuracy", {"normalize": False}, accuracy_score),
        (Accuracy, "accuracy", {"sample_weight": list(range(50))}, accuracy_score),
        (F1, "f1", {"average": "macro"}, f1_score),
        (F1, "f1", {"average": "micro", "labels": [0, 1]}, f1_score),
        (F1, "f1", {"average": "weighted", "sample_weight": list(range(50))}, f1_score),
        (MatthewsCorrcoef, "matthews_correlation", {}, matthews_corrcoef),
        (MatthewsCorrcoef, "matthews_correlation", {"sample_weight": list(range(50))}, matthews_corrcoef),
    ],
)
def test_agrees_with_scikit_learn(metric, key, options, function, labels, tmp_path):
    predictions, references = labels
    result = metric(cache_dir=str(tmp_path)).compute(predictions=predictions, references=references, **options)
    assert result == {key: pytest.approx(function(references, predictions, **options))}
    json.dumps(result)


def test_f1_of_a_named_positive_class(tmp_path):
    result = F1(cache_dir=str(tmp_path)).compute(predictions=[0, 0, 1, 1], references=[0, 1, 1, 1], pos_label=0)
    assert result == {"f1": pytest.approx(2 / 3)}


def test_f1_of_every_class_is_json_able(labels, tmp_path):
    predictions, references = labels
    result = F1(cache_dir=str(tmp_path)).compute(predictions=predictions, references=references, average=None)
    assert result["f1"] == pytest.approx(f1_score(references, predictions, average=None).tolist())
    json.dumps(result)


@pytest.mark.parametrize("convert", [list, np.asarray, torch.tensor])
def test_takes_lists_arrays_and_tensors(convert, tmp_path):
    result = Accuracy(cache_dir=str(tmp_path)).compute(predictions=convert([0, 1]), references=convert([0, 0]))
    assert result == {"accuracy": 0.5}


@pytest.mark.parametrize(("metric", "key"), [(Accuracy, "accuracy"), (F1, "f1")])
def test_several_labels_an_example(metric, key, tmp_path):
    flags = [[1, 0, 1], [0, 1, 0]]
    options = {"average": "macro"} if metric is F1 else {}
    result = metric("multilabel", cache_dir=str(tmp_path)).compute(predictions=flags, references=flags, **options)
    assert result == {key: 1.0}


def test_adds_up_over_batches(labels, tmp_path):
    predictions, references = labels
    metric = Accuracy(cache_dir=str(tmp_path))
    for part in np.array_split(np.arange(50), 4):
        metric.add_batch(predictions=predictions[part], references=references[part])
    assert metric.compute()["accuracy"] == pytest.approx(accuracy_score(references, predictions))


def test_works_in_memory():
    assert Accuracy(keep_in_memory=True).compute(predictions=[1, 0], references=[1, 0]) == {"accuracy": 1.0}


def test_can_be_combined(tmp_path):
    metrics = evaluate.combine([Accuracy(cache_dir=str(tmp_path)), MatthewsCorrcoef(cache_dir=str(tmp_path))])
    result = metrics.compute(predictions=[0, 1, 1, 0], references=[0, 1, 1, 0])
    assert result == {"accuracy": 1.0, "matthews_correlation": 1.0}


def test_lengths_must_match(tmp_path):
    with pytest.raises(ValueError, match="Mismatch"):
        Accuracy(cache_dir=str(tmp_path)).compute(predictions=[0, 1], references=[0])


@pytest.mark.parametrize("metric", [Accuracy, F1, MatthewsCorrcoef])
def test_describes_itself(metric, tmp_path):
    instance = metric(cache_dir=str(tmp_path))
    assert instance.description
    assert "Pedregosa" in instance.citation
    assert "scikit-learn.org" in instance.reference_urls[0]
    assert set(instance.features) == {"predictions", "references"}
