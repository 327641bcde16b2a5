"""Open a split of a checkpoint's dataset, without Lightning."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from src.config import DatasetInfo
from src.data.datasets import DATASETS, read_digits, read_torchvision
from src.data.folders import open_files
from src.data.image_set import ImageSet
from src.data.layouts import list_own_images
from src.data.listing import Listing, Split, find_split, list_images
from src.errors import InputError

OWN_IMAGES = "FolderDataModule"


def open_split(
    dataset: DatasetInfo,
    split: Split,
    *,
    root: str | Path | None = None,
    download: bool = False,
    read_files: Callable[[Listing, DatasetInfo], ImageSet] = open_files,
) -> ImageSet | None:
    """Return the images of one split, or None if the dataset does not have the split.

    By default, image files are only listed, and decoded on demand.

    Args:
        dataset: description of the dataset; `dataset.module` determines how it is stored.
        split: name of the split; "val" exists only for your own images, where "val" and "test" are
            optional.
        root: folder that contains the datasets, or any layout of your own images;
            `dataset.root` by default.
        download: whether to download a named dataset that is missing.
        read_files: function that reads the listed images.

    Raises:
        InputError: the dataset is unknown, missing or damaged, or does not match its description.
    """
    place = Path(root or dataset.root or "data")
    if dataset.module == OWN_IMAGES:
        listing = list_own_images(place, split, dataset.classes)
        return read_files(listing, dataset) if listing else None

    name = _name_of(dataset)
    if split == "val":
        return None
    if name == "digits":
        return ImageSet(*read_digits(split))
    if (place / name).is_dir():
        folder = find_split(place / name, split) or place / name / split
        return read_files(list_images(folder, dataset.classes, split), dataset)
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
