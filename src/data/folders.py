"""Class folders: list them, decode their images once, hold what fits in memory, stream the rest."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
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
        paths = [path for path, _, _ in files]
        state = _decode(folder, paths, labels, info.image_size, info.channels, budget)
        if state["broken"] and not skip_broken:
            _refuse_broken(folder, state["broken"])
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
                found.append((f"{name}/{entry.name}", *_size_and_time(entry)))
        if not found:
            raise InputError(
                f"{folder / name}: the class has no images (folders inside it are not read); add "
                "images or remove the folder"
            )
        files += sorted(found)
        labels += [label] * len(found)
    return files, labels


def _check_classes(folder: Path, classes: Sequence[str]) -> None:
    found = list_classes(folder)
    if found != list(classes):
        extra = ", ".join(sorted(set(found) - set(classes))) or "none"
        missing = ", ".join(sorted(set(classes) - set(found))) or "none"
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


def _size_and_time(entry: os.DirEntry) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:  # a dangling link: reading it will raise the error
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _decode(
    folder: Path, paths: list[str], labels: list[int], size: int, channels: int, budget: int
) -> dict[str, Any]:
    """Decode all files on all cores to find damaged ones, and hold what the budget allows."""
    from rich.progress import track  # slow to import, and seldom needed

    room = min(len(paths), budget // (channels * size * size))
    images = torch.empty(room, channels, size, size, dtype=torch.uint8)
    kept: list[int] = []
    streamed: list[str] = []
    broken: list[str] = []

    def read(path: str) -> Tensor | str:
        try:
            return read_image(folder / path, size, channels)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = _windowed_map(pool, read, paths)
        rows = zip(paths, labels, results, strict=True)
        for path, label, result in track(rows, f"Reading {folder}", len(paths)):
            if isinstance(result, str):
                broken.append(result)
                continue
            if len(kept) < room:
                images[len(kept)] = result
            else:
                streamed.append(path)
            kept.append(label)
    held = len(kept) - len(streamed)
    if held < room:
        images = images[:held].clone()
    return {
        "images": images,
        "labels": torch.tensor(kept, dtype=torch.int64),
        "paths": streamed,
        "broken": broken,
    }


def _windowed_map(
    pool: ThreadPoolExecutor,
    function: Callable[[str], Tensor | str],
    items: list[str],
    window: int = 1024,
) -> Iterator[Tensor | str]:
    """Like `pool.map`, but never hold more than `window` results in memory."""
    for start in range(0, len(items), window):
        yield from pool.map(function, items[start : start + window])


def _refuse_broken(folder: Path, broken: list[str]) -> None:
    shown = "; ".join(message.split(": ", 1)[0] for message in broken[:20])
    more = f" and {len(broken) - 20} more" if len(broken) > 20 else ""
    raise InputError(
        f"{folder}: {len(broken)} image(s) cannot be read: {shown}{more}; replace or remove them, "
        "or leave them out with --data.skip_broken true"
    )


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
        for leftover in cache.parent.glob(f".{cache.name}.*.tmp"):  # its process was killed
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()
        with open_atomically(cache) as file:
            torch.save(state, file)
    except (InputError, OSError, RuntimeError) as error:  # torch.save: RuntimeError on a full disk
        print(f"{cache}: the decoded images could not be kept for the next run ({error})")
