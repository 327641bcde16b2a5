"""Classify images with a trained network.

python classify.py photo.png                      newest run's best checkpoint
python classify.py photos '*.jpg' --csv           folders and patterns as well; a table, --csv, or --json
python classify.py --ckpt data/runs/mnist/version_0 digit.png
python classify.py photo.png --show given.png     a picture of what the network was given of the photo
python classify.py photo.png --attention at.png   a picture of where it looked
python classify.py --index 0                      test image 0 of the checkpoint's dataset, with its true class
python classify.py --serve                        a page to draw on, or to show photos to

A file among several that cannot be read is said in its row, and the exit code is 1.
"""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

from src.errors import ArgumentParser, InputError, exit_on_input_error, printable

EXAMPLES = 12  # test images on the page
INVERT = ("auto", "yes", "no")

# Before PyTorch is imported: its waiting threads sleep, and leave the cores to those that read files.
os.environ.setdefault("GOMP_SPINCOUNT", "0")


def main(args: list[str]) -> None:
    options = parse(args)
    # Not at the top: it takes seconds, in which Ctrl-C must already end well.
    from src.extras.report import contact_sheet as sheets
    from src.inference import batch as files
    from src.inference import output as tables
    from src.inference.predictor import Given, Predictor
    from src.runs.directory import find_checkpoint

    paths = files.find_images(options.images)
    for flag, path in (("--show", options.show), ("--attention", options.attention)):
        if path:
            sheets.check_path(path, flag, paths)
    if options.show and options.show == options.attention:
        raise InputError(
            f"--attention {options.attention}: would replace the picture of --show; name another"
        )
    checkpoint = find_checkpoint(options.ckpt, Path(options.runs))
    predictor = Predictor(checkpoint, options.device)
    if options.serve:
        return serve(predictor, options)
    if options.index is None:
        results = files.classify(predictor, paths, options.top_k, options.invert)
    else:
        image, target, name = test_image(predictor, options.index, options.data)
        paths, top = [name], predictor.top(image, options.top_k)[0]
        results = [({"path": name, "predictions": top, "target": target}, Given(image[0], []))]
    kept, errors, start = [], 0, time.monotonic()

    def rows():
        nonlocal errors
        for row, given in files.with_progress(results, len(paths)):
            errors += given is None
            if given and len(kept) < sheets.MOST:
                kept.append((row, given))
            yield row

    tables.write(rows(), options.format, paths, predictor.classes, options.top_k)
    if not options.ckpt and not options.format and options.index is None:
        newest = f"the newest run, trained on {predictor.dataset['name']}"  # may not be the one that was thought of
        print(
            f"note: by {printable(str(checkpoint))}, {newest}; --ckpt names another",
            file=sys.stderr,
        )
    if len(paths) > 1:
        files.say_how_many(len(paths), errors, time.monotonic() - start)
    if options.show:
        sheets.write_given(options.show, kept, len(paths))
    if options.attention:
        sheets.write_attention(options.attention, kept, len(paths), predictor)
    if errors:
        sys.exit(1)


