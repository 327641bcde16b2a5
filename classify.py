"""Classify images with a trained network.

python classify.py photo.png                      use the best checkpoint of the newest run
python classify.py photos '*.jpg' --csv           folders and patterns, output as CSV (or --json)
python classify.py --ckpt data/runs/mnist/version_0 digit.png
python classify.py photo.png --show input.png     save the image as the network sees it
python classify.py photo.png --attention at.png   save an attention map
python classify.py photos --unsure 0.9            answer "unsure" below a probability of 0.9
python classify.py photos --embeddings out.npz    save the features before the last layer
python classify.py --index 0                      classify a test image of the dataset
python classify.py --serve                        serve a web page for drawings and photos

If any of several files cannot be read, its row contains the error and the exit code is 1.
"""

import argparse
import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from src.errors import ArgumentParser, InputError, exit_on_input_error, printable

if TYPE_CHECKING:
    from src.inference.predictor import Predictor, PreparedImage

EXAMPLES = 12  # number of test images on the web page
MAX_DRAWN = 64  # maximum number of images in the output of --show and --attention


def main(args: list[str]) -> None:
    options = parse(args)
    # Imported late: these take seconds, and Ctrl-C must work meanwhile.
    from src.inference import batch, output
    from src.inference.embeddings import Embeddings

    paths = batch.find_images(options.images)
    check_outputs(options, paths)
    predictor = load_predictor(options)
    prepare = find_reader(predictor, "auto" if options.serve else options.invert)
    if options.serve:
        serve_page(predictor, options, prepare)
        return
    start = time.monotonic()
    if options.index is None:
        results = batch.classify(predictor, paths, options.top_k, prepare, options.unsure)
    else:
        results = iter([classify_test_image(predictor, options)])
        paths = [f"{predictor.dataset.name} test image {options.index}"]
    embeddings = Embeddings(predictor) if options.embeddings else None
    drawn: list[tuple[dict[str, Any], PreparedImage]] = []
    errors = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal errors
        for row, image in batch.with_progress(results, len(paths)):
            if image is None:
                errors += 1
            elif len(drawn) < MAX_DRAWN:
                drawn.append((row, image))
            if embeddings and image:
                embeddings.add(row["path"], image.image)
            yield row

    answers = options.unsure is not None
    output.print_rows(rows(), options.format, paths, predictor.classes, options.top_k, answers)
    if len(paths) > 1:
        seconds = time.monotonic() - start
        failed = f"; {errors:,} could not be read" if errors else ""
        print(f"{len(paths):,} images in {seconds:.1f} s{failed}", file=sys.stderr)
    draw(options, drawn, predictor)
    if embeddings:
        embeddings.write(options.embeddings)
    if errors:
        sys.exit(1)


def load_predictor(options: argparse.Namespace) -> "Predictor":
    """Load the network that `--ckpt` refers to; without `--ckpt`, also print which one is used.

    Raises:
        InputError: there is no such checkpoint, or `--attention` was given for a CNN.
    """
    from src.inference.predictor import Predictor
    from src.runs.directory import find_checkpoint

    predictor = Predictor(find_checkpoint(options.ckpt), options.device)
    if options.attention and predictor.checkpoint.network.kind != "vit":
        raise InputError("--attention: a CNN has no attention; use a run of a ViT")
    if not options.ckpt:
        note_default(options, predictor)
    return predictor


def note_default(options: argparse.Namespace, predictor: "Predictor") -> None:
    """Print which network is used without --ckpt."""
    note = (
        f"using the newest run, {predictor.checkpoint.path}, trained on {predictor.dataset.name}; "
        "use --ckpt to choose a different one"
    )
    if predictor.checkpoint.path.suffix == ".safetensors":
        note = (
            "no trained network found; using the bundled network for handwritten digits (mnist); "
            "for photos of animals and objects, use --ckpt cifar100"
        )
    elif options.format or options.index is not None:
        return
    print(f"note: {printable(note)}", file=sys.stderr)


def parse(args: list[str]) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="image files, folders or patterns (*.png)")
    add("--index", type=int, metavar="N", help="classify test image N of the dataset")
    add(
        "--ckpt",
        metavar="PATH",
        help="checkpoint, run directory, folder of runs (the newest is used), or bundled network: "
        "mnist or cifar100 (default: the newest run in data/runs or, without one, mnist)",
    )
    add("--data", metavar="DIR", help="dataset directory (default: as in training)")
    add("--top-k", type=int, default=3, metavar="K", help="number of classes (default: 3)")
    formats = parser.add_mutually_exclusive_group()
    for name, content in (("json", "a JSON list of {path, predictions}"), ("csv", "a CSV table")):
        formats.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, help=f"print {content}"
        )
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, mps (default: auto)")
    add("--serve", action="store_true", help="serve a web page for drawings and photos")
    add("--port", type=int, default=7860, metavar="N", help="port for --serve (default: 7860)")
    add(
        "--host",
        default="127.0.0.1",
        metavar="H",
        help="address for --serve; 0.0.0.0 accepts connections from other machines",
    )
    add(
        "--invert",
        default="auto",
        choices=("auto", "yes", "no"),
        help="swap dark and light: yes for dark strokes on a light background; auto decides for "
        "each image if the network was trained on digits, and never swaps otherwise",
    )
    add("--show", metavar="PNG", help="save the first 64 images as the network sees them")
    add("--attention", metavar="PNG", help="save attention maps of the first 64 images")
    add("--unsure", type=float, metavar="P", help="answer 'unsure' below the probability P")
    add("--embeddings", metavar="NPZ", help="save features (the input of the last layer) and paths")
    options = parser.parse_args(args)
    check(options)
    return options


