"""What a network answered about images whose classes are known: its mistakes, and how far it can be trusted."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from src.data.folders import ImageSet

BINS = 15  # of the confidence, as in the paper on calibration


@dataclass
class Answers:
    """The answers to N images, gathered batch by batch; on the device they came from, so that nothing waits for it."""

    predicted: list[Tensor] = field(default_factory=list)  # int64 [B]
    confidence: list[Tensor] = field(
        default_factory=list
    )  # float32 [B], the probability of the predicted class

    def add(self, probabilities: Tensor) -> None:
        """float32 [B, K]"""
        confidence, predicted = probabilities.max(dim=1)
        self.predicted.append(predicted)
        self.confidence.append(confidence)


class Evaluation:
    """Answers beside the truth.

    Args:
        split: "test" or "val", the images that were asked about.
        images: those images; where there are more of them than answers, the answers are to the first.
        classes: names of the K classes.
        answers: in the order of the images.
    """

    def __init__(self, split: str, images: ImageSet, classes: list[str], answers: Answers):
        self.split, self.images, self.classes = split, images, classes
        self.predicted = torch.cat(answers.predicted).cpu()
        self.confidence = torch.cat(answers.confidence).cpu()
        self.labels = images.labels[: len(self.predicted)]
        self.right = self.predicted == self.labels

    def __len__(self) -> int:
        return len(self.predicted)

    def confusion(self) -> Tensor:
        """int64 [K, K]: how many images of a class (row) were taken for which (column)."""
        k = len(self.classes)
        return (self.labels * k + self.predicted).bincount(minlength=k * k).view(k, k)

    def surest_mistakes(self, n: int) -> Tensor:
        """int64, at most n: the images of the wrong answers, the most confident first."""
        wrong = (~self.right).nonzero().flatten()
        return wrong[self.confidence[wrong].argsort(descending=True, stable=True)[:n]]

    def reliability(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, mean confidence and accuracy, [BINS] each, by the confidence in bins of one width; 0 where empty."""
        bins = (self.confidence * BINS).long().clamp(max=BINS - 1)
        count = bins.bincount(minlength=BINS)
        sums = [
            bins.bincount(values.double(), minlength=BINS)
            for values in (self.confidence, self.right)
        ]
        confidence, accuracy = (total / count.clamp(min=1) for total in sums)
        return count, confidence, accuracy

    def calibration_error(self) -> float:
        """Expected calibration error: the mean distance of accuracy and confidence, 0 to 1.

        Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, eq. 3.
        """
        count, confidence, accuracy = self.reliability()
        return float((count * (accuracy - confidence).abs()).sum() / count.sum())
