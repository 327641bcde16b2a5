"""Open a split of a checkpoint's dataset, without Lightning."""

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
    """Return the images of one split, or None if the dataset does not have the split.

    By default, class folders are only listed, and their images are decoded on demand.

    Args:
        dataset: description of the dataset; `dataset.module` determines how it is stored.
        split: name of the split; "val" exists only for your own images, where "val" and "test" are
            optional.
        root: folder that contains the datasets; `dataset.root` by default.
        download: whether to download a named dataset that is missing.
        read_folder: function that reads `folder/<class>/*`.

    Raises:
        InputError: the dataset is unknown, missing or damaged, or does not match its description.
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
    """Return the matching name in `DATASETS`; the `name` in a checkpoint is not trusted."""
    for name, known in DATASETS.items():
        altered = replace(dataset, name=name, root=None, patch_size=None) != known
        if known.module == dataset.module and not altered:
            return name
    raise InputError(
        f"no images are available for dataset {dataset.name!r} (data module {dataset.module!r}); "
        "pass image files instead"
    )
