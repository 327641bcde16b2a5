"""Predict class probabilities for image files, without importing Lightning or torchvision."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from src.data.images import read_image
from src.errors import InputError, is_out_of_memory, one_line, printable
from src.inference.pipeline import ImageClassifier
from src.models.rollout import rollout
from src.runs.checkpoint import Checkpoint
from src.transforms.patchify import normalize

BATCH = 256
DARK = 0.35  # a light border is suspicious if the training images have a lower mean


class PreparedImage(NamedTuple):
    """An image file as the network sees it.

    Attributes:
        image: uint8 [C, image_size, image_size].
        notes: notes for the user about the preprocessing and possible problems.
        box: bounding box (left, top, right, bottom) of a digit in a photo, as fractions of the
            photo's width and height; None for other images.
    """

    image: Tensor
    notes: list[str]
    box: tuple[float, float, float, float] | None = None


class Predictor:
    """A trained network together with the preprocessing it was validated with.

    Args:
        path: checkpoint written by `train.py`.
        device: device name, or "auto" for the first available of CUDA, MPS and CPU.

    Raises:
        InputError: the checkpoint or the device cannot be used.
    """

    def __init__(self, path: str | Path, device: str = "auto"):
        self.checkpoint = Checkpoint.open(path)
        self.dataset = self.checkpoint.dataset
        self.classes = [printable(str(name)) for name in self.dataset.classes]
        self.classifier = ImageClassifier(
            self.checkpoint.build_network(),
            self.dataset.mean,
            self.dataset.std,
            self.checkpoint.temperature,
        ).eval()
        self.device = torch.device("cpu")
        self._check_output()
        self.device = find_device(device)
        self.classifier.to(self.device)

    def _check_output(self) -> None:
        """Classify a blank image, so that altered checkpoints fail early with a one-line error."""
        size, path = self.dataset.image_size, self.checkpoint.path
        blank = torch.zeros(1, self.dataset.channels, size, size, dtype=torch.uint8)
        try:
            result = self.probabilities(blank)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"{path}: prediction failed ({one_line(error)}); train a new network"
            ) from None
        if not result.isfinite().all():
            raise InputError(
                f"{path}: the network returns infinite or NaN values; train a new network"
            )

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return class probabilities, float32 [B, K] on the CPU, of uint8 images [B, C, S, S].

        S is the image size of the dataset.
        """
        return self.classifier(images.to(self.device)).cpu()

    def prepare(self, path: str, invert: bool = False) -> PreparedImage:
        """Read an image file with the preprocessing used in validation.

        Args:
            path: path of the image file.
            invert: whether to swap dark and light.

        Raises:
            InputError: the file cannot be read.
        """
        dataset = self.dataset
        image = read_image(path, dataset.image_size, dataset.channels, dataset.fit)
        notes = []
        if invert:
            image = 255 - image
        elif min(dataset.mean) < DARK and image[:, [0, -1]].float().mean() > 127:
            notes.append(
                "its border is light, but training images have dark borders; try --invert yes"
            )
        return PreparedImage(image, notes)

    @torch.inference_mode()
    def embeddings(self, images: Tensor) -> Tensor:
        """Return the input of the head, float32 [B, D] on the CPU, of uint8 images [B, C, S, S].

        S is the image size of the dataset, and D the width, or the sum of widths of an ensemble.
        """
        network: Any = self.classifier.network
        return network.features(self._normalize(images)).float().cpu()

    @torch.inference_mode()
    def attention(self, images: Tensor) -> Tensor:
        """Return attention rollout maps, float32 [B, S, S] on the CPU, of uint8 [B, C, S, S].

        S is the image size of the dataset.

        Raises:
            InputError: the network has no attention layers.
        """
        return rollout(self.classifier.network, self._normalize(images)).cpu()

    def _normalize(self, images: Tensor) -> Tensor:
        return normalize(images.to(self.device), self.dataset.mean, self.dataset.std)

    def top(self, images: Tensor, k: int) -> list[list[dict[str, Any]]]:
        """Return the `k` most likely classes of every image, most likely first.

        Each class is a dict `{"index", "class", "probability"}`.
        """
        rows = []
        for batch in images.split(BATCH):
            values, indices = self.probabilities(batch).topk(min(k, len(self.classes)), dim=1)
            rows += [
                [
                    {"index": index, "class": self.classes[index], "probability": round(value, 6)}
                    for value, index in zip(*row, strict=True)
                ]
                for row in zip(values.tolist(), indices.tolist(), strict=True)
            ]
        return rows


def find_device(name: str) -> torch.device:
    """Return the device with the given name; `auto` prefers CUDA, then MPS.

    Raises:
        InputError: the device is not available.
    """
    if name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else mps
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()  # "meta" exists but cannot compute
    except Exception as error:  # the exception type depends on the device
        reason = one_line(str(error).split("\n")[0], limit=120)
        raise InputError(f"device {name!r} is not available ({reason}); use --device cpu") from None
    return device
