"""List your own images: class folders, a table of paths and labels, or a Hugging Face dataset."""

from pathlib import Path

from src.data.huggingface import copied_table, is_huggingface
from src.data.listing import Listing, Split, find_split, list_classes, list_images
from src.data.tables import ENDINGS, list_table, list_table_classes
from src.errors import InputError


def list_own_classes(root: Path) -> list[str]:
    """Return the sorted names of the training classes."""
    if table := _find_table(root):
        return list_table_classes(table)
    return list_classes(find_split(root, "train") or root / "train")


def list_own_images(root: Path, split: Split, classes: tuple[str, ...]) -> Listing | None:
    """List the images of a split, or return None if there are no validation or test images."""
    if table := _find_table(root):
        return list_table(table, split, classes)
    folder = find_split(root, split)
    if folder is None and split != "train" and root.is_dir():
        return None
    return list_images(folder or root / split, classes, split)


def _find_table(root: Path) -> Path | None:
    """Return the file that lists the images, or None for class folders."""
    if root.suffix.lower() in ENDINGS and not root.is_dir():
        return root
    if not is_huggingface(root):
        return None
    if not (table := copied_table(root)).exists():
        raise InputError(f"{root}: the images have not been copied yet; train on them first")
    return table
