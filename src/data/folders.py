"""Class folders: list them, decode their images once, hold what fits in memory, stream the rest."""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.config import DatasetInfo
from src.data.image_set import ImageSet
from src.data.images import EXTENSIONS, read_image
from src.errors import InputError
from src.runs.atomic import open_atomically

ImageFile = tuple[str, int, int]  # path relative to the folder, size, time of the last change


def list_classes(folder: Path) -> list[str]:
    """Return the sorted names of the class folders in `folder`, without hidden ones."""
    entries = [entry for entry in _entries(folder) if entry.is_dir()]
    names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    if len(names) < 2:
        found = f"1 ({names[0]})" if names else "none"
        raise InputError(
            f"{folder}: at least two class folders are needed, found {found}; put images in "
            f"{folder}/<class>/*.png"
        )
    return names


def list_folder(folder: Path, info: DatasetInfo) -> ImageSet:
    """Return the images of `folder/<class>/*` without decoding any: they are decoded on demand.

    Raises:
        InputError: the folder's classes differ from the dataset's, or a class is empty.
    """
    files, labels = _list_files(folder, info)
    images = torch.empty(0, info.channels, info.image_size, info.image_size, dtype=torch.uint8)
    paths = [str(folder / path) for path, _, _ in files]
    return ImageSet(images, torch.tensor(labels), paths)


def read_folder(
    folder: Path, info: DatasetInfo, *, cache: Path, budget: int, skip_broken: bool
) -> ImageSet:
    """Decode `folder/<class>/*` once, and keep the result in the file `cache`.

    Args:
        folder: holds a folder for each of the dataset's classes.
        info: classes, size and channels of the images.
        cache: keeps the decoded images between runs; written again if a file or setting changed.
        budget: bytes of decoded images to hold; the images beyond it are decoded on demand.
        skip_broken: leave damaged images out and report how many, instead of stopping.

    Raises:
        InputError: the folder's classes differ from the dataset's, a class is empty, or images are
            damaged; names all of them.
    """
    files, labels = _list_files(folder, info)
    settings = (info.image_size, info.channels, budget, skip_broken, files)
    key = hashlib.sha256(repr(settings).encode()).hexdigest()
    state = _load_cache(cache, key)
    if state is None:
        state = _decode(folder, [path for path, _, _ in files], labels, info, budget)
        if state["broken"] and not skip_broken:
            names = ", ".join(state["broken"][:20])
            raise InputError(
                f"{folder}: {len(state['broken'])} image(s) cannot be read: {names}; replace or "
                "remove them, or leave them out with --data.skip_broken true"
            )
        _save_cache(cache, state | {"key": key})
        state = _load_cache(cache, key) or state  # processes share the pages of a mapped file
    if state["broken"]:
        print(f"{folder}: {len(state['broken'])} damaged image(s) left out")
    counts = state["labels"].bincount(minlength=len(info.classes))
    if not counts.all():
        empty = [info.classes[label] for label in (counts == 0).nonzero().flatten().tolist()]
        raise InputError(
            f"{folder}: all images of class {', '.join(empty)} are damaged; add images or remove "
            "the folder"
        )
    paths = [str(folder / path) for path in state["paths"]]
    return ImageSet(state["images"], state["labels"], paths)


def _list_files(folder: Path, info: DatasetInfo) -> tuple[list[ImageFile], list[int]]:
    """Return every image file and its label, in a fixed order."""
    _check_classes(folder, info.classes)
    files: list[ImageFile] = []
    labels: list[int] = []
    for label, name in enumerate(info.classes):
        found = []
        for entry in _entries(folder / name):
            if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith("."):
                # Reading a dangling link will raise the error.
                status = entry.stat(follow_symlinks=os.path.exists(entry))
                found.append((f"{name}/{entry.name}", status.st_size, status.st_mtime_ns))
        if not found:
            raise InputError(
                f"{folder / name}: the class has no images (folders inside it are not read); add "
                "images or remove the folder"
            )
        files += sorted(found)
        labels += [label] * len(found)
    return files, labels


def _check_classes(folder: Path, expected: tuple[str, ...]) -> None:
    here, expected_here = set(list_classes(folder)), set(expected)
    if here != expected_here:
        extra = ", ".join(sorted(here - expected_here)) or "none"
        missing = ", ".join(sorted(expected_here - here)) or "none"
        raise InputError(
            f"{folder}: its classes differ from the training classes (only here: {extra}; missing "
            f"here: {missing}); make the class folders the same"
        )


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder}: there is no such folder; put the images in {folder}/<class>/*.png"
        ) from None
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error.strerror}); change its permissions"
        ) from None


def _decode(
    folder: Path, paths: list[str], labels: list[int], info: DatasetInfo, budget: int
) -> dict[str, Any]:
    """Decode all files on all cores to find damaged ones, and hold what the budget allows."""
    from rich.progress import track  # slow to import, and seldom needed

    shape = (info.channels, info.image_size, info.image_size)
    room = min(len(paths), budget // math.prod(shape))
    images = torch.empty(room, *shape, dtype=torch.uint8)
    kept: list[int] = []
    broken: list[str] = []
    decoded = _decode_in_order([folder / path for path in paths], info)
    for row, image in enumerate(track(decoded, f"Reading {folder}", len(paths))):
        if image is None:
            broken.append(str(folder / paths[row]))
            continue
        if len(kept) < room:
            images[len(kept)] = image
        kept.append(row)
    if len(kept) < room:
        images = images[: len(kept)].clone()  # a view would save the whole memory
    return {
        "images": images,
        "labels": torch.tensor(labels)[kept],
        "paths": [paths[row] for row in kept[room:]],
        "broken": broken,
    }


def _decode_in_order(paths: list[Path], info: DatasetInfo) -> Iterator[Tensor | None]:
    """Yield each image, or None for a damaged one; hold at most 1,024 of them in memory."""

    def decode(path: Path) -> Tensor | None:
        with contextlib.suppress(InputError):
            return read_image(path, info.image_size, info.channels)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), 1024):
            yield from pool.map(decode, paths[start : start + 1024])


def _load_cache(cache: Path, key: str) -> dict[str, Any] | None:
    """Return what an earlier run decoded, or None if it is damaged or does not match `key`.

    The file is memory-mapped: all processes of a machine hold it in memory once.
    """
    try:
        state = torch.load(cache, weights_only=True, mmap=True)
        return state if state["key"] == key else None
    except Exception:  # whatever is wrong with a cache, it is written again
        return None


def _save_cache(cache: Path, state: dict[str, Any]) -> None:
    try:
        with open_atomically(cache) as file:
            torch.save(state, file)
    except (InputError, OSError, RuntimeError) as error:  # torch.save: RuntimeError on a full disk
        print(f"{cache}: the decoded images could not be kept for the next run ({error})")
