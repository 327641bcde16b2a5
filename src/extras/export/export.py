"""Export a trained network for other programs, with a JSON file that describes how to use it.

python -m src.extras.export data/runs/mnist/version_0 --format onnx           for ONNX runtimes
python -m src.extras.export data/runs/mnist/version_0 --format onnx_int8      a third of the size
python -m src.extras.export data/runs/mnist/version_0 --format torch_export   for PyTorch only
python -m src.extras.export data/runs/mnist/version_0 --format safetensors    weights, for timm

ONNX and torch.export files take uint8 images [batch, C, S, S] with any batch size, normalize them
and return logits [batch, classes]. If the training images show light strokes on black, the file
also inverts and centers its input. Before a file is kept, its logits are compared with those of the
network on images of the dataset (for onnx_int8: 99% of the predicted classes must agree).
"""

import argparse
import importlib.util
import json
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from src.errors import ArgumentParser, InputError, one_line, printable
from src.extras.export.describe import Description, describe, sidecar, summary
from src.extras.export.formats import FORMATS
from src.extras.export.samples import sample_images
from src.inference.predictor import Predictor
from src.runs.atomic import open_atomically
from src.runs.directory import find_checkpoint
from src.transforms.patchify import normalize

IMAGES = 256  # number of images used to check a file


def main(args: list[str]) -> None:
    parser = ArgumentParser(
        prog="python -m src.extras.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="checkpoint, or run directory (its best checkpoint, or last)")
    add("--format", choices=FORMATS, required=True)
    add("--output", type=Path, metavar="PATH", help="output file (default: next to the checkpoint)")
    add("--force", action="store_true", help="replace existing files")
    add("--data", metavar="DIR", help="folder of the datasets (default: as in training)")
    options = parser.parse_args(args)
    checkpoint = find_checkpoint(options.run, flag="RUN")
    output = options.output or checkpoint.with_suffix(FORMATS[options.format].extension)
    description = export(checkpoint, options.format, output, options.force, options.data)
    size = output.stat().st_size / 2**20
    lines = [f"{output} ({size:.2f} MiB), described in {sidecar(output)}"]
    lines += [*summary(description), "", "Use it in Python:"]
    lines += [f"  {line}" for line in description["python"].splitlines()]
    for line in lines:
        print(printable(line))


def export(
    checkpoint: Path, format: str, output: Path, force: bool = False, data: str | None = None
) -> Description:
    """Export the network of a checkpoint to `output`, and write its description next to it.

    Args:
        checkpoint: checkpoint written by `train.py`.
        format: a key of `FORMATS`.
        output: path of the output file.
        force: replace existing files.
        data: dataset folder; None selects the folder used in training.

    Returns:
        The description.

    Raises:
        InputError: a package is missing, a file exists, the checkpoint cannot be used, or the check
            failed. Existing files are left unchanged.
    """
    _check_output(output, force)
    _check_packages(format)
    predictor = Predictor(checkpoint, "cpu")
    description = describe(predictor, format, output)
    images, source = sample_images(predictor.dataset, IMAGES, data)
    with open_atomically(sidecar(output)) as text, open_atomically(output) as file:
        difference, changed = _write(file, format, predictor, images)
        limits = FORMATS[format]
        if changed > limits.max_changed * len(images) or not difference <= limits.max_difference:
            raise InputError(
                f"{output}: not written, because it differs from the network on {len(images)} "
                f"{source}: {changed} classes differ, logits differ by up to {difference:.1e}; use "
                "the versions in requirements-export.txt"
            )
        description["checked"] = {
            "images": len(images),
            "source": source,
            "largest_difference": difference,
            "changed_classes": changed,
        }
        text.write(f"{json.dumps(description, indent=2)}\n".encode())
    return description


def to_input(images: Tensor, dtype: str, predictor: Predictor) -> Tensor:
    """Convert uint8 images [B, C, S, S] to the input type of a file: `uint8` or `normalized`."""
    if dtype == "normalized":
        return normalize(images, predictor.dataset.mean, predictor.dataset.std)
    return images


def _check_output(output: Path, force: bool) -> None:
    for path in (output, sidecar(output)):
        if path.is_dir() or (path.exists() and not force):
            raise InputError(f"{path}: exists; replace files with --force, or change --output")


def _check_packages(format: str) -> None:
    packages = FORMATS[format].packages
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format {format} needs {', '.join(missing)}; run pip install -r "
            "requirements-export.txt"
        )


@torch.no_grad()
def _write(file: BinaryIO, format: str, predictor: Predictor, images: Tensor) -> tuple[float, int]:
    """Write the file, open it again, and compare its logits with the network's.

    Returns:
        The largest logit difference, and the number of images whose predicted class changes.
    """
    dtype = "normalized" if format == "safetensors" else "uint8"
    try:
        file.write(FORMATS[format].make(predictor))
        file.flush()
        run = FORMATS[format].open(predictor, Path(file.name))
        inputs = to_input(images, dtype, predictor)
        # The first image is a batch of its own, to detect files with a fixed batch size.
        actual = torch.cat([run(inputs[:1]), run(inputs[1:])])
        expected = predictor.classifier.logits(images)
        changed = actual.argmax(dim=1) != expected.argmax(dim=1)
        return (actual - expected).abs().max().item(), int(changed.sum())
    except OSError:
        raise
    except Exception as error:  # incompatible package versions can raise any exception
        raise InputError(
            f"--format {format}: failed ({type(error).__name__}: {one_line(error)}); use the "
            "versions in requirements-export.txt"
        ) from error
