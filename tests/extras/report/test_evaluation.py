"""What is said of a network's answers, compared with torchmetrics and with counting by hand."""

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from src.data.folders import ImageSet
from src.extras.report.evaluation import BINS, Answers, Evaluation


def evaluation(probabilities, labels, batch=64):
    classes = [str(k) for k in range(probabilities.shape[1])]
    answers = Answers()
    for part in probabilities.split(batch):
        answers.add(part)
    return Evaluation(
        "test",
        ImageSet(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels),
        classes,
        answers,
    )


@pytest.fixture
def random():
    """Probabilities of 1,000 answers of every confidence, right about half of the time."""
    logits = torch.randn(1000, 7) * torch.rand(1000, 1) * 6
    labels = torch.where(torch.rand(1000) < 0.4, logits.argmax(1), torch.randint(7, (1000,)))
    return logits.softmax(1), labels


def test_confusion_and_calibration_are_those_of_torchmetrics(random):
    found = evaluation(*random)
    assert torch.equal(found.confusion(), multiclass_confusion_matrix(*random, num_classes=7))
    expected = multiclass_calibration_error(*random, num_classes=7, n_bins=BINS, norm="l1")
    assert found.calibration_error() == pytest.approx(float(expected), abs=1e-6)
    assert float(expected) > 0.05


def test_calibration_by_hand():
    probabilities = torch.tensor(
        [[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]]
    )
    found = evaluation(probabilities, torch.tensor([0, 0, 0, 1, 1, 1]))
    count, confidence, accuracy = found.reliability()
    assert count.tolist() == [0] * 9 + [1, 0, 0, 0, 4, 1]  # 0.6 opens a bin; 1 lies in the last
    assert accuracy[13] == pytest.approx(3 / 4) and confidence[13] == pytest.approx(0.9)
    assert found.calibration_error() == pytest.approx((4 * 0.15 + 0.4 + 0) / 6, abs=1e-6)


def test_surest_mistakes_come_first_and_no_right_answer_does():
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.01, 0.99]])
    found = evaluation(probabilities, torch.tensor([1, 1, 0, 0, 1]))
    assert found.surest_mistakes(2).tolist() == [0, 2]
    assert found.surest_mistakes(9).tolist() == [0, 2, 1]
    assert not len(evaluation(probabilities, probabilities.argmax(1)).surest_mistakes(9))


def test_answers_to_the_first_images_only(random):
    probabilities, labels = random
    found = evaluation(probabilities[:10], labels)
    assert len(found) == 10 and int(found.confusion().sum()) == 10
    assert torch.equal(found.right, probabilities[:10].argmax(1) == labels[:10])
