"""Compare balanced accuracy, precision, recall and F1 with scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from src.training.class_counts import ClassCounts, balanced_accuracy, class_scores


def test_scores_are_those_of_scikit_learn():
    labels = torch.tensor([0] * 20 + [1] * 5 + [2] * 2)  # class 3 has no images
    predicted = torch.randint(4, labels.shape)
    predicted[predicted == 2] = 0  # class 2 is never predicted
    metric = ClassCounts(4)
    for part in (slice(10), slice(10, None)):
        metric.update(predicted[part], labels[part])
    scores = class_scores(*metric.compute())
    expected = precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        np.testing.assert_allclose(scores[name], values, rtol=1e-6)
    never = torch.where(predicted == 3, 0, predicted)
    metric = ClassCounts(4)
    metric.update(never, labels)
    found = balanced_accuracy(class_scores(*metric.compute()))
    assert float(found) == pytest.approx(balanced_accuracy_score(labels, never))
