"""Collect the predictions of a test, and write predictions.csv."""

import csv
import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from src.data.image_set import ImageSet
from src.data.sampling import Share
from src.errors import without_formula
from src.runs.atomic import write_atomically

Predictions = dict[int, tuple[float, int]]  # {image: (probability, class)}


class CollectPredictions(Callback):
    """Collect the predicted class and its probability for every test image."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []

    def on_test_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *batch: Any) -> None:
        self.batches.append(module.probabilities(outputs).max(dim=1))

    def gather(self, trainer: Trainer, share: Share) -> Predictions:
        """Return the predictions of all processes; `share` holds the indices of this process."""
        pairs = [zip(p.tolist(), c.tolist(), strict=True) for p, c in self.batches]
        own = dict(zip(share, (pair for batch in pairs for pair in batch), strict=False))
        parts: list[Any] = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(parts, own)
        return {index: pair for part in parts for index, pair in part.items()}


def write_predictions(
    run: Path, images: ImageSet, classes: tuple[str, ...], predictions: Predictions
) -> None:
    """Write one row per image: path or index, true class, predicted class, and its probability."""
    text = io.StringIO()
    # Class names and paths are not trusted; Python 3.11 quotes cells with "\r" only in this mode.
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(["image", "true", "predicted", "probability"])
    labels = images.labels.tolist()
    for index, (probability, predicted) in sorted(predictions.items()):
        cells = [images.name(index), classes[labels[index]], classes[predicted]]
        writer.writerow([*map(without_formula, cells), round(probability, 6)])
    # File names may be invalid UTF-8.
    write_atomically(run / "predictions.csv", text.getvalue().encode(errors="backslashreplace"))
