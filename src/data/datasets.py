"""The named datasets: what is known of each without reading it, and how to read it."""

import contextlib
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm""".split()
)


@dataclass(frozen=True)
class Strokes:
    """How a dataset of light strokes on black was made: what a photo of a digit has to be turned into.

    Args:
        side: longer side of the box around the strokes, in pixels.
        center: what is in the middle of an image, the center of "mass" of the strokes or of their "box".
        pen: width of the strokes, in pixels, below which a quarter of the training images lies; a thinner pen is
            broadened to it.

    Raises:
        InputError: a value is impossible, as can only be in a checkpoint that was altered.
    """

    side: int
    center: str
    pen: float

    def __post_init__(self) -> None:
        if not (
            type(self.side) is int and self.center in ("mass", "box") and 0 <= self.pen <= self.side
        ):
            raise InputError(f"strokes cannot be {asdict(self)}")


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset without reading it.

    Args:
        mean: mean of each channel of the training images, 0 to 1.
        std: their standard deviation, likewise.
        strokes: for light strokes on black, how they were scaled and centered; None for all other images.
    """

    name: str
    image_size: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    strokes: Strokes | None = None

    @property
    def channels(self) -> int:
        return len(self.mean)

    def as_primitives(self) -> dict:
        """Strings, numbers, lists and dicts alone, as they stand in a checkpoint."""
        lists = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        return lists | {"channels": self.channels}


DATASETS = {
    "digits": DatasetInfo("digits", 8, DIGITS, (0.3055,), (0.3754,), Strokes(8, "box", 1.4)),
    "mnist": DatasetInfo("mnist", 28, DIGITS, (0.1307,), (0.3081,), Strokes(20, "mass", 2.0)),
    "fashion_mnist": DatasetInfo("fashion_mnist", 28, CLOTHES, (0.2860,), (0.3530,)),
    "cifar10": DatasetInfo(
        "cifar10", 32, CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    ),
    "cifar100": DatasetInfo(
        "cifar100", 32, CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    ),
}
TORCHVISION = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}
IDX_IMAGES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
}


def read_digits(split: str) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits -> uint8 [N, 1, 8, 8], int64 [N]: the first 1,438 to train on, the last 359 for the test.

    13 people wrote them, one after the other: the test is of people whose hand was not learned from, but perhaps for
    one at the border.
    """
    from sklearn.datasets import load_digits  # half a second to import, for this dataset alone

    digits = load_digits()
    images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    part = slice(1438, None) if split == "test" else slice(1438)
    return images[part], torch.from_numpy(digits.target).long()[part]


def read_torchvision(
    name: str, root: Path, split: str, download: bool = True
) -> tuple[Tensor, Tensor]:
    """Read torchvision's own files under `root`; unless told otherwise, download them when they are not there.

    Returns:
        uint8 images [N, C, H, W] and int64 labels [N].

    Raises:
        InputError: a file is damaged, or cannot be downloaded; it names every place that was tried.
    """
    from torchvision import datasets  # a second to import: not for those who read class folders

    dataset_class = getattr(datasets, TORCHVISION[name])
    if name in ("mnist", "fashion_mnist"):
        place = root / dataset_class.__name__ / "raw"
        _check_idx(place, split)
    else:
        place = root / dataset_class.base_folder
        _check_batches(place, dataset_class)
    made = [folder for folder in (place, place.parent, root) if not folder.exists()]
    try:
        dataset = dataset_class(str(root), train=split == "train", download=download)
    except (
        Exception
    ) as error:  # URLError, RuntimeError, OSError, or whatever a proxy's answer causes
        for (
            folder
        ) in made:  # torchvision makes them before it knows whether there is anything to put in
            with contextlib.suppress(OSError):
                folder.rmdir()
        reason = " ".join(str(error).split())[:200]
        sources = ", ".join(getattr(dataset_class, "mirrors", None) or [dataset_class.url])
        raise InputError(
            f"the dataset {name} was not found in {place}/ nor in {root / name}/{{train,test}}/<class>/, and could not "
            f"be downloaded from {sources} ({reason}); put its files in one of these folders by hand, name another "
            "folder with --data.root, or use --config configs/digits.yaml, which needs no download"
        ) from None
    images, labels = torch.as_tensor(dataset.data), torch.as_tensor(dataset.targets).long()
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    classes = len(DATASETS[name].classes)
    if len(images) != len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"{place}: the {split} files hold {len(images)} images and {len(labels)} labels from {labels.min()} to "
            f"{labels.max()}, where labels 0 to {classes - 1} belong; delete the folder, and it is downloaded again"
        )
    return images, labels


def _check_idx(place: Path, split: str) -> None:
    """Refuse IDX files of the wrong length, which torchvision would only assert, and those of another shape."""
    images, labels, count = IDX_IMAGES[split]
    for name, header, values in (
        (images, struct.pack(">IIII", 2051, count, 28, 28), count * 28 * 28),
        (labels, struct.pack(">II", 2049, count), count),
    ):
        path = place / name
        if not path.exists():
            continue
        size = path.stat().st_size
        if size != len(header) + values:
            what = f"{size} bytes in place of {len(header) + values}"
        elif path.open("rb").read(len(header)) != header:
            what = "it does not begin as it should"
        else:
            continue
        raise InputError(f"{path}: damaged, {what}; delete it to download it again")


def _check_batches(place: Path, dataset_class: type) -> None:
    """Refuse CIFAR batches whose checksum is wrong: they are pickles, and only the originals may be opened."""
    from torchvision.datasets.utils import check_integrity

    names = (dataset_class.meta["filename"], dataset_class.meta["md5"])
    for name, md5 in [*dataset_class.train_list, *dataset_class.test_list, names]:
        if (place / name).exists() and not check_integrity(str(place / name), md5):
            raise InputError(
                f"{place / name}: damaged, its MD5 checksum is wrong; delete it to download it again"
            )
