"""Describe the named datasets, and read their original files."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.config import DatasetInfo
from src.errors import InputError, one_line

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
    folder = getattr(dataset_class, "base_folder", f"{dataset_class.__name__}/raw")
    try:
        # CIFAR's files are pickles, which can run code; torchvision verifies their checksums first.
        dataset = dataset_class(str(root), train=split == "train", download=download)
    except Exception as error:  # URLError, RuntimeError, OSError; proxies can cause others
        tried = ""
        if download:
            sources = ", ".join(getattr(dataset_class, "mirrors", None) or [dataset_class.url])
            tried = f", and could not be downloaded from {sources}"
        raise InputError(
            f"the dataset {name} could not be read from {root / folder}/ or "
            f"{root / name}/{{train,test}}/<class>/{tried} ({one_line(error) or 'damaged files'}); "
            "put its files in one of these folders, delete damaged files, choose a different "
            "folder with --data.root (train.py) or --data (classify.py), or train with "
            "--config configs/digits.yaml, which needs no download"
        ) from None
    images = torch.as_tensor(dataset.data)
    labels = torch.as_tensor(dataset.targets).long()
    if len(images) != len(labels) or labels.max() >= len(dataset.classes):
        raise InputError(
            f"{root / folder}: damaged (the labels do not match the images or the classes); delete "
            "the folder to download it again"
        )
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, labels
