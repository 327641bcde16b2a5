"""Compare predictions with labels: confusion matrix, most confident mistakes, calibration."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from src.cli.parser import parse
from src.data.image_set import ImageSet
from src.errors import InputError
from src.inference.predictor import Predictor
from src.runs.directory import find_checkpoint
from src.runs.results import read_results

BINS = 15  # confidence bins, as in Guo et al. 2017
BATCH = 500  # batch size

# One entry per batch; see `summarize`.
Predictions = list[tuple[Tensor, Tensor, Tensor]]


def summarize(probabilities: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return the confidence, the predicted class, and the confidence without the temperature.

    Args:
        probabilities: float32 [B, K], calibrated with the temperature.
        temperature: temperature of the network.
    """
    confidence, predicted = probabilities.max(dim=1)
    uncalibrated = (probabilities.log() * temperature).softmax(dim=1)
    return confidence, predicted, uncalibrated.amax(dim=1)


class Evaluation:
    """Predictions for a set of labeled images.

    Args:
        kind: "test" or "validation".
        images: M >= N images; the predictions are for the first N.
        classes: names of the K classes.
        predictions: predictions for N >= 1 images, in the order of `images`; on any device.
    """

    def __init__(
        self,
        kind: str,
        images: ImageSet,
        classes: tuple[str, ...],
        predictions: Predictions,
    ):
        self.kind = kind
        self.images = images
        self.classes = classes
        columns = (torch.cat(column).cpu() for column in zip(*predictions, strict=True))
        self.confidence, self.predicted, self.uncalibrated = columns
        self.labels = images.labels[: len(self.predicted)]
        self.correct = self.predicted == self.labels

    def __len__(self) -> int:
        return len(self.predicted)

    def confusion(self) -> Tensor:
        """Return the confusion matrix, int64 [K, K]: rows are true classes, columns predictions."""
        k = len(self.classes)
        cells = self.labels * k + self.predicted
        return cells.bincount(minlength=k * k).view(k, k)

    def confident_mistakes(self, n: int) -> Tensor:
        """Return the indices of the `n` most confident mistakes, sorted by confidence."""
        wrong = (~self.correct).nonzero().flatten()
        order = self.confidence[wrong].argsort(descending=True, stable=True)
        return wrong[order[:n]]

    def reliability(self, calibrated: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Return the count, mean confidence and accuracy of each confidence bin, each [BINS].

        Bins have equal width. The confidence and accuracy of empty bins are 0.
        """
        confidences = self.confidence if calibrated else self.uncalibrated
        bins = (confidences * BINS).long().clamp(max=BINS - 1)
        count = bins.bincount(minlength=BINS)
        divisor = count.clamp(min=1)
        confidence = bins.bincount(confidences.double(), minlength=BINS)
        accuracy = bins.bincount(self.correct.double(), minlength=BINS)
        return count, confidence / divisor, accuracy / divisor

    def calibration_error(self, calibrated: bool = True) -> float:
        """Return the expected calibration error: the mean gap between accuracy and confidence.

        Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, eq. 3.
        """
        count, confidence, accuracy = self.reliability(calibrated)
        gaps = (accuracy - confidence).abs()
        return float((count * gaps).sum() / count.sum())


def evaluate(run: Path) -> Evaluation | None:
    """Evaluate a run on its test images, or on its validation images if it has not been tested.

    Predictions come from the run's best checkpoint, in float32 regardless of the run's precision.

    Returns:
        The evaluation, or None if that split has no images.

    Raises:
        InputError: the run, its checkpoint or its dataset cannot be read.
    """
    predictor = Predictor(find_checkpoint(str(run)))
    dataset = predictor.dataset
    data = parse(["--resume", str(run)]).data
    if replace(data.info, root=dataset.root) != dataset:
        raise InputError(
            f"{run / 'config.yaml'}: the dataset differs from the one the network was trained on; "
            "restore the file and the dataset"
        )
    count = read_results(run).get("test_images")
    tested = count if isinstance(count, int) and count > 0 else None
    data.setup("test" if tested else "fit")
    images = data.sets["test" if tested else "val"]
    if not images:
        return None
    predictions: Predictions = []
    for batch in torch.arange(len(images))[:tested].split(BATCH):
        pixels, _ = images.__getitems__(batch)
        probabilities = predictor.probabilities(pixels)
        predictions.append(summarize(probabilities, predictor.checkpoint.temperature))
    return Evaluation("test" if tested else "validation", images, dataset.classes, predictions)
