"""Folders of images, one folder a class: list them, decode them once, keep what fits in memory and stream the rest."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from src.data.datasets import DatasetInfo
from src.data.images import EXTENSIONS, read_image
from src.errors import InputError
from src.runs.atomic import open_atomically


class ImageSet(Dataset):
    """Images and labels; the first M images are decoded in memory, the others are decoded when asked for.

    Args:
        images: uint8 [M, C, H, W]; it may be a file mapped into memory, which the processes of a machine share
        labels: int64 [N], N >= M
        paths: files of the N - M images that are not in memory
        rows: int64 [n]: which of the N images the set has; all, if None
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        paths: list[str] | None = None,
        rows: Tensor | None = None,
    ):
        self.held, self.all_labels, self.paths, self.rows = images, labels, paths or [], rows

    def __len__(self) -> int:
        return len(self.all_labels) if self.rows is None else len(self.rows)

    @property
    def labels(self) -> Tensor:
        """int64 [n]"""
        return self.all_labels if self.rows is None else self.all_labels[self.rows]

    @property
    def images(self) -> Tensor:
        """uint8: those of the set that are in memory; a copy, unless the set has all."""
        return self.held if self.rows is None else self.held[self.rows[self.rows < len(self.held)]]

    def __getitems__(self, indices: Tensor | list[int]) -> tuple[Tensor, Tensor]:
        """A whole batch by one index: int64 [B] -> uint8 [B, C, H, W], int64 [B]."""
        indices = torch.as_tensor(indices)
        indices = indices if self.rows is None else self.rows[indices]
        labels, held = self.all_labels[indices], len(self.held)
        if not self.paths:
            return self.held[indices], labels
        batch = self.held.new_empty(len(indices), *self.held.shape[1:])
        in_memory = indices < held
        batch[in_memory] = self.held[indices[in_memory]]
        channels, size = self.held.shape[1:3]
        for row in (~in_memory).nonzero().flatten().tolist():
            batch[row] = read_image(self.paths[int(indices[row]) - held], size, channels)
        return batch, labels

    def to(self, device: torch.device) -> "ImageSet":
        """The same set with its decoded images on the device."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.paths)

    def subset(self, indices: Tensor) -> "ImageSet":
        """The images at sorted int64 `indices`, as a set of its own; none is copied."""
        rows = indices if self.rows is None else self.rows[indices]
        return ImageSet(self.held, self.all_labels, self.paths, rows)


def list_classes(folder: Path) -> list[str]:
    """Names of the class folders in `folder`, sorted; hidden folders are not classes."""
    names = sorted(e.name for e in _entries(folder) if e.is_dir() and not e.name.startswith("."))
    if len(names) < 2:
        found = f"only the class {names[0]!r}" if names else "no class folder"
        raise InputError(
            f"{folder}: {found} was found, but it takes two classes; put images in {folder}/<class>/*.png"
        )
    return names


def read_folder(
    folder: Path, info: DatasetInfo, *, cache: Path, budget: int, skip_broken: bool
) -> ImageSet:
    """Read `folder/<class>/*` for the dataset's classes. Decoding happens once: the result is kept in the file `cache`.

    Args:
        cache: file that keeps the decoded images between runs; it is made anew when a file, or the size, has changed.
        budget: bytes of decoded images to hold in memory; what is beyond is decoded from its file when it is needed.
        skip_broken: leave damaged images out and say how many, rather than stop.

    Raises:
        InputError: classes differ from the folder's, a class is empty, or images are damaged (all of them are named).
    """
    found, classes, image_size, channels = (
        list_classes(folder),
        list(info.classes),
        info.image_size,
        info.channels,
    )
    if found != classes:
        extra, missing = sorted(set(found) - set(classes)), sorted(set(classes) - set(found))
        raise InputError(
            f"{folder}: its classes differ from the training classes (only here: {', '.join(extra) or 'none'}; "
            f"missing here: {', '.join(missing) or 'none'}); make the class folders the same"
        )
    files, labels = _list_files(folder, classes)
    key = hashlib.sha256(
        repr((image_size, channels, budget, skip_broken, files)).encode()
    ).hexdigest()
    state = _load_cache(cache, key)
    if state is None:
        state = _decode(
            folder, [path for path, _, _ in files], labels, image_size, channels, budget
        )
        if state["broken"] and not skip_broken:
            _refuse_broken(folder, state["broken"])
        state["key"] = key
        _save_cache(cache, state)
        state = (
            _load_cache(cache, key) or state
        )  # the file's pages are shared; what was decoded is this process's own
    if state["broken"]:
        print(f"{folder}: {len(state['broken'])} damaged image(s) left out")
    counts = state["labels"].bincount(minlength=len(classes))
    if not counts.all():
        empty = [classes[i] for i in (counts == 0).nonzero().flatten().tolist()]
        raise InputError(
            f"{folder}: no image can be read in class {', '.join(empty)}; add images, or remove the folder"
        )
    return ImageSet(
        state["images"], state["labels"], [str(folder / path) for path in state["paths"]]
    )


def _list_files(folder: Path, classes: list[str]) -> tuple[list[tuple[str, int, int]], list[int]]:
    """Every image file as (path relative to `folder`, size, time of change), and its label; in a fixed order."""
    files, labels = [], []
    for label, name in enumerate(classes):
        rows = [
            (f"{name}/{e.name}", *_size_and_time(e))
            for e in _entries(folder / name)
            if e.name.lower().endswith(EXTENSIONS) and not e.name.startswith(".")
        ]
        if not rows:
            empty = "the class has no image (folders in it are not read)"
            raise InputError(f"{folder / name}: {empty}; add images, or remove the folder")
        files += sorted(rows)
        labels += [label] * len(rows)
    return files, labels


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
            f"{folder}: cannot be listed: {error.strerror}; change its permissions"
        ) from None


def _size_and_time(entry: os.DirEntry) -> tuple[int, int]:
    """Size, and time of the last change; of a link that leads nowhere (-1, -1): reading it will say so."""
    try:
        status = entry.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _decode(
    folder: Path, paths: list[str], labels: list[int], size: int, channels: int, budget: int
) -> dict:
    """Decode all files once on all cores, to find the damaged ones; hold as many images as the budget allows."""
    room = min(len(paths), budget // (channels * size * size))
    images = torch.empty(room, channels, size, size, dtype=torch.uint8)
    kept, streamed, broken = [], [], []

    def read(path: str) -> Tensor | str:
        try:
            return read_image(folder / path, size, channels)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = _windowed_map(pool, read, paths)
        for path, label, result in track(
            zip(paths, labels, results, strict=True), f"Reading {folder}", len(paths)
        ):
            if isinstance(result, str):
                broken.append(result)
                continue
            if len(kept) < room:
                images[len(kept)] = result
            else:
                streamed.append(path)
            kept.append(label)
    held = len(kept) - len(streamed)
    images = images[:held].clone() if held < room else images
    labels = torch.tensor(kept, dtype=torch.int64)
    return {"images": images, "labels": labels, "paths": streamed, "broken": broken}


def _windowed_map(pool: ThreadPoolExecutor, function, items: list, window: int = 1024):
    """`pool.map` that never holds more than `window` results, so that memory stays flat on a folder of any size."""
    for start in range(0, len(items), window):
        yield from pool.map(function, items[start : start + window])


def _refuse_broken(folder: Path, broken: list[str]) -> None:
    shown = "; ".join(message.split(": ", 1)[0] for message in broken[:20])
    more = f" and {len(broken) - 20} more" if len(broken) > 20 else ""
    raise InputError(
        f"{folder}: {len(broken)} image(s) cannot be read: {shown}{more}; "
        "replace or remove them, or leave them out with --data.skip_broken true"
    )


def _load_cache(cache: Path, key: str) -> dict | None:
    """What an earlier run decoded, unless the files have changed since or the cache itself is damaged.

    It is mapped, not read: however many processes of a machine use it, it is in memory once, as far as there is room.
    """
    try:
        state = torch.load(cache, weights_only=True, mmap=True)
        return state if state["key"] == key else None
    except Exception:  # a cache that cannot be used, for whatever reason, is made anew
        return None


def _save_cache(cache: Path, state: dict) -> None:
    try:
        for leftover in cache.parent.glob(
            f".{cache.name}.*.tmp"
        ):  # of a process that was killed while writing it
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()
        with open_atomically(cache) as file:
            torch.save(state, file)
    except (
        InputError,
        OSError,
        RuntimeError,
    ) as error:  # torch.save turns a full disk into a RuntimeError
        print(f"{cache}: the decoded images could not be kept for the next run ({error})")
