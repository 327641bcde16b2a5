"""Image files in numbers: finding them, and classifying them while others are being read, in constant memory."""

import glob
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from src.data.images import EXTENSIONS
from src.errors import InputError
from src.inference.predictor import Given, Predictor

BATCH = 64  # images; the network is as fast with more, and the memory for them grows
UNSURE = 0.5  # probability of the likeliest class below which a line says so


def find_images(names: list[str]) -> list[str]:
    """Files stand for themselves, folders for all images in them and in their folders, patterns (`*`) for what fits.

    Raises:
        InputError: a folder without images, or one that cannot be listed; a pattern that fits nothing.
    """
    paths = []
    for name in names:
        if os.path.isdir(name):
            found = _in_folder(name)
            kinds = ", ".join(ending.removeprefix(".") for ending in EXTENSIONS)
            missing = f"{name}: is a folder without images ({kinds}); name another"
        elif glob.has_magic(name) and not os.path.exists(name):
            found = sorted(
                path for path in glob.iglob(name, recursive=True) if os.path.isfile(path)
            )
            missing = f"{name}: no file fits this pattern; check it"
        else:
            found = [name]
        if not found:
            raise InputError(missing)
        paths += found
    return paths


def _in_folder(folder: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: cannot be listed: {error.strerror}; change its permissions"
        )

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [
            os.path.join(place, f)
            for f in sorted(files)
            if f.lower().endswith(EXTENSIONS) and not f.startswith(".")
        ]
    return found


def classify(
    predictor: Predictor, paths: list[str], top_k: int, invert: str = "auto"
) -> Iterator[tuple[dict, Given]]:
    """A row for every file, in their order, and what the network was given of it, None if that is nothing.

    A row is {"path", "predictions"}, as `Predictor.top` gives them, and "notes", sentences, if there are any; of a file
    that cannot be read {"path", "error"}. Threads read the next files while the network is at work on a batch.

    Raises:
        InputError: the only file cannot be read.
    """

    def read(path: str) -> Given | InputError:
        try:
            return predictor.open(path, invert)
        except InputError as error:
            return error

    results, waiting = read_ahead(read, paths, 2 * BATCH), []
    for path, given in zip(paths, results, strict=True):
        if isinstance(given, InputError) and len(paths) == 1:
            raise given
        waiting.append((path, given))
        if len(waiting) == BATCH:
            yield from _rows(predictor, waiting, top_k)
            waiting = []
    yield from _rows(predictor, waiting, top_k)


def with_progress(results: Iterable, total: int) -> Iterator:
    """The same, and if there are many, a bar on the terminal."""
    if total <= BATCH or not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console  # only here: it takes a tenth of a second to import
    from rich.progress import Progress

    console, to_terminal = (
        Console(stderr=True),
        sys.stdout.isatty(),
    )  # rich would write there all that is printed
    with Progress(console=console, transient=True, redirect_stdout=to_terminal) as progress:
        yield from progress.track(results, total=total, description="Classifying")


def say_how_many(images: int, errors: int, seconds: float) -> None:
    failed = f"; {errors:,} could not be read" if errors else ""
    print(
        f"{images:,} images in {seconds:.1f} s ({images / seconds:,.0f} images/s){failed}",
        file=sys.stderr,
    )


def read_ahead(function: Callable, items: Iterable, most: int) -> Iterator:
    """`map` by threads, that holds at most so many results which were not asked for yet."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        results = deque()
        try:
            for item in items:
                results.append(pool.submit(function, item))
                if len(results) > most:
                    yield results.popleft().result()
            while results:
                yield results.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # the reader may have stopped early


def _rows(
    predictor: Predictor, batch: list[tuple[str, Given | InputError]], top_k: int
) -> Iterator[tuple]:
    images = [given.image for _, given in batch if isinstance(given, Given)]
    tops = iter(predictor.top(torch.stack(images), top_k) if images else [])
    for path, given in batch:
        if isinstance(given, InputError):
            yield {"path": path, "error": str(given).removeprefix(f"{path}: ")}, None
            continue
        row = {"path": path, "predictions": next(tops)}
        if notes := given.notes + unsure(row["predictions"]):
            row["notes"] = notes
        yield row, given


def unsure(predictions: list[dict]) -> list[str]:
    """A sentence if the likeliest class is not likely."""
    if (share := predictions[0]["probability"]) >= UNSURE:
        return []
    return [
        f"unsure: no class has more than {share:.1%}; --show picture.png shows what the network was given"
    ]
