"""Export a trained network to a file for other programs, and describe its use in a JSON file.

python -m src.extras.export data/runs/mnist/version_0 --format onnx           onnxruntime and others
python -m src.extras.export data/runs/mnist/version_0 --format onnx_int8      a third of the size
python -m src.extras.export data/runs/mnist/version_0 --format torch_export   PyTorch alone
python -m src.extras.export data/runs/mnist/version_0 --format safetensors    weights, for timm

ONNX and torch.export files take batches of images [batch, C, S, S] of any size, normalize them and
return logits [batch, classes]. Images are uint8 from 0 to 255, or with --input float32 from 0 to 1.
Where images are light strokes on black, the file also inverts and centers them. A file is kept only
if it gives the network's own logits for images of the dataset (onnx_int8: the classes of 99%).
"""

import argparse
import importlib.util
import json
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from src.errors import ArgumentParser, InputError, one_line, printable
from src.extras.export.describe import Description, describe, sidecar, summary, timm_of
from src.extras.export.formats import FORMATS, Run
from src.extras.export.samples import sample_images
from src.inference.predictor import Predictor
from src.runs.atomic import open_atomically
from src.runs.directory import find_checkpoint
from src.transforms.patchify import normalize

IMAGES = 256  # on which a file is checked


def main(args: list[str]) -> None:
    options = parse(args)
    checkpoint = find_checkpoint(options.run, flag="RUN")
    extension = FORMATS[options.format].extension
    output = options.output or checkpoint.with_suffix(extension)
    if not output.name.endswith(extension):
        raise InputError(
            f"--output {output}: files of --format {options.format} end in {extension}; rename it"
        )
    description = export(
        checkpoint, options.format, output, options.input, options.force, options.data
    )
    size = output.stat().st_size / 2**20
    lines = [f"{output} ({size:.2f} MiB), described in {sidecar(output)}"]
    lines += [*summary(description), "", "Use it in Python:"]
    lines += [f"  {line}" for line in description["python"].splitlines()]
    for line in lines:
        print(printable(line))


def parse(args: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m src.extras.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="run directory (its best checkpoint, or last), or checkpoint")
    add("--format", choices=FORMATS, required=True)
    add("--output", type=Path, metavar="PATH", help="file to write (default: by the checkpoint)")
    add("--force", action="store_true", help="replace existing files")
    add("--input", choices=("uint8", "float32"), help="type of the images (default: uint8)")
    add("--data", metavar="DIR", help="folder of the datasets (default: as in training)")
    options = parser.parse_args(args)
    if options.input and options.format == "safetensors":
        raise InputError(f"--input {options.input}: a file of weights has no input; leave it out")
    return options


def export(
    checkpoint: Path,
    format: str,
    output: Path,
    dtype: str | None = None,
    force: bool = False,
    data: str | None = None,
) -> Description:
    """Write the network of a checkpoint to `output`, and its description next to it.

    Args:
        checkpoint: written by `train.py`.
        format: a key of `FORMATS`.
        output: the file to write.
        dtype: type of the images that the file takes, `uint8` (0 to 255) or `float32` (0 to 1).
        force: replace existing files.
        data: folder of the datasets, if not as in training.

    Returns:
        The description.

    Raises:
        InputError: a package is missing, a file exists, the checkpoint cannot be used, or the check
            failed; existing files are then unchanged.
    """
    _check_output(output, force)
    _require(format, FORMATS[format].packages)
    predictor = Predictor(checkpoint, "cpu")
    if format == "safetensors":
        dtype = "normalized"
        if timm_of(predictor):
            _require(format, ("timm",))
    dtype = dtype or "uint8"
    description = describe(predictor, format, dtype, output)
    images, source = sample_images(predictor.dataset, IMAGES, data)
    with open_atomically(sidecar(output)) as text, open_atomically(output) as file:
        difference, changed = _write(file, format, dtype, predictor, images)
        limits = FORMATS[format]
        is_same = changed <= limits.max_changed * len(images)
        if not is_same or not difference <= limits.max_difference:
            raise InputError(
                f"{output}: not written, because it is not the network: on {len(images)} {source}, "
                f"logits differ by up to {difference:.1e}, and {changed} classes; use the versions "
                "in requirements-export.txt"
            )
        description["checked"] = {
            "images": len(images),
            "source": source,
            "largest_difference": difference,
            "changed_classes": changed,
        }
        text.write((json.dumps(description, indent=2) + "\n").encode())
    return description


def to_input(images: Tensor, dtype: str, predictor: Predictor) -> Tensor:
    """uint8 [B, C, S, S] -> what a file with this type of input takes."""
    if dtype == "normalized":
        return normalize(images, predictor.dataset.mean, predictor.dataset.std)
    return images if dtype == "uint8" else images / 255


@torch.no_grad()
def compare(run: Run, predictor: Predictor, images: Tensor, dtype: str) -> tuple[float, int]:
    """Return by how much logits of the file differ from the network's, and how many classes do.

    The first image is a batch of its own, so that a file for a single size of batch is noticed.
    """
    batches = [batch for batch in (images[:1], images[1:]) if len(batch)]
    actual = torch.cat([run(to_input(batch, dtype, predictor)) for batch in batches])
    expected = predictor.classifier.logits(images)
    if actual.shape != expected.shape:
        return float("inf"), len(images)
    changed = actual.argmax(dim=1) != expected.argmax(dim=1)
    return (actual - expected).abs().max().item(), int(changed.sum())


def _check_output(output: Path, force: bool) -> None:
    if output.is_dir():
        raise InputError(f"{output}: is a directory; name a file in it")
    for path in (output, sidecar(output)):
        if path.exists() and not force:
            raise InputError(f"{path}: exists; replace it with --force, or choose another --output")


def _require(format: str, packages: tuple[str, ...]) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format {format}: not installed: {', '.join(missing)}; pip install -r "
            "requirements-export.txt"
        )


def _write(
    file: BinaryIO, format: str, dtype: str, predictor: Predictor, images: Tensor
) -> tuple[float, int]:
    """Write the file, open it again, and `compare`."""
    try:
        file.write(FORMATS[format].make(predictor, dtype))
        file.flush()
        run = FORMATS[format].open(predictor, Path(file.name))
        return compare(run, predictor, images, dtype)
    except (InputError, OSError):
        raise
    except Exception as error:  # packages that do not fit each other can raise anything
        raise InputError(
            f"--format {format}: failed ({type(error).__name__}: {one_line(error)}); use the "
            "versions in requirements-export.txt"
        ) from error
