"""Open a split of the dataset that a checkpoint describes, without Lightning."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from src.config import DatasetInfo
from src.data.datasets import DATASETS, read_digits, read_torchvision
from src.data.folders import list_folder
from src.data.image_set import ImageSet
from src.errors import InputError

OWN_IMAGES = "FolderDataModule"
Split = Literal["train", "val", "test"]


def open_split(
    dataset: DatasetInfo,
    split: Split,
    *,
    root: str | Path | None = None,
    download: bool = False,
    read_folder: Callable[[Path, DatasetInfo], ImageSet] = list_folder,
) -> ImageSet | None:
    """Return the images of one split, or None where the dataset has no such split.

    Class folders are only listed: their images are decoded when they are asked for.

    Args:
        dataset: description of the dataset; `dataset.module` says how it is stored.
        split: named datasets have no "val"; folders of your own may lack "val" and "test".
        root: folder of the datasets, if not `dataset.root`.
        download: download a named dataset that is missing.
        read_folder: reads `folder/<class>/*`.

    Raises:
        InputError: the dataset is unknown, missing or damaged, or does not fit its description.
    """
    place = Path(root or dataset.root or "data")
    if dataset.module == OWN_IMAGES:
        folder = place / split
        if split != "train" and place.is_dir() and not folder.is_dir():
            return None
        return read_folder(folder, dataset)

    name = _name_of(dataset)
    if split == "val":
        return None
    if name == "digits":
        return ImageSet(*read_digits(split))
    if (place / name).is_dir():
        return read_folder(place / name / split, dataset)
    return ImageSet(*read_torchvision(name, place, split, download))


def _name_of(dataset: DatasetInfo) -> str:
    """Return the name of the dataset in the table; a checkpoint's own `name` is not trusted."""
    for name, known in DATASETS.items():
        altered = replace(dataset, name=name, root=None, patch_size=None) != known
        if known.module == dataset.module and not altered:
            return name
    raise InputError(
        f"the images of dataset {dataset.name!r} are unknown (data module {dataset.module!r}); "
        "name image files instead"
    )
