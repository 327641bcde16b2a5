"""Write the pooled features of many images for `--embeddings`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.errors import InputError
from src.inference.batch import BATCH
from src.inference.predictor import Predictor
from src.runs.atomic import open_atomically


class Embeddings:
    """The features of images (see `Predictor.embeddings`), computed in batches."""

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        self.paths: list[str] = []
        self.features: list[Tensor] = []
        self.waiting: list[Tensor] = []

    def add(self, path: str, image: Tensor) -> None:
        """Add the path and the content of an image, uint8 [C, S, S]."""
        self.paths.append(path)
        self.waiting.append(image)
        if len(self.waiting) == BATCH:
            self._compute()

    def _compute(self) -> None:
        self.features.append(self.predictor.embeddings(torch.stack(self.waiting)))
        self.waiting.clear()

    def write(self, path: str) -> None:
        """Write an .npz file with `embeddings`, float32 [N, D], and `paths`, str [N].

        Raises:
            InputError: there are no images, or the file cannot be written.
        """
        if not self.paths:
            raise InputError(f"{path}: not written because no image could be read; check the files")
        if self.waiting:
            self._compute()
        features = torch.cat(self.features).numpy()
        with open_atomically(Path(path)) as file:
            np.savez(file, embeddings=features, paths=np.array(self.paths))