def check(options: argparse.Namespace) -> None:
    """Raise InputError if a value is out of range, or flags conflict."""
    if bool(options.images) + (options.index is not None) + options.serve != 1:
        raise InputError("pass either image files, --index N, or --serve; see --help")
    if options.top_k < 1:
        raise InputError(f"--top-k must be at least 1, got {options.top_k}")
    if options.unsure is not None and not 0 < options.unsure <= 1:
        raise InputError(f"--unsure must be above 0 and at most 1, got {options.unsure:g}")
    for flag in ("show", "attention", "embeddings"):
        if options.serve and (path := getattr(options, flag)):
            raise InputError(f"--{flag} {path}: cannot be combined with --serve; omit one")


def find_reader(predictor: "Predictor", invert: Any) -> Callable[[str], "PreparedImage"]:
    """Return a function that reads an image file; for digits, it also handles photos of paper."""
    with contextlib.suppress(ModuleNotFoundError):
        from src.extras.paper.reader import digit_reader

        if reader := digit_reader(predictor.dataset, invert):
            return reader
    return lambda path: predictor.prepare(path, invert == "yes")


def classify_test_image(
    predictor: "Predictor", options: argparse.Namespace
) -> tuple[dict[str, Any], "PreparedImage"]:
    """Return the output row and the image for `--index`."""
    import torch

    from src.data.splits import open_split
    from src.inference.batch import make_row
    from src.inference.predictor import PreparedImage

    index, name = options.index, predictor.dataset.name
    images = open_split(predictor.dataset, "test", root=options.data, download=True)
    if not images:
        raise InputError(f"{name} has no test images; pass image files instead of --index")
    if not 0 <= index < len(images):
        raise InputError(
            f"--index {index}: {name} has {len(images):,} test images; use 0 to {len(images) - 1}"
        )
    pixels, labels = images.__getitems__(torch.tensor([index]))
    predictions = predictor.top(pixels, options.top_k)[0]
    row = make_row(f"{name} test image {index}", predictions, [], options.unsure)
    row["target"] = predictor.classes[int(labels[0])]
    return row, PreparedImage(pixels[0], [])


def check_outputs(options: argparse.Namespace, images: list[str]) -> None:
    """Reject invalid paths for --show, --attention and --embeddings."""
    from src.inference.output import check_path

    for flag, path, suffix in (
        ("--show", options.show, ".png"),
        ("--attention", options.attention, ".png"),
        ("--embeddings", options.embeddings, ".npz"),
    ):
        if path:
            check_path(path, flag, suffix, images)
    if options.show and options.show == options.attention:
        raise InputError(f"--show and --attention {options.show}: use two different files")
    if options.show or options.attention:
        with extra("--show and --attention"):
            importlib.import_module("src.extras.report.contact_sheet")


def draw(
    options: argparse.Namespace,
    drawn: list[tuple[dict[str, Any], "PreparedImage"]],
    predictor: "Predictor",
) -> None:
    """Write the contact sheets for --show and --attention."""
    if not (options.show or options.attention):
        return
    from src.extras.report import contact_sheet

    if options.show:
        contact_sheet.write_inputs(options.show, drawn)
    if options.attention:
        contact_sheet.write_attention(options.attention, drawn, predictor)


def serve_page(
    predictor: "Predictor",
    options: argparse.Namespace,
    prepare: Callable[[str], "PreparedImage"],
) -> None:
    """Serve the web page, with a drawing canvas for digits and test images for other datasets."""
    with extra("--serve"):
        from src.extras.page.page import Page
        from src.extras.page.server import serve
        from src.extras.paper.strokes import strokes_of
    draws = strokes_of(predictor.dataset) is not None
    examples = [] if draws else test_images(predictor, options.data)
    page = Page(predictor, examples, prepare, draws, options.unsure)
    serve(page, options.host, options.port)


def test_images(predictor: "Predictor", root: str | None) -> list[tuple[Any, str]]:
    """Return some test images with their class names, or [] if the dataset is not available."""
    import torch

    from src.data.splits import open_split

    try:
        images = open_split(predictor.dataset, "test", root=root)
        if not images:
            return []
        # Choose evenly spaced images, because the files may be sorted by class.
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
    # Set this before PyTorch is imported, so that idle threads sleep immediately and leave the CPU
    # to the threads that read files.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    with exit_on_input_error():
        main(sys.argv[1:])
