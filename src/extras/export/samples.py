"""Images to try a trained network on: some of its dataset, or generated ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

from src.config import DatasetInfo
from src.data.image_set import ImageSet
from src.data.splits import Split, open_split
from src.errors import InputError

SPLITS: tuple[Split, ...] = ("test", "val", "train")


def sample_images(dataset: DatasetInfo, count: int, root: str | None = None) -> tuple[Tensor, str]:
    """Return images of a dataset, spread over its classes, and a description of them.

    Images are generated if the dataset cannot be read here; it is not downloaded.

    Args:
        dataset: the dataset of a checkpoint.
        count: number of images; fewer if the dataset has fewer.
        root: folder of the datasets, if not as in training.

    Returns:
        uint8 [count, C, S, S]; test images if there are any.
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
    """Return the first readable images, class by class in turn."""
    chosen: list[Tensor] = []
    for index in _interleave(images.labels).tolist():
        if len(chosen) == count:
            break
        try:
            image, _ = images.__getitems__([index])
        except InputError:
            continue  # training may have left it out as well (`data.skip_broken`)
        chosen.append(image[0])
    return chosen


def _interleave(labels: Tensor) -> Tensor:
    """Return indices of all images: the first of each class, then the second of each, ..."""
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.arange(len(labels)) - starts[labels[by_class]]
    return by_class[ranks.argsort(stable=True)]


def _generate(dataset: DatasetInfo, count: int) -> Tensor:
    """Return noise from coarse to fine, over the whole range of brightness.

    It is symmetric and has a black border, so that an exported network of digits neither shifts
    nor inverts it.
    """
    generator = torch.Generator().manual_seed(0)
    size, channels = dataset.image_size, dataset.channels
    images = []
    for side in torch.linspace(2, size, count).int().tolist():
        grid = torch.rand(1, channels, side, side, generator=generator)
        images.append(F.interpolate(grid, size=(size, size), mode="bilinear"))
    noise = torch.cat(images)
    noise = torch.maximum(noise, noise.flip(2, 3))
    noise[:, :, [0, -1]] = 0
    noise[:, :, :, [0, -1]] = 0
    return noise.mul(255).byte()
