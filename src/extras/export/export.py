"""Export a trained network for other programs, with a JSON file that describes how to use it.

python -m src.extras.export data/runs/mnist/version_0 --format onnx           for ONNX runtimes
python -m src.extras.export data/runs/mnist/version_0 --format onnx_int8      a third of the size
python -m src.extras.export data/runs/mnist/version_0 --format torch_export   for PyTorch only
python -m src.extras.export data/runs/mnist/version_0 --format safetensors    weights, for timm

ONNX and torch.export files take uint8 images [batch, C, S, S] with any batch size, normalize them
and return logits [batch, classes]. A file is kept only if its logits match the network's on images
from the dataset (for onnx_int8, if 99% of the predicted classes agree).
"""

import argparse
import json
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from src.errors import ArgumentParser, InputError, one_line, printable
from src.extras.export.describe import Description, describe, sidecar
from src.extras.export.formats import FORMATS
from src.extras.export.samples import sample_images
from src.inference.predictor import Predictor
from src.runs.atomic import open_atomically
from src.runs.directory import find_checkpoint

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
    checkpoint = find_checkpoint(options.run)
    output = options.output or checkpoint.with_suffix(FORMATS[options.format].extension)
    description = export(checkpoint, options.format, output, options.force, options.data)
    size = output.stat().st_size / 2**20
    print(printable(f"{output} ({size:.2f} MiB), described in {sidecar(output)}"))
    for key in ("input", "output"):
        print(f"{key:8}{description[key]}")
    checked = description["checked"]
    print(
        f"checked with {checked['images']} {printable(checked['source'])}: "
        f"{checked['changed_classes']} classes differ, logits differ by at most "
        f"{checked['largest_difference']:.1e}"
    )
    print("\nUse it in Python:")
    for line in description["python"].splitlines():
        print(printable(f"  {line}"))


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
    suffix = output.with_suffix(FORMATS[format].extension).suffix
    if output.suffix != suffix:  # protects the other files of a run from --force
        raise InputError(f"{output}: the name must end in {suffix}; change --output")
    if output.resolve() == checkpoint.resolve():
        raise InputError(f"{output}: is the file to export; change --output")
    for path in (output, sidecar(output)):
        if path.is_dir() or (path.exists() and not force):
            raise InputError(f"{path}: exists; replace files with --force, or change --output")
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


@torch.no_grad()
def _write(file: BinaryIO, format: str, predictor: Predictor, images: Tensor) -> tuple[float, int]:
    """Write the file, open it again, and compare its logits with the network's.

    Returns:
        The largest logit difference, and the number of images whose predicted class changes.
    """
    try:
        file.write(FORMATS[format].make(predictor))
        file.flush()
        run = FORMATS[format].open(predictor, Path(file.name))
        # The first image is a batch of its own, to detect files with a fixed batch size.
        actual = torch.cat([run(images[:1]), run(images[1:])])
        expected = predictor.classifier.logits(images)
        changed = actual.argmax(dim=1) != expected.argmax(dim=1)
        return (actual - expected).abs().max().item(), int(changed.sum())
    except OSError:
        raise
    except Exception as error:  # missing or incompatible packages can raise any exception
        raise InputError(
            f"--format {format}: failed ({type(error).__name__}: {one_line(error)}); run pip "
            "install -r requirements-export.txt"
        ) from error
