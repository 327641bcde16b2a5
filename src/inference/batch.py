"""Batch prediction: find image files, and classify any number of them in constant memory."""

import glob
import itertools
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from src.data.images import EXTENSIONS, UNSUPPORTED
from src.errors import InputError, printable
from src.inference.predictor import Predictor, PreparedImage

BATCH = 64  # batch size; larger batches need more memory and are no faster
UNSURE = 0.5  # default threshold: predictions with a lower top probability get a note

Item = TypeVar("Item")
Result = TypeVar("Result")
Row = dict[str, Any]


def find_images(names: list[str]) -> list[str]:
    """Expand folders recursively to image files, and glob patterns to matching files.

    Raises:
        InputError: a folder or a pattern has no images.
    """
    paths: list[str] = []
    for name in names:
        found = [name]
        if os.path.isdir(name):
            found = _in_folder(name)
        elif glob.has_magic(name) and not os.path.exists(name):
            found = sorted(filter(os.path.isfile, glob.iglob(name, recursive=True)))
        if not found:
            raise InputError(f"{name}: no images found; supported formats: {', '.join(EXTENSIONS)}")
        paths += found
    return paths


def _in_folder(folder: str) -> list[str]:
    """Return all images under a folder; print how many files have unsupported formats."""
    found: list[str] = []
    skipped: Counter[str] = Counter()
    for place, folders, files in os.walk(folder, onerror=_raise_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            ending = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if ending in EXTENSIONS:
                found.append(os.path.join(place, name))
            elif ending in UNSUPPORTED:
                skipped[ending] += 1
    if skipped:
        counts = ", ".join(f"{ending} ({count})" for ending, count in skipped.items())
        print(f"note: {printable(folder)}: skipped {counts}", file=sys.stderr)
    return found


def _raise_error(error: OSError) -> None:
    raise error


def classify(
    predictor: Predictor,
    paths: list[str],
    top_k: int,
    prepare: Callable[[str], PreparedImage],
    unsure: float | None = None,
) -> Iterator[tuple[Row, PreparedImage | None]]:
    """Yield each file's row (see `make_row`) and the image as the network saw it, in order.

    For files that cannot be read, the row is {"path", "error"}, and the image is None. Threads read
    the next files while the network computes.

    Raises:
        InputError: there is only one file, and it cannot be read.
    """

    def read(path: str) -> PreparedImage | InputError:
        try:
            return prepare(path)
        except InputError as error:
            if len(paths) == 1:
                raise
            return error

    files = zip(paths, read_ahead(read, paths, 2 * BATCH), strict=True)
    while batch := list(itertools.islice(files, BATCH)):
        images = [result.image for _, result in batch if isinstance(result, PreparedImage)]
        predictions = iter(predictor.top(torch.stack(images), top_k) if images else [])
        for path, result in batch:
            if isinstance(result, InputError):
                yield {"path": path, "error": str(result).removeprefix(f"{path}: ")}, None
            else:
                yield make_row(path, next(predictions), result.notes, unsure), result


def make_row(
    path: str, predictions: list[Row], notes: list[str], unsure: float | None = None
) -> Row:
    """Return the row {"path", "predictions"} (see `Predictor.top`), with "notes" if there are any.

    With the threshold `unsure`, the row has an "answer": the most likely class, or "unsure" if its
    probability is lower. Without it, a low probability adds a note.
    """
    row: Row = {"path": path}
    is_unsure = predictions[0]["probability"] < (unsure or UNSURE)
    if unsure:
        row["answer"] = "unsure" if is_unsure else predictions[0]["class"]
    elif is_unsure:
        note = (
            f"unsure: no class reaches a probability of {UNSURE:.0%}; --show input.png shows the "
            "image as the network sees it"
        )
        notes = [*notes, note]
    row["predictions"] = predictions
    return row | ({"notes": notes} if notes else {})


def read_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Result]:
    """Apply a function in threads; yield results in order, computing at most `most` ahead."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        results: deque[Future[Result]] = deque()
        try:
            for item in items:
                results.append(pool.submit(function, item))
                if len(results) > most:
                    yield results.popleft().result()
            while results:
                yield results.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # the consumer may have stopped early


def with_progress(results: Iterable[Result], total: int) -> Iterable[Result]:
    """Show a progress bar for many results whose output is not printed on the terminal."""
    if total <= BATCH or sys.stdout.isatty() or not sys.stderr.isatty():
        return results
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(results, "Classifying", total, console=console, transient=True)