def parse(args: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="image files, folders of images, patterns like '*.png'",
    )
    parser.add_argument(
        "--index", type=int, metavar="N", help="classify test image N of the checkpoint's dataset"
    )
    parser.add_argument(
        "--ckpt", metavar="PATH", help="checkpoint or run directory (default: the newest run)"
    )
    parser.add_argument(
        "--runs", default="data/runs", metavar="DIR", help="folder of all runs (default: data/runs)"
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of the datasets, for --index (default: as in training)",
    )
    parser.add_argument(
        "--top-k", type=int, default=3, metavar="K", help="classes to show (default: 3)"
    )
    formats = parser.add_mutually_exclusive_group()
    for name, what in (
        ("json", "a list of {path, predictions}"),
        ("csv", "a table for spreadsheets"),
    ):
        formats.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, help=f"print {what}"
        )
    parser.add_argument(
        "--device", default="auto", metavar="D", help="auto, cpu, cuda, mps (default: auto)"
    )
    parser.add_argument(
        "--serve", action="store_true", help="serve a page to draw on, or to show photos to"
    )
    parser.add_argument(
        "--port", type=int, default=7860, metavar="N", help="of --serve (default: 7860)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="of --serve; 0.0.0.0 lets others in"
    )
    parser.add_argument(
        "--invert",
        default="auto",
        choices=INVERT,
        help="swap dark and light: yes (or nothing), for dark digits on light paper; no; auto: find out (default)",
    )
    parser.add_argument(
        "--show", metavar="PNG", help="write a picture of what the network was given of each image"
    )
    parser.add_argument(
        "--attention",
        metavar="PNG",
        help="write a picture of where in each image the network looked",
    )
    pairs = zip(args, [*args[1:], "-"], strict=False)
    options = parser.parse_args(
        [
            f"{arg}=yes" if arg == "--invert" and _is_no_choice(value) else arg
            for arg, value in pairs
        ]
    )
    if bool(options.images) + (options.index is not None) + options.serve != 1:
        raise InputError(
            "name image files, or one --index N of the dataset's test images, or --serve; see --help"
        )
    if options.top_k < 1:
        raise InputError(f"--top-k {options.top_k}: use 1 or more")
    return options


def test_image(predictor, index: int, root: str | None):
    """Test image `index` of a Predictor's dataset: uint8 [1, C, H, W], its class, and a name to show."""
    import torch

    images, name = dataset_of(predictor, root), predictor.dataset["name"]
    if not 0 <= index < len(images):
        raise InputError(
            f"--index {index}: {name} has {len(images):,} test images; use 0 to {len(images) - 1}"
        )
    pixels, labels = images.__getitems__(torch.tensor([index]))
    return pixels, predictor.classes[int(labels[0])], f"{name} test image {index}"


def serve(predictor, options: argparse.Namespace) -> None:
    """The page; where one cannot draw, with test images to choose from, if the dataset is there."""
    import torch

    from src.extras.page import server

    examples = []
    if not predictor.dataset.get("strokes"):
        with contextlib.suppress(InputError):
            images = dataset_of(predictor, options.data, download=False)
            spread = (
                torch.linspace(0, len(images) - 1, EXAMPLES).long().unique()
            )  # some files are sorted by class
            pixels, labels = images.__getitems__(spread)
            examples = [
                (image, predictor.classes[label])
                for image, label in zip(pixels, labels.tolist(), strict=True)
            ]
    server.serve(predictor, examples, options.host, options.port)


def dataset_of(predictor, root: str | None, download: bool = True):
    """All test images of a Predictor's dataset, an `ImageSet`; `root` is where to look, if not as in training."""
    from src.data import modules  # only here: the datasets need Lightning and torchvision

    dataset = predictor.dataset
    kind = getattr(modules, str(dataset["module"]), None)
    if not (isinstance(kind, type) and issubclass(kind, modules.ImageDataModule)):
        raise InputError(
            f"the checkpoint's dataset {dataset['module']!r} is unknown; name image files instead"
        )
    extra = {}
    if kind is modules.FolderDataModule:
        extra = {key: dataset[key] for key in ("image_size", "channels", "mean", "std")}
    module = kind(root=root or dataset["root"], patch_size=dataset["patch_size"], **extra)
    module.download = download
    module.setup("test")
    if not module.sets["test"]:
        raise InputError(
            f"{module.root}: the dataset has no test images; name image files instead of --index"
        )
    return module.sets["test"]


def _is_no_choice(value: str) -> bool:
    """Whether what follows `--invert` is another flag, or images, rather than a choice (perhaps a misspelled one)."""
    return value not in INVERT and (any(c in value for c in "-./*?[") or os.path.exists(value))


if __name__ == "__main__":
    sys.stdout.reconfigure(
        errors="replace"
    )  # not every terminal can show every file name, or the bars
    with exit_on_input_error():
        main(sys.argv[1:])
