"""Read image files: decode each image once, keep some in memory, stream the rest."""

import contextlib
import hashlib
import math
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.config import DatasetInfo
from src.data.duplicates import hash_image
from src.data.image_set import ImageSet
from src.data.images import read_image
from src.data.listing import Listing
from src.errors import InputError
from src.runs.atomic import open_atomically

CACHE_FORMAT = 2  # increase this when the content of the cache changes


def open_files(listing: Listing, info: DatasetInfo) -> ImageSet:
    """Return the listed images, which are decoded on demand."""
    images = torch.empty(0, info.channels, info.image_size, info.image_size, dtype=torch.uint8)
    paths = [str(listing.folder / path) for path, _, _ in listing.files]
    return ImageSet(images, torch.tensor(listing.labels), paths, fit=info.fit)


def read_files(
    listing: Listing,
    info: DatasetInfo,
    *,
    cache: Path,
    budget: int,
    skip_broken: bool,
    notes: list[str],
) -> ImageSet:
    """Decode the listed images once and cache the result in the file `cache`.

    Args:
        listing: image files and labels.
        info: classes, image size and channels.
        cache: file that stores the decoded images between runs; rewritten when anything changes.
        budget: maximum size in bytes of the decoded images in memory; if they are larger, they are
            decoded on demand.
        skip_broken: skip damaged images instead of raising an error.
        notes: list to which the number of skipped images is added.

    Raises:
        InputError: images are damaged (the message lists up to 20 of them), or all images of a
            class are.
    """
    paths = [str(listing.folder / path) for path, _, _ in listing.files]
    settings = (listing.files, info.image_size, info.channels, info.fit, budget, skip_broken)
    key = hashlib.sha256(repr((CACHE_FORMAT, settings)).encode()).hexdigest()
    state = _load_cache(cache, key)
    if state is None:
        state = _decode(paths, info, budget, str(listing.folder))
        if skip_broken or len(state["readable"]) == len(paths):
            _save_cache(cache, state | {"key": key})
            state = _load_cache(cache, key) or state  # processes share the memory of a mapped file
    readable = state["readable"]
    labels = torch.tensor(listing.labels)[readable]
    if broken := sorted(set(range(len(paths))) - set(readable.tolist())):
        if not skip_broken:
            raise _damaged(listing.folder, [paths[row] for row in broken])
        notes.append(f"{listing.folder}: skipped {len(broken)} damaged image(s)")
        _refuse_lost_classes(listing, info.classes, labels)
    return ImageSet(
        state["images"],
        labels,
        [paths[row] for row in readable.tolist()],
        fingerprint=listing.fingerprint(info.classes),
        image_hashes=state["hashes"],
        fit=info.fit,
    )


def _damaged(folder: Path, broken: list[str]) -> InputError:
    return InputError(
        f"{folder}: {len(broken)} image(s) cannot be read: {', '.join(broken[:20])}; replace or "
        "remove them, or skip them with --data.skip_broken true"
    )


def _refuse_lost_classes(listing: Listing, classes: tuple[str, ...], readable: Tensor) -> None:
    """Refuse a class that is missing from `readable`, the labels of all readable images."""
    if lost := set(listing.labels) - set(readable.tolist()):
        raise InputError(
            f"{listing.folder}: all images of class {classes[min(lost)]} are damaged; replace "
            "them, or remove the folder"
        )


def _decode(paths: list[str], info: DatasetInfo, budget: int, name: str) -> dict[str, Tensor]:
    """Decode all files in parallel to find damaged ones; keep the images if the budget allows."""
    from rich.progress import track  # slow to import and rarely needed

    shape = (len(paths), info.channels, info.image_size, info.image_size)
    fits = math.prod(shape) <= budget
    images = torch.empty(shape if fits else (0, *shape[1:]), dtype=torch.uint8)
    readable: list[int] = []
    hashes: list[int] = []
    decoded = _decode_in_order(paths, info)
    for row, image in enumerate(track(decoded, f"Reading {name}", len(paths))):
        if image is None:
            continue
        if fits:
            images[len(readable)] = image
        readable.append(row)
        hashes.append(hash_image(image))
    if len(readable) < len(images):
        images = images[: len(readable)].clone()  # torch.save would write all rows of a view
    return {
        "images": images,
        "hashes": torch.tensor(hashes, dtype=torch.int64),
        "readable": torch.tensor(readable, dtype=torch.int64),
    }


def _decode_in_order(paths: list[str], info: DatasetInfo) -> Iterator[Tensor | None]:
    """Yield each image, or None if it is damaged; keep at most 1,024 images in memory."""

    def decode(path: str) -> Tensor | None:
        with contextlib.suppress(InputError):
            return read_image(path, info.image_size, info.channels, info.fit)
        return None

    # Reading an image restores the warning filters that it found, which is not thread-safe. The
    # outer block restores the original filters.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
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
