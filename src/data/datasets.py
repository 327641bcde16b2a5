"""Describe the named datasets, and read their original files."""

import math
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.config import DatasetInfo
from src.errors import InputError

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
CIFAR100 = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
)

# Name, torchvision class, class names, image size, mean and std of the training images.
_ROWS = (
    ("digits", "Digits", DIGITS, 8, (0.3055,), (0.3754,)),
    ("mnist", "MNIST", DIGITS, 28, (0.1307,), (0.3081,)),
    ("fashion_mnist", "FashionMNIST", CLOTHES, 28, (0.2860,), (0.3530,)),
    ("cifar10", "CIFAR10", CIFAR10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ("cifar100", "CIFAR100", CIFAR100, 32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
)
DATASETS = {
    name: DatasetInfo(
        name=name,
        module=f"{kind}DataModule",
        classes=classes,
        image_size=image_size,
        channels=len(mean),
        mean=mean,
        std=std,
    )
    for name, kind, classes, image_size, mean, std in _ROWS
}
TORCHVISION = {name: kind for name, kind, *_ in _ROWS if name != "digits"}
IDX_FILES = {"train": ("train", 60_000), "test": ("t10k", 10_000)}


def read_digits(split: str) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits: uint8 [N, 1, 8, 8], int64 [N].

    The images are grouped by writer (13 people). The first 1,438 are training images and the last
    359 are test images, so at most one writer contributed to both.
    """
    from sklearn.datasets import load_digits  # takes half a second to import

    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().byte()[:, None]
    labels = torch.from_numpy(digits.target).long()
    part = slice(1438, None) if split == "test" else slice(1438)
    return images[part], labels[part]


def read_torchvision(
    name: str, root: Path, split: str, download: bool = True
) -> tuple[Tensor, Tensor]:
    """Read a dataset from torchvision's files under `root`; by default, download missing files.

    Returns:
        uint8 images [N, C, H, W] and int64 labels [N].

    Raises:
        InputError: a file is damaged or was not found; the message lists the folders searched.
    """
    from torchvision import datasets  # takes a second to import

    dataset_class: Any = getattr(datasets, TORCHVISION[name])
    if name in ("mnist", "fashion_mnist"):
        place = root / dataset_class.__name__ / "raw"
        _check_idx(place, split)
    else:
        place = root / dataset_class.base_folder
        _check_batches(place, dataset_class)
    try:
        dataset = dataset_class(str(root), train=split == "train", download=download)
    except Exception as error:  # URLError, RuntimeError, OSError; proxies can cause others
        reason = ""
        if download:
            sources = ", ".join(getattr(dataset_class, "mirrors", None) or [dataset_class.url])
            cause = " ".join(str(error).split())[:200]
            reason = f", and could not be downloaded from {sources} ({cause})"
        raise InputError(
            f"the dataset {name} was not found in {place}/ or "
            f"{root / name}/{{train,test}}/<class>/{reason}; put its files in one of these "
            "folders, choose a different folder with --data.root, or use --config "
            "configs/digits.yaml, which needs no download"
        ) from None
    images = torch.as_tensor(dataset.data)
    labels = torch.as_tensor(dataset.targets).long()
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    classes = len(DATASETS[name].classes)
    if labels.max() >= classes:
        raise InputError(
            f"{place}: damaged (it has a {split} label of {labels.max()}, but there are only "
            f"{classes} classes); delete the folder to download it again"
        )
    return images, labels


def _check_idx(place: Path, split: str) -> None:
    """Reject IDX files with an unexpected size or shape; torchvision checks only with `assert`."""
    prefix, count = IDX_FILES[split]
    headers = {
        f"{prefix}-images-idx3-ubyte": (2051, count, 28, 28),
        f"{prefix}-labels-idx1-ubyte": (2049, count),
    }
    for name, numbers in headers.items():
        path = place / name
        header = struct.pack(f">{len(numbers)}I", *numbers)
        size = len(header) + math.prod(numbers[1:])
        if not path.exists():
            continue
        with path.open("rb") as file:
            if file.read(len(header)) == header and path.stat().st_size == size:
                continue
        raise InputError(
            f"{path}: damaged (it should have {size} bytes and an IDX header for {count} items); "
            "delete it to download it again"
        )


def _check_batches(place: Path, dataset_class: Any) -> None:
    """Reject CIFAR files with an invalid checksum, because they are pickles and can run code."""
    from torchvision.datasets.utils import check_integrity

    meta = (dataset_class.meta["filename"], dataset_class.meta["md5"])
    for name, md5 in [*dataset_class.train_list, *dataset_class.test_list, meta]:
        path = place / name
        if path.exists() and not check_integrity(str(path), md5):
            raise InputError(
                f"{path}: damaged (MD5 checksum mismatch); delete it to download it again"
            )
