"""Predict class probabilities of image files; needs neither Lightning nor torchvision."""

import contextlib
from collections.abc import Iterator
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
NEARLY_BLACK = 17  # of 255: the most that 12 bits in an undeclared 16-bit file reach
DARK = 0.35  # mean of the training images below which a light border is suspicious


class PreparedImage(NamedTuple):
    """An image file as the network sees it.

    Attributes:
        image: uint8 [C, image_size, image_size].
        notes: sentences for the user about what was done or looks wrong.
        box: left, top, right and bottom of a digit in a photo, as fractions of its sides.
    """

    image: Tensor
    notes: list[str]
    box: tuple[float, float, float, float] | None = None


class Predictor:
    """A trained network together with the preprocessing it was validated with.

    Args:
        path: checkpoint that `train.py` wrote.
        device: a device's name, or "auto" for the first of CUDA, MPS and CPU that exists.

    Raises:
        InputError: the checkpoint or the device cannot be used.
    """

    def __init__(self, path: str | Path, device: str = "auto"):
        self.checkpoint = Checkpoint.open(path)
        self.dataset = self.checkpoint.dataset
        self.classes = [printable(str(name)) for name in self.dataset.classes]
        network = self.checkpoint.build_network()
        self.classifier = ImageClassifier(network, self.dataset.mean, self.dataset.std).eval()
        self.device = torch.device("cpu")
        self._check_output()
        chosen = find_device(device)
        with report_out_of_memory(chosen, "the network"):
            self.classifier.to(chosen)
        self.device = chosen

    def _check_output(self) -> None:
        """Predict one blank image, so that an altered checkpoint fails here and in one line."""
        size, path = self.dataset.image_size, self.checkpoint.path
        blank = torch.zeros(1, self.dataset.channels, size, size, dtype=torch.uint8)
        try:
            result = self.probabilities(blank)
        except Exception as error:
            if is_out_of_memory(error):
                raise InputError(f"{path}: out of memory; close other programs") from None
            raise InputError(
                f"{path}: its network does not work ({one_line(error)}); train again"
            ) from None
        if not result.isfinite().all():
            raise InputError(f"{path}: its network gives infinite or NaN values; train again")

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 [B, C, image_size, image_size] -> float32 [B, K] on the CPU; rows sum to 1."""
        return self.classifier(images.to(self.device)).cpu()

    def prepare(self, path: str, invert: bool = False) -> PreparedImage:
        """Read an image file as in validation.

        Args:
            path: the image file.
            invert: swap dark and light.

        Raises:
            InputError: the file cannot be read.
        """
        image = read_image(path, self.dataset.image_size, self.dataset.channels)
        notes = []
        if image.max() < NEARLY_BLACK:
            notes.append(
                "it is nearly black; if it has 10 or 12 bits in a 16-bit file, save it with 8 bits"
            )
        if invert:
            image = 255 - image
        elif min(self.dataset.mean) < DARK and image[:, [0, -1]].float().mean() > 127:
            notes.append(
                "its border is light, that of the training images is dark; try --invert yes"
            )
        return PreparedImage(image, notes)

    def read(self, paths: list[str]) -> Tensor:
        """Image files -> uint8 [B, C, image_size, image_size], prepared as in validation."""
        return torch.stack([self.prepare(path).image for path in paths])

    @torch.inference_mode()
    def attention(self, images: Tensor) -> Tensor:
        """uint8 [B, C, image_size, image_size] -> attention rollout, float32 [B, S, S] on the CPU.

        Raises:
            InputError: the network has no attention.
        """
        inputs = normalize(images.to(self.device), self.dataset.mean, self.dataset.std)
        return rollout(self.classifier.network, inputs).cpu()

    def top(self, images: Tensor, k: int) -> list[list[dict[str, Any]]]:
        """Return the `k` likeliest classes of every image, likeliest first.

        A class is `{"index", "class", "probability"}`.
        """
        rows = []
        for batch in images.split(BATCH):
            with report_out_of_memory(self.device, f"{len(batch)} images"):
                values, indices = self.probabilities(batch).topk(min(k, len(self.classes)), dim=1)
            rows += [
                [
                    {"index": index, "class": self.classes[index], "probability": round(value, 6)}
                    for value, index in zip(*row, strict=True)
                ]
                for row in zip(values.tolist(), indices.tolist(), strict=True)
            ]
        return rows


@contextlib.contextmanager
def report_out_of_memory(device: torch.device, what: str) -> Iterator[None]:
    """Raise InputError if the block runs out of memory on the device."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        remedy = "close other programs" if device.type == "cpu" else "use --device cpu"
        raise InputError(f"out of memory on {device} for {what}; {remedy}") from None


def find_device(name: str) -> torch.device:
    """Return the device of that name; `auto` prefers CUDA, then MPS.

    Raises:
        InputError: the device cannot compute here.
    """
    if name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else mps
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()  # "meta" exists, but cannot compute
    except Exception as error:  # AssertionError, RuntimeError or NotImplementedError, by device
        reason = one_line(str(error).split("\n")[0], limit=120)
        raise InputError(
            f"device {name!r} cannot be used here ({reason}); use --device cpu"
        ) from None
    return device
