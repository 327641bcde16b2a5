"""Count images and predictions of each class, for balanced accuracy, precision, recall and F1."""

import torch
from torch import Tensor
from torchmetrics import Metric


class ClassCounts(Metric):
    """Number of images, predictions and correct predictions of each of K classes, int64 [3, K].

    The metrics in torchmetrics count all pairs of classes, and every update waits for the device.
    """

    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        zeros = torch.zeros(3, classes, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Count a batch: predicted and true classes, each int64 [B]."""
        hits = (predicted == labels).long()
        ones = torch.ones_like(hits)
        self.counts[0].scatter_add_(0, labels, ones)
        self.counts[1].scatter_add_(0, predicted, ones)
        self.counts[2].scatter_add_(0, labels, hits)

    def compute(self) -> Tensor:
        return self.counts


def class_scores(images: Tensor, predicted: Tensor, correct: Tensor) -> dict[str, Tensor]:
    """Return the image count, precision, recall and F1 of each class, each [K].

    A score without images or predictions is 0. All arguments are int64 [K].
    """
    return {
        "images": images,
        "precision": correct / predicted.clamp(min=1),
        "recall": correct / images.clamp(min=1),
        "f1": 2 * correct / (images + predicted).clamp(min=1),
    }


def balanced_accuracy(scores: dict[str, Tensor]) -> Tensor:
    """Return the mean recall of the classes that have images."""
    return scores["recall"][scores["images"] > 0].mean()
