"""Classify images with a trained network.

python classify.py photo.png                      newest run's best checkpoint
python classify.py *.jpg --top-k 5 --json         for programs
python classify.py --ckpt data/runs/mnist/version_0 digit.png
python classify.py --index 0                      test image 0 of the checkpoint's dataset, with its true class
python classify.py --serve                        a page to draw on, or to show photos to
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from src.errors import ArgumentParser, InputError, exit_on_input_error

EXAMPLES = 12  # test images on the page


def main(args: list[str]) -> None:
    options = parse(args)
    # Not at the top: it takes seconds, in which Ctrl-C must already end well.
    from src.inference.predictor import Predictor
    from src.runs.directory import find_checkpoint

    predictor = Predictor(find_checkpoint(options.ckpt, Path(options.runs)), options.device)
    if options.serve:
        return serve(predictor, options)
    if options.index is not None:
        images, target, name = test_image(predictor, options.index, options.data)
        rows = [{"path": name, "predictions": predictor.top(images, options.top_k)[0], "target": target}]
    else:
        images = predictor.read(options.images, options.invert)
        tops = predictor.top(images, options.top_k)
        rows = [{"path": path, "predictions": top} for path, top in zip(options.images, tops, strict=True)]
        if not options.invert and min(predictor.dataset["mean"]) < 0.35 and not options.json:
            hint_at_inverting(options.images, images)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows)


def parse(args: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files")
    parser.add_argument("--index", type=int, metavar="N", help="classify test image N of the checkpoint's dataset")
    parser.add_argument("--ckpt", metavar="PATH", help="checkpoint or run directory (default: the newest run)")
    parser.add_argument("--runs", default="data/runs", metavar="DIR", help="folder of all runs (default: data/runs)")
    parser.add_argument("--data", metavar="DIR", help="folder of the datasets, for --index (default: as in training)")
    parser.add_argument("--top-k", type=int, default=3, metavar="K", help="classes to show (default: 3)")
    parser.add_argument("--json", action="store_true", help="print a list of {path, predictions}")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--invert", action="store_true", help="swap dark and light, for dark digits on light paper")
    parser.add_argument("--serve", action="store_true", help="serve a page to draw on, or to show photos to")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="of --serve (default: 7860)")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="of --serve; 0.0.0.0 lets others in")
    options = parser.parse_args(args)
    if bool(options.images) + (options.index is not None) + options.serve != 1:
        raise InputError("name image files, or one --index N of the dataset's test images, or --serve; see --help")
    if options.top_k < 1:
        raise InputError(f"--top-k {options.top_k}: use 1 or more")
    return options


def test_image(predictor, index: int, root: str | None):
    """Test image `index` of a Predictor's dataset: uint8 [1, C, H, W], its class, and a name to show."""
    import torch

    images, name = dataset_of(predictor, root), predictor.dataset["name"]
    if not 0 <= index < len(images):
        raise InputError(f"--index {index}: {name} has {len(images):,} test images; use 0 to {len(images) - 1}")
    pixels, labels = images.__getitems__(torch.tensor([index]))
    return pixels, predictor.classes[int(labels[0])], f"{name} test image {index}"


def serve(predictor, options: argparse.Namespace) -> None:
    """The page; where one cannot draw, with test images to choose from, if the dataset is there."""
    import torch

    from src.inference import server

    examples = []
    if not predictor.dataset.get("strokes"):
        with contextlib.suppress(InputError):
            images = dataset_of(predictor, options.data, download=False)
            spread = torch.linspace(0, len(images) - 1, EXAMPLES).long().unique()  # some files are sorted by class
            pixels, labels = images.__getitems__(spread)
            examples = [(image, predictor.classes[label]) for image, label in zip(pixels, labels.tolist(), strict=True)]
    server.serve(predictor, examples, options.host, options.port)


def dataset_of(predictor, root: str | None, download: bool = True):
    """All test images of a Predictor's dataset, an `ImageSet`; `root` is where to look, if not as in training."""
    from src.data import modules  # only here: the datasets need Lightning and torchvision

    dataset = predictor.dataset
    kind = getattr(modules, str(dataset["module"]), None)
    if not (isinstance(kind, type) and issubclass(kind, modules.ImageDataModule)):
        raise InputError(f"the checkpoint's dataset {dataset['module']!r} is unknown; name image files instead")
    extra = {}
    if kind is modules.FolderDataModule:
        extra = {key: dataset[key] for key in ("image_size", "channels", "mean", "std")}
    module = kind(root=root or dataset["root"], patch_size=dataset["patch_size"], **extra)
    module.download = download
    module.setup("test")
    if not module.sets["test"]:
        raise InputError(f"{module.root}: the dataset has no test images; name image files instead of --index")
    return module.sets["test"]


def hint_at_inverting(paths: list[str], images) -> None:
    """Datasets of light strokes on black are common; photos of ink on paper are the opposite."""
    bright = [p for p, image in zip(paths, images.float(), strict=True) if image[:, [0, -1]].mean() > 127]
    if bright:
        print(
            f"note: {bright[0]} is light at its border, the training images are dark there; try --invert",
            file=sys.stderr,
        )


def show(rows: list[dict]) -> None:
    for row in rows:
        target = f"  (target: {row['target']})" if "target" in row else ""
        print(f"{row['path']}: {row['predictions'][0]['class']}{target}")
        for prediction in row["predictions"]:
            bar = "█" * round(24 * prediction["probability"])
            print(f"  {prediction['probability']:7.2%}  {prediction['class']:<16} {bar}")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # not every terminal can show every file name, or the bars
    with exit_on_input_error():
        main(sys.argv[1:])
