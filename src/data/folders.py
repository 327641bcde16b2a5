"""Read class folders: decode each image once, keep some in memory, stream the rest."""

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

ImageFile = tuple[str, int, int]  # relative path, size, modification time


def list_classes(folder: Path) -> list[str]:
    """Return the sorted names of the class folders in `folder`; ignore hidden folders."""
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
    """List the images in `folder/<class>/*`, which are decoded on demand.

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
    """Decode `folder/<class>/*` once and cache the result in the file `cache`.

    Args:
        folder: folder with one class folder for each class of the dataset.
        info: classes, image size and channels.
        cache: file that stores the decoded images between runs; it is rewritten when an image file
            or a setting has changed.
        budget: maximum size in bytes of the decoded images in memory; further images are decoded on
            demand.
        skip_broken: skip damaged images and print their number instead of raising an error.

    Raises:
        InputError: the folder's classes differ from the dataset's, a class is empty, or images are
            damaged; the message lists up to 20 of them.
    """
    files, labels = _list_files(folder, info)
    settings = ("all paths", info.image_size, info.channels, budget, skip_broken, files)
    key = hashlib.sha256(repr(settings).encode()).hexdigest()
    state = _load_cache(cache, key)
    if state is None:
        state = _decode(folder, [path for path, _, _ in files], labels, info, budget)
        if state["broken"] and not skip_broken:
            names = ", ".join(state["broken"][:20])
            raise InputError(
                f"{folder}: {len(state['broken'])} image(s) cannot be read: {names}; replace or "
                "remove them, or skip them with --data.skip_broken true"
            )
        _save_cache(cache, state | {"key": key})
        state = _load_cache(cache, key) or state  # processes share the memory of a mapped file
    if state["broken"]:
        print(f"{folder}: skipped {len(state['broken'])} damaged image(s)")
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
    """Return all image files and their labels, in a deterministic order."""
    _check_classes(folder, info.classes)
    files: list[ImageFile] = []
    labels: list[int] = []
    for label, name in enumerate(info.classes):
        found = []
        for entry in _entries(folder / name):
            if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith("."):
                # A broken symlink raises an error later, when the image is read.
                status = entry.stat(follow_symlinks=os.path.exists(entry))
                found.append((f"{name}/{entry.name}", status.st_size, status.st_mtime_ns))
        if not found:
            raise InputError(
                f"{folder / name}: the class has no images (subfolders are not read); add images "
                "or remove the folder"
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
            f"{folder}: its classes differ from the training classes (additional: {extra}; "
            f"missing: {missing}); use the same class folders in all splits"
        )


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder}: no such folder; put the images in {folder}/<class>/*.png"
        ) from None
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error.strerror}); change its permissions"
        ) from None


def _decode(
    folder: Path, paths: list[str], labels: list[int], info: DatasetInfo, budget: int
) -> dict[str, Any]:
    """Decode all files in parallel to find damaged ones; keep images within the budget."""
    from rich.progress import track  # slow to import and rarely needed

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
        images = images[: len(kept)].clone()  # torch.save would write the whole storage of a view
    return {
        "images": images,
        "labels": torch.tensor(labels)[kept],
        "paths": [paths[row] for row in kept],
        "broken": broken,
    }


def _decode_in_order(paths: list[Path], info: DatasetInfo) -> Iterator[Tensor | None]:
    """Yield each image, or None if it is damaged; keep at most 1,024 images in memory."""

    def decode(path: Path) -> Tensor | None:
        with contextlib.suppress(InputError):
            return read_image(path, info.image_size, info.channels)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), 1024):
            yield from pool.map(decode, paths[start : start + 1024])


def _load_cache(cache: Path, key: str) -> dict[str, Any] | None:
    """Return the cached images of an earlier run, or None if they are damaged or outdated.

    The file is memory-mapped, so that all processes on a machine share one copy.
    """
    try:
        state = torch.load(cache, weights_only=True, mmap=True)
        return state if state["key"] == key else None
    except Exception:  # an unreadable cache is rewritten
        return None


def _save_cache(cache: Path, state: dict[str, Any]) -> None:
    try:
        with open_atomically(cache) as file:
            torch.save(state, file)
    except (InputError, OSError, RuntimeError) as error:  # RuntimeError: full disk in torch.save
        print(f"{cache}: the decoded images could not be cached for the next run ({error})")
