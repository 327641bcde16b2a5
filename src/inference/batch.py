"""Batch prediction: find image files, and classify any number of them in constant memory."""

import glob
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
        InputError: a folder contains no images or cannot be listed, or a pattern matches nothing.
    """
    paths: list[str] = []
    for name in names:
        if os.path.isdir(name):
            found, skipped = _in_folder(name)
            endings = ", ".join(ending.removeprefix(".") for ending in EXTENSIONS)
            missing = f"{name}: no images in this folder ({endings}){skipped}; use a different one"
            if found and skipped:
                print(f"note: {printable(name)}{skipped}", file=sys.stderr)
        elif glob.has_magic(name) and not os.path.exists(name):
            found = sorted(
                path for path in glob.iglob(name, recursive=True) if os.path.isfile(path)
            )
            missing = f"{name}: no files match this pattern; check its spelling"
        else:
            found, missing = [name], ""
        if not found:
            raise InputError(missing)
        paths += found
    return paths


def _in_folder(folder: str) -> tuple[list[str], str]:
    """Return all images under a folder, and a description of the skipped entries."""

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: cannot be listed ({error.strerror}); change its permissions"
        )

    found: list[str] = []
    skipped: Counter[str] = Counter()
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        skipped["symlinked folders"] += sum(os.path.islink(os.path.join(place, f)) for f in folders)
        for name in sorted(files):
            ending = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if ending in EXTENSIONS:
                found.append(os.path.join(place, name))
            elif ending in UNSUPPORTED:
                skipped[ending] += 1
    counts = [f"{kind} ({count})" for kind, count in skipped.items() if count]
    return found, f": skipped {', '.join(counts)}" if counts else ""


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
            return error

    waiting: list[tuple[str, PreparedImage | InputError]] = []
    for path, result in zip(paths, read_ahead(read, paths, 2 * BATCH), strict=True):
        if isinstance(result, InputError) and len(paths) == 1:
            raise result
        waiting.append((path, result))
        if len(waiting) == BATCH:
            yield from _rows(predictor, waiting, top_k, unsure)
            waiting = []
    yield from _rows(predictor, waiting, top_k, unsure)


def _rows(
    predictor: Predictor,
    batch: list[tuple[str, PreparedImage | InputError]],
    top_k: int,
    unsure: float | None,
) -> Iterator[tuple[Row, PreparedImage | None]]:
    images = [result.image for _, result in batch if isinstance(result, PreparedImage)]
    predictions = iter(predictor.top(torch.stack(images), top_k) if images else [])
    for path, result in batch:
        if isinstance(result, InputError):
            yield {"path": path, "error": str(result).removeprefix(f"{path}: ")}, None
            continue
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
            f"unsure: no class reaches a probability of {UNSURE:.0%}; use --show input.png to see "
            "the image as the network saw it"
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


def with_progress(results: Iterable[Result], total: int) -> Iterator[Result]:
    """Show a progress bar on the terminal if there is more than one batch of results."""
    if total <= BATCH or not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console  # imported late, because it takes 0.1 s
    from rich.progress import Progress

    console = Console(stderr=True)
    to_terminal = sys.stdout.isatty()  # otherwise, rich would print the rows on the terminal
    with Progress(console=console, transient=True, redirect_stdout=to_terminal) as progress:
        yield from progress.track(results, total=total, description="Classifying")


def print_summary(images: int, errors: int, seconds: float) -> None:
    """Print the number of images, the speed and the number of failures to stderr."""
    failed = f"; {errors:,} could not be read" if errors else ""
    speed = f"{images / seconds:,.0f} images/s"
    print(f"{images:,} images in {seconds:.1f} s ({speed}){failed}", file=sys.stderr)
