"""Some images to try a trained network on: real ones where its dataset is on this machine; needs no Lightning."""

from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from src.data.datasets import read_digits, read_torchvision
from src.data.images import EXTENSIONS, read_image
from src.errors import InputError

TORCHVISION_FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}


def sample_images(dataset: dict, count: int, root: str | None = None) -> tuple[Tensor, str]:
    """Images as the network of a checkpoint reads them, and a few words that say what they are.

    Where the dataset is not on this machine, they are generated; it is not downloaded for them.

    Args:
        dataset: the dataset in plain primitives, as it stands in a checkpoint.
        count: how many; fewer where there are not so many.
        root: where to look, if not as in training.

    Returns:
        uint8 [count, C, S, S], test images before any others.

    Raises:
        InputError: the dataset is there, but damaged.
    """
    name, place = str(dataset.get("name")), Path(root or str(dataset.get("root")))
    is_folder = dataset.get("module") == "FolderDataModule"
    for split in ("test", "val", "train"):
        folder = (place if is_folder else place / name) / split
        if images := list(islice(_from_folder(folder, dataset), count)):
            return torch.stack(images), f"images of {folder}"
    if name == "digits" and not is_folder:
        return read_digits("test")[0][:count], "test images of digits"
    if (
        name in TORCHVISION_FOLDERS
        and not is_folder
        and (place / TORCHVISION_FOLDERS[name]).is_dir()
    ):
        return read_torchvision(name, place, "test")[0][:count], f"test images of {name}"
    return _generated(dataset, count), f"generated images, because {name} is not in {place},"


def _from_folder(folder: Path, dataset: dict) -> Iterator[Tensor]:
    """The images of `folder/<class>/*` that can be read, one of each class by turns."""
    files = [sorted((folder / str(name)).glob("[!.]*")) for name in dataset["classes"]]
    for path in (path for turn in zip_longest(*files) for path in turn):
        if path and path.suffix.lower() in EXTENSIONS:
            try:
                yield read_image(path, dataset["image_size"], dataset["channels"])
            except InputError:
                continue  # the training may have left it out, too (`data.skip_broken`)


def _generated(dataset: dict, count: int) -> Tensor:
    """Noise from coarse to fine, over the whole range of brightness."""
    generator, size, channels = (
        torch.Generator().manual_seed(0),
        dataset["image_size"],
        dataset["channels"],
    )
    grids = [
        torch.rand(1, channels, side, side, generator=generator)
        for side in torch.linspace(2, size, count).int()
    ]
    return torch.cat(
        [F.interpolate(grid, size=(size, size), mode="bilinear").mul(255).byte() for grid in grids]
    )
