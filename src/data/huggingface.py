"""Copy the images of a Hugging Face dataset to files, and list them in a CSV file.

The images are then read like all other files, without the `datasets` library.
"""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from src.data.images import EXTENSIONS, open_regular
from src.data.listing import find_split, short_hash, split_named
from src.errors import InputError, one_line
from src.runs.atomic import write_atomically

PREFIX = "hf:"
COPIES = Path("data/huggingface")
ON_DISK = ("dataset_dict.json", "state.json")  # written by `save_to_disk`
PARQUET = ("*.parquet", "data/*.parquet")
FILES = (*ON_DISK, "*/state.json", "*.arrow", "*/*.arrow", *PARQUET)
IMAGES = ("image", "img")
LABELS = ("label", "labels", "class", "target", "fine_label")


def is_huggingface(root: Path) -> bool:
    """Return whether `root` is `hf:<name>`, or a folder with Parquet files or a saved dataset."""
    if _is_name(root) or _is_saved(root):
        return True
    parquet = any(any(root.glob(pattern)) for pattern in PARQUET)
    return parquet and find_split(root, "train") is None


def copied_table(root: Path) -> Path:
    """Return the path of the CSV file that lists the copied images.

    For a local dataset, it depends on the names, sizes and modification times of its files.
    """
    if _is_name(root):
        return COPIES / f"{_name(root).replace('/', '--').replace(':', '--')}.csv"
    files = sorted(path for pattern in FILES for path in root.glob(pattern))
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return root / ".cache" / f"huggingface-{short_hash(repr(states))}.csv"


def copy_images(root: Path) -> None:
    """Copy the images once; other processes wait.

    Raises:
        InputError: the library is missing, or the dataset cannot be loaded.
    """
    table = copied_table(root)
    folder = table.with_suffix("")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("path", "label", "split"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(table.with_suffix(".lock")):
            if table.exists():
                return
            print(f"Copying the images of {root} to {folder}", flush=True)
            writer.writerows(_copy(root, folder))
            write_atomically(table, text.getvalue().encode())
    except InputError:
        raise
    except Exception as error:  # the network, the Hub, Arrow and the file system raise many types
        raise InputError(
            f"{root}: cannot be copied to {folder}: {one_line(error, 300)}; check the name, the "
            "files and the disk space"
        ) from None


def _copy(root: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Write image files to `folder`, and yield path, label and split of each."""
    splits = _load(root)
    for part, (name, rows) in enumerate(splits.items()):  # two parts can belong to one split
        split = split_named(name) or ("train" if len(splits) == 1 else None)
        if split is None:
            print(f"note: {root}: split {name} is not used")
            continue
        image, label = _columns(root, rows.features)
        classes = getattr(rows.features[label], "names", None)
        skipped = 0
        for number, row in enumerate(_undecoded(rows, image, label)):
            value = row[label]
            if classes:
                value = classes[value] if value in range(len(classes)) else None
            if value is None or row[image] is None:
                skipped += 1
                continue
            path, content = row[image]["path"] or "", row[image]["bytes"]
            if content is None:
                with open_regular(path) as file:
                    content = file.read()
            ending = Path(path).suffix.lower()
            file_name = f"{split}-{part}-{number:07}{ending if ending in EXTENSIONS else ''}"
            (folder / file_name).write_bytes(content)
            yield f"{folder.name}/{file_name}", str(value), split
        if skipped:
            print(f"note: {root}: {skipped:,} {split} rows without a label or image are not used")


def _load(root: Path) -> dict[str, Any]:
    try:
        import datasets
    except ModuleNotFoundError:
        raise InputError(
            f"{root}: reading Hugging Face datasets needs the package datasets; install it with "
            "pip install -r requirements-huggingface.txt"
        ) from None
    if _is_name(root):
        name, _, config = _name(root).partition(":")
        loaded = datasets.load_dataset(name, config or None)
    elif _is_saved(root):
        loaded = datasets.load_from_disk(root)
    else:
        loaded = datasets.load_dataset("parquet", data_dir=str(root), streaming=True)
    return loaded if isinstance(loaded, dict) else {"train": loaded}


def _columns(root: Path, features: Any) -> tuple[str, str]:
    """Return the names of the image column and the label column."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name in kinds if kinds[name] == "Image" or name in IMAGES]
    labels = [name for name in LABELS if name in kinds]
    labels += [name for name in kinds if kinds[name] == "ClassLabel"]
    if not images or not labels:
        raise InputError(
            f"{root}: an image column and a label column are needed, found {', '.join(kinds)}; "
            "rename them to image and label"
        )
    return images[0], labels[0]


def _undecoded(rows: Any, image: str, label: str) -> Any:
    """Return the rows with encoded images, so that `read_image` decodes all of them."""
    from datasets import Image

    return rows.select_columns([image, label]).cast_column(image, Image(decode=False))


def _is_saved(root: Path) -> bool:
    return any(os.path.isfile(root / name) for name in ON_DISK)


def _is_name(root: Path) -> bool:
    return str(root).startswith(PREFIX)


def _name(root: Path) -> str:
    return str(root).removeprefix(PREFIX)
