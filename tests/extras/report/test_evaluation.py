"""Compare `Evaluation` with torchmetrics."""

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from src.data.image_set import ImageSet
from src.extras.report.evaluation import BINS, Evaluation, summarize

TEMPERATURE = 1.7


def evaluate(probabilities, labels, batch=64):
    """Return an `Evaluation` of the predictions, split into batches."""
    classes = tuple(map(str, range(probabilities.shape[1])))
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    predictions = [summarize(part, TEMPERATURE) for part in probabilities.split(batch)]
    return Evaluation("test", ImageSet(images, labels), classes, predictions)


def test_confusion_and_calibration_equal_torchmetrics():
    logits = torch.randn(1000, 7) * torch.rand(1000, 1) * 6
    others = torch.randint(7, (1000,))
    labels = torch.where(torch.rand(1000) < 0.4, logits.argmax(1), others)
    probabilities = logits.softmax(1)
    evaluation = evaluate(probabilities, labels)
    expected = multiclass_confusion_matrix(probabilities, labels, num_classes=7)
    assert torch.equal(evaluation.confusion(), expected)
    before = (logits * TEMPERATURE).softmax(1)
    for calibrated, values in ((True, probabilities), (False, before)):
        error = multiclass_calibration_error(values, labels, num_classes=7, n_bins=BINS, norm="l1")
        assert error > 0.05
        found = evaluation.calibration_error(calibrated)
        assert found == pytest.approx(float(error), abs=1e-5)


def test_mistakes_are_sorted_by_confidence():
    first = torch.tensor([0.9, 0.6, 0.2, 0.7, 0.01])
    probabilities = torch.stack([first, 1 - first], dim=1)
    evaluation = evaluate(probabilities, torch.tensor([1, 1, 0, 0, 1]))
    assert evaluation.confident_mistakes(2).tolist() == [0, 2]
    assert evaluation.confident_mistakes(9).tolist() == [0, 2, 1]
    perfect = evaluate(probabilities, probabilities.argmax(1))
    assert not len(perfect.confident_mistakes(9))
