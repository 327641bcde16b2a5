"""Classify images with a trained network.

python classify.py photo.png                      by the newest run's best checkpoint
python classify.py photos '*.jpg' --csv           folders and patterns; as a table, or --json
python classify.py --ckpt data/runs/mnist/version_0 digit.png
python classify.py photo.png --show given.png     draw what the network was given
python classify.py photo.png --attention at.png   draw where it looked
python classify.py --index 0                      test image 0 of the checkpoint's dataset
python classify.py --serve                        serve a page to draw on and to show photos to

If one of several files cannot be read, its row says so and the exit code is 1.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.errors import ArgumentParser, InputError, exit_on_input_error, printable

if TYPE_CHECKING:
    from src.inference.predictor import Predictor, PreparedImage

EXAMPLES = 12  # test images to choose from on the page
MAX_DRAWN = 64  # images in the picture of --show and --attention
INVERT = ("auto", "yes", "no")


def main(args: list[str]) -> None:
    options = parse(args)
    # Imported late: these take seconds, and Ctrl-C must work meanwhile.
    from src.inference import batch, output
    from src.inference.predictor import Predictor
    from src.runs.directory import find_checkpoint

    paths = batch.find_images(options.images)
    check_pictures(options, paths)
    checkpoint = find_checkpoint(options.ckpt, Path(options.runs))
    predictor = Predictor(checkpoint, options.device)
    prepare = find_reader(predictor, "auto" if options.serve else options.invert)
    if options.serve:
        serve(predictor, options, prepare)
        return
    start = time.monotonic()
    if options.index is None:
        results = batch.classify(predictor, paths, options.top_k, prepare)
    else:
        results = iter([classify_test_image(predictor, options)])
        paths = [f"{predictor.dataset.name} test image {options.index}"]
    drawn: list[tuple[dict[str, Any], PreparedImage]] = []
    errors = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal errors
        for row, image in batch.with_progress(results, len(paths)):
            if image is None:
                errors += 1
            elif len(drawn) < MAX_DRAWN:
                drawn.append((row, image))
            yield row

    output.print_rows(rows(), options.format, paths, predictor.classes, options.top_k)
    if not (options.ckpt or options.format) and options.index is None:
        print(
            f"note: classified by the newest run, {printable(str(checkpoint))}, trained on "
            f"{printable(predictor.dataset.name)}; choose another with --ckpt",
            file=sys.stderr,
        )
    if len(paths) > 1:
        batch.print_summary(len(paths), errors, time.monotonic() - start)
    draw(options, drawn, len(paths), predictor)
    if errors:
        sys.exit(1)


def parse(args: list[str]) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="image files, folders, patterns like '*.png'")
    add("--index", type=int, metavar="N", help="test image N of the checkpoint's dataset")
    add("--ckpt", metavar="PATH", help="checkpoint or run directory (default: the newest run)")
    add("--runs", default="data/runs", metavar="DIR", help="folder of all runs")
    add("--data", metavar="DIR", help="folder of the datasets (default: as in training)")
    add("--top-k", type=int, default=3, metavar="K", help="classes to show (default: 3)")
    formats = parser.add_mutually_exclusive_group()
    for name, content in (("json", "a list of {path, predictions}"), ("csv", "a table")):
        formats.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, help=f"print {content}"
        )
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, mps (default: auto)")
    add("--serve", action="store_true", help="serve a page to draw on and to show photos to")
    add("--port", type=int, default=7860, metavar="N", help="of --serve (default: 7860)")
    add("--host", default="127.0.0.1", metavar="H", help="of --serve; 0.0.0.0 lets others in")
    add(
        "--invert",
        default="auto",
        choices=INVERT,
        help="swap dark and light: yes (or no value) for dark strokes on light; auto finds out",
    )
    add("--show", metavar="PNG", help="draw what the network was given of each image")
    add("--attention", metavar="PNG", help="draw where in each image the network looked")
    following = [*args[1:], "-"]
    options = parser.parse_args(
        [
            "--invert=yes" if arg == "--invert" and _is_not_a_choice(value) else arg
            for arg, value in zip(args, following, strict=False)
        ]
    )
    if bool(options.images) + (options.index is not None) + options.serve != 1:
        raise InputError("name image files, one --index N, or --serve; see --help")
    if options.top_k < 1:
        raise InputError(f"--top-k must be at least 1, got {options.top_k}")
    return options


def _is_not_a_choice(value: str) -> bool:
    """Return whether what follows `--invert` is a flag or an image, not a (misspelled) choice."""
    looks_like_a_path = any(c in value for c in "-./*?[") or os.path.exists(value)
    return value not in INVERT and looks_like_a_path


def find_reader(predictor: "Predictor", invert: Any) -> Callable[[str], "PreparedImage"]:
    """Return what reads an image file: for digits, photos of paper are understood as well."""
    with contextlib.suppress(ModuleNotFoundError):
        from src.extras.paper.reader import digit_reader

        if reader := digit_reader(predictor.dataset, invert):
            return reader
    return lambda path: predictor.prepare(path, invert == "yes")


def classify_test_image(
    predictor: "Predictor", options: argparse.Namespace
) -> tuple[dict[str, Any], "PreparedImage"]:
    """Return the row of `--index`, and the image."""
    import torch

    from src.data.splits import open_split
    from src.inference.predictor import PreparedImage

    index, name = options.index, predictor.dataset.name
    images = open_split(predictor.dataset, "test", root=options.data, download=True)
    if not images:
        raise InputError(f"{name} has no test images; name image files instead of --index")
    if not 0 <= index < len(images):
        raise InputError(
            f"--index {index}: {name} has {len(images):,} test images; use 0 to {len(images) - 1}"
        )
    pixels, labels = images.__getitems__(torch.tensor([index]))
    row = {
        "path": f"{name} test image {index}",
        "predictions": predictor.top(pixels, options.top_k)[0],
        "target": predictor.classes[int(labels[0])],
    }
    return row, PreparedImage(pixels[0], [])


def check_pictures(options: argparse.Namespace, paths: list[str]) -> None:
    """Refuse paths of --show and --attention that cannot or should not be written."""
    chosen = {flag: getattr(options, flag) for flag in ("show", "attention")}
    if not any(chosen.values()):
        return
    with extra("--show and --attention"):
        from src.extras.report.contact_sheet import check_path
    for flag, path in chosen.items():
        if path:
            check_path(path, f"--{flag}", paths)
    if options.show == options.attention:
        raise InputError(f"--attention {options.attention} would replace --show; name another")


def draw(
    options: argparse.Namespace,
    drawn: list[tuple[dict[str, Any], "PreparedImage"]],
    total: int,
    predictor: "Predictor",
) -> None:
    """Write the pictures of --show and --attention."""
    if not (options.show or options.attention):
        return
    from src.extras.report import contact_sheet

    if options.show:
        contact_sheet.write_inputs(options.show, drawn, total)
    if options.attention:
        contact_sheet.write_attention(options.attention, drawn, total, predictor)


def serve(
    predictor: "Predictor",
    options: argparse.Namespace,
    prepare: Callable[[str], "PreparedImage"],
) -> None:
    """Serve the page: with a drawing field for digits, with test images for other networks."""
    with extra("--serve"):
        from src.extras.page import server
        from src.extras.paper.strokes import strokes_of
    draws = strokes_of(predictor.dataset) is not None
    examples = [] if draws else test_images(predictor, options.data)
    server.serve(predictor, examples, options.host, options.port, prepare, draws=draws)


def test_images(predictor: "Predictor", root: str | None) -> list[tuple[Any, str]]:
    """Return some test images with their classes; none if the dataset is not here."""
    import torch

    from src.data.splits import open_split

    try:
        images = open_split(predictor.dataset, "test", root=root)
        if not images:
            return []
        # Evenly spaced, because files may be sorted by class.
        indices = torch.linspace(0, len(images) - 1, EXAMPLES).long().unique()
        pixels, labels = images.__getitems__(indices)
    except InputError:
        return []
    names = [predictor.classes[label] for label in labels.tolist()]
    return list(zip(pixels, names, strict=True))


@contextlib.contextmanager
def extra(flag: str) -> Iterator[None]:
    """Raise InputError if the import in the block fails because src/extras is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("src.extras"):
            raise
        raise InputError(f"{flag}: the folder src/extras is missing; restore it") from None


if __name__ == "__main__":
    # Before PyTorch is imported: its waiting threads sleep, so that others can read files.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    with exit_on_input_error():
        main(sys.argv[1:])
