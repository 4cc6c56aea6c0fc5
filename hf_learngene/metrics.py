"""Metrics that need no network: the accuracy that everything here is measured by, and three classes for `evaluate`.

`evaluate.load("accuracy")` downloads a script from the Hub. The three metrics that the classification tasks here
report are defined on the spot instead: instantiate the class and use it like any other metric.

Example:
    >>> from hf_learngene.metrics import Accuracy
    >>> Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0])
    {'accuracy': 0.6666666666666666}
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn import metrics as sklearn_metrics
from torch import Tensor


__all__ = ["F1", "Accuracy", "MatthewsCorrcoef", "accuracy", "predicted_classes"]

IGNORED = -100  # labels that do not count, and what Trainer fills rows of unequal length with
_SKLEARN_DOCS = "https://scikit-learn.org/stable/modules/generated/sklearn.metrics.{}.html"
_CITATION = """\
@article{scikit-learn,
  title={Scikit-learn: Machine Learning in {P}ython},
  author={Pedregosa, F. and Varoquaux, G. and Gramfort, A. and Michel, V. and Thirion, B. and Grisel, O. and
          Blondel, M. and Prettenhofer, P. and Weiss, R. and Dubourg, V. and Vanderplas, J. and Passos, A. and
          Cournapeau, D. and Brucher, M. and Perrot, M. and Duchesnay, E.},
  journal={Journal of Machine Learning Research},
  volume={12},
  pages={2825--2830},
  year={2011}
}
"""


def accuracy(predictions: Any, references: Any, ignored: int | None = None, sample_weight: Any = None) -> float:
    """The share of predictions that equal their reference.

    Args:
        predictions (`array`): a class for each reference, or one row of 0/1 flags for each row of flags.
        references (`array`): what is right.
        ignored (`int`, *optional*): the reference of entries that do not count, such as -100.
        sample_weight (`array`, *optional*): a weight for each example.

    Returns:
        `float`: NaN where nothing counts.

    Example:
        >>> accuracy([0, 1, 2], [0, 1, 1]), accuracy([0, 1, 2], [0, 1, -100], ignored=-100)
        (0.6666666666666666, 1.0)
    """
    references = np.asarray(references)
    right = np.equal(np.asarray(predictions), references)
    if ignored is not None:
        right = right[references != ignored]
    elif right.ndim > 1:
        right = right.all(-1)
    return float(np.average(right, weights=sample_weight)) if right.size else math.nan


def predicted_classes(logits: Any, labels: Any) -> Tensor:
    """The place of the largest logit: a `preprocess_logits_for_metrics` that spares a `Trainer` keeping all logits."""
    return (logits[0] if isinstance(logits, (tuple, list)) else logits).argmax(-1)


class _ClassificationMetric(evaluate.Metric):
    """Labels in, one number out. Subclasses name the scikit-learn function they stand for."""

    _function: str
    _description: str

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        # The name of a configuration is all that `evaluate` passes to this method, so it tells apart one label per
        # example from several, as it does for the metrics on the Hub.
        feature = datasets.Sequence(label) if self.config_name == "multilabel" else label
        return evaluate.MetricInfo(
            description=self._description,
            citation=_CITATION,
            inputs_description=type(self).__doc__ or "",
            features=datasets.Features({"predictions": feature, "references": feature}),
            reference_urls=[_SKLEARN_DOCS.format(self._function)],
        )


class Accuracy(_ClassificationMetric):
    """The share of predictions that equal their reference.

    Args:
        predictions: Predicted labels; with `Accuracy("multilabel")` a list of 0/1 flags for each example.
        references: True labels, in the same form.
        normalize: `False` returns the number of right predictions instead of their share.
        sample_weight: One weight for each example.

    Returns:
        A dictionary with the one key `accuracy`.

    Example:
        >>> accuracy = Accuracy()
        >>> accuracy.compute(predictions=[0, 1, 2, 2], references=[0, 1, 2, 0])
        {'accuracy': 0.75}
        >>> accuracy.compute(predictions=[0, 1, 2, 2], references=[0, 1, 2, 0], sample_weight=[1, 1, 1, 5])
        {'accuracy': 0.375}

        Batches add up:

        >>> accuracy.add_batch(predictions=[0, 1], references=[0, 1])
        >>> accuracy.add_batch(predictions=[1, 1], references=[0, 0])
        >>> accuracy.compute()
        {'accuracy': 0.5}
    """

    _function = "accuracy_score"
    _description = "The share of predictions that equal their reference."

    def _compute(
        self,
        predictions: Sequence[int],
        references: Sequence[int],
        normalize: bool = True,
        sample_weight: Sequence[float] | None = None,
    ) -> dict[str, float]:
        share = accuracy(predictions, references, sample_weight=sample_weight)
        total = len(references) if sample_weight is None else float(np.sum(sample_weight))
        return {"accuracy": share if normalize else share * total}


class F1(_ClassificationMetric):
    """The harmonic mean of precision and recall.

    Args:
        predictions: Predicted labels; with `F1("multilabel")` a list of 0/1 flags for each example.
        references: True labels, in the same form.
        labels: The labels to average over when `average` is not `"binary"`, and their order when it is `None`.
        pos_label: The class to report when `average` is `"binary"`.
        average: `"binary"`, `"micro"`, `"macro"`, `"weighted"`, `"samples"`, or `None` for one score a class.
        sample_weight: One weight for each example.

    Returns:
        A dictionary with the one key `f1`: a number, or a list of them when `average` is `None`.

    Example:
        >>> f1 = F1()
        >>> f1.compute(predictions=[0, 0, 1, 1], references=[0, 1, 1, 1])
        {'f1': 0.8}
        >>> f1.compute(predictions=[0, 2, 1, 1], references=[0, 1, 2, 1], average="macro")
        {'f1': 0.5}
        >>> f1.compute(predictions=[0, 2, 1, 1], references=[0, 1, 2, 1], average=None)
        {'f1': [1.0, 0.5, 0.0]}
    """

    _function = "f1_score"
    _description = "The harmonic mean of precision and recall."

    def _compute(
        self,
        predictions: Sequence[int],
        references: Sequence[int],
        labels: Sequence[int] | None = None,
        pos_label: int = 1,
        average: str | None = "binary",
        sample_weight: Sequence[float] | None = None,
    ) -> dict[str, float | list[float]]:
        score = sklearn_metrics.f1_score(
            references, predictions, labels=labels, pos_label=pos_label, average=average, sample_weight=sample_weight
        )
        # A list rather than an array, because results end up in JSON files.
        return {"f1": np.asarray(score).tolist()}


class MatthewsCorrcoef(_ClassificationMetric):
    """The correlation between predictions and references: 1 is perfect, 0 is chance, -1 is always wrong.

    It stays honest when classes are of very different size, where accuracy does not.

    Args:
        predictions: Predicted labels.
        references: True labels.
        sample_weight: One weight for each example.

    Returns:
        A dictionary with the one key `matthews_correlation`.

    Example:
        >>> matthews = MatthewsCorrcoef()
        >>> matthews.compute(predictions=[1, 1, 0, 0], references=[1, 1, 0, 1])
        {'matthews_correlation': 0.577...}

        Always naming the larger class gets three of four right, and is worth nothing:

        >>> matthews.compute(predictions=[1, 1, 1, 1], references=[1, 1, 1, 0])
        {'matthews_correlation': 0.0}
    """

    _function = "matthews_corrcoef"
    _description = "The correlation between predictions and references."

    def _compute(
        self,
        predictions: Sequence[int],
        references: Sequence[int],
        sample_weight: Sequence[float] | None = None,
    ) -> dict[str, float]:
        score = sklearn_metrics.matthews_corrcoef(references, predictions, sample_weight=sample_weight)
        return {"matthews_correlation": float(score)}
