"""Sample images for checking a network: images of its dataset, or generated ones."""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor

from src.config import DatasetInfo
from src.data.image_set import ImageSet
from src.data.splits import Split, open_split
from src.errors import InputError

SPLITS: tuple[Split, ...] = ("test", "val", "train")


def sample_images(dataset: DatasetInfo, count: int, root: str | None = None) -> tuple[Tensor, str]:
    """Return images of a dataset and a description of them.

    Images are generated if the dataset cannot be read. Nothing is downloaded.

    Args:
        dataset: description of the dataset, from a checkpoint.
        count: number of images; fewer are returned if the dataset is smaller.
        root: dataset folder; None selects the folder used in training.

    Returns:
        Images, uint8 [count, C, S, S] (test images if available), and their description.
    """
    reason = "the dataset has no readable images"
    try:
        for split in SPLITS:
            images = open_split(dataset, split, root=root)
            if images and (chosen := _read(images, count)):
                return torch.stack(chosen), f"{split} images of {dataset.name}"
    except InputError as error:
        reason = str(error).split("; ")[0]
    return _generate(dataset, count), f"generated images ({reason})"


def _read(images: ImageSet, count: int) -> list[Tensor]:
    """Return the first readable images of each class, interleaved by class."""
    by_class = images.labels.argsort(stable=True)
    counts = images.labels.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.arange(len(images)) - starts[images.labels[by_class]]
    chosen: list[Tensor] = []
    for index in by_class[ranks.argsort(stable=True)].tolist():
        if len(chosen) == count:
            break
        with contextlib.suppress(InputError):  # damaged files, which training can also skip
            chosen.append(images.__getitems__([index])[0][0])
    return chosen


def _generate(dataset: DatasetInfo, count: int) -> Tensor:
    """Return noise over the full brightness range.

    The noise is symmetric and has a black border, so that an exported network for handwritten
    digits neither shifts nor inverts it.
    """
    generator = torch.Generator().manual_seed(0)
    inside = dataset.image_size - 2
    noise = torch.rand(count, dataset.channels, inside, inside, generator=generator)
    noise = torch.maximum(noise, noise.flip(2, 3))
    return F.pad(noise, [1] * 4).mul(255).byte()
