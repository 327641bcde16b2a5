"""Folders of class images on disk."""

from pathlib import Path

from PIL import Image


def class_folders(root: Path, classes, size: tuple[int, int], ending: str = "png", **counts: int) -> Path:
    """Write `root/<split>/<class>/<index>.<ending>`: of each class so many images of one color, as `counts` says.

    The color is (20 * class, 20 * index, 1 in `test`, else 0). Returns `root`.
    """
    for split, count in counts.items():
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", size, (20 * label, 20 * index, split == "test")).save(folder / f"{index}.{ending}")
    return root
