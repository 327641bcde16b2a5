"""Sample images for checking a network, taken from its dataset or generated."""

import torch
from torch import Tensor

from src.config import DatasetInfo
from src.data.splits import Split, open_split
from src.errors import InputError

SPLITS: tuple[Split, ...] = ("test", "train")


def sample_images(dataset: DatasetInfo, count: int, root: str | None = None) -> tuple[Tensor, str]:
    """Return evenly spaced images of a dataset, and a description of them.

    Noise is returned if the dataset cannot be read. Nothing is downloaded.

    Args:
        dataset: description of the dataset, from a checkpoint.
        count: number of images; fewer are returned if the dataset is smaller.
        root: dataset folder; None selects the folder used in training.

    Returns:
        Images, uint8 [count, C, S, S] (test images if available), and their description.
    """
    reason = "the dataset has no images"
    try:
        for split in SPLITS:
            images = open_split(dataset, split, root=root)
            if images:
                rows = torch.linspace(0, len(images) - 1, count).long().unique()
                return images.__getitems__(rows)[0], f"{split} images of {dataset.name}"
    except InputError as error:
        reason = str(error).split("; ")[0]
    generator = torch.Generator().manual_seed(0)
    shape = (count, dataset.channels, dataset.image_size, dataset.image_size)
    noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return noise, f"generated images ({reason})"
