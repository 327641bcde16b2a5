"""Export a trained network to a file that other programs run, with its preprocessing described beside it as JSON.

python -m src.extras.export data/runs/mnist/version_0 --format onnx            for onnxruntime, and any other of ONNX
python -m src.extras.export data/runs/mnist/version_0 --format torch_export    for PyTorch without this program
python -m src.extras.export data/runs/mnist/version_0 --format safetensors     weights, in timm's names if it can

An ONNX or torch.export file takes images [batch, C, S, S] of any batch, normalizes them itself, and gives logits
[batch, classes]. Its images are uint8 from 0 to 255, or with --input float32 floats from 0 to 1. A file is kept only if
it gives the network's own logits for images of the dataset.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from src.errors import ArgumentParser, InputError, exit_on_input_error
from src.extras.export.formats import FORMATS, Network, Run
from src.extras.export.samples import sample_images
from src.inference.predictor import Predictor
from src.runs.atomic import open_atomically
from src.runs.checkpoint import load_checkpoint
from src.runs.directory import find_checkpoint
from src.transforms.patchify import normalize

IMAGES = 256  # that a file is checked on
TOLERANCE = 1e-4  # the largest difference of a logit
INPUTS = {
    "uint8": "from 0 to 255",
    "float32": "from 0 to 1",
    "normalized": "from 0 to 1, then less mean and divided by std, channel by channel",
}


def main(args: list[str]) -> None:
    options = parse(args)
    checkpoint = find_checkpoint(options.run, flag="RUN")
    file = FORMATS[options.format]
    output = options.output or checkpoint.with_suffix(file.ending)
    if output.suffix != file.ending:
        raise InputError(
            f"--output {output}: the files of --format {options.format} end in {file.ending}"
        )
    described = export(
        checkpoint, options.format, output, options.input, options.force, options.data
    )
    print(f"{output} ({output.stat().st_size / 2**20:.2f} MiB), described in {beside(output)}")
    print("\n".join([*said(described), "", *usage(described, output)]))


def parse(args: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m src.extras.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="run directory (its best checkpoint, else the last), or checkpoint",
    )
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument(
        "--output", type=Path, metavar="PATH", help="file to write (default: beside the checkpoint)"
    )
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument(
        "--input", choices=("uint8", "float32"), help="type of the images (default: uint8)"
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of the datasets, for the check (default: as in training)",
    )
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
) -> dict:
    """Write the checkpoint's network to `output`, and what it is beside it -> that description.

    Args:
        format: a key of `FORMATS`.
        dtype: type of the images that the file takes, `uint8` (0 to 255) or `float32` (0 to 1).
        force: whether files that are there are replaced.
        data: folder of the datasets, if not as in training; the check takes images of the dataset.

    Raises:
        InputError: a package is missing, a file is there, the checkpoint cannot be used, or the check has failed; the
            files that were there are then as they were.
    """
    if output.is_dir():
        raise InputError(
            f"{output}: is a directory; name a file in it, for example {output / checkpoint.stem}"
        )
    for path in (output, beside(output)):
        if path.exists() and not force:
            raise InputError(
                f"{path}: is there already; add --force to write over it, or choose another --output"
            )
    require(format, FORMATS[format].packages)
    predictor, network = open_network(checkpoint)
    if format == "safetensors" and network.timm:
        require(format, ("timm",))
    dtype = "normalized" if format == "safetensors" else dtype or "uint8"
    described = {"file": output.name, "checkpoint": str(checkpoint)} | describe(
        predictor, network, format, dtype
    )
    images, source = sample_images(predictor.dataset, IMAGES, data)
    with open_atomically(beside(output)) as description, open_atomically(output) as file:
        difference = _write(file, format, dtype, predictor, network, images)
        if not difference <= TOLERANCE:
            raise InputError(
                f"{output}: not written: asked about {len(images)} {source}, it is not the network (its logits differ "
                f"by {difference:.1e}, or its classes); use the versions that requirements-export.txt names"
            )
        described["checked"] = {
            "images": len(images),
            "source": source,
            "largest_difference": difference,
        }
        description.write((json.dumps(described, indent=2) + "\n").encode())
    return described


def _write(
    file, format: str, dtype: str, predictor: Predictor, network: Network, images: Tensor
) -> float:
    """Fill the file and open it again -> by how much its logits differ from the network's."""
    try:
        file.write(FORMATS[format].make(network, dtype))
        file.flush()
        run = FORMATS[format].open(network, Path(file.name))
        return largest_difference(run, predictor, images, dtype)
    except (InputError, OSError):
        raise
    except Exception as error:  # of packages that have to fit each other and PyTorch
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"--format {format}: failed ({reason}); use the versions that requirements-export.txt names"
        ) from error


def beside(output: Path) -> Path:
    """The file that describes an export."""
    return output.with_name(output.name + ".json")


def require(format: str, packages: tuple[str, ...]) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        what = (
            f"the package {missing[0]} is"
            if len(missing) == 1
            else f"the packages {', '.join(missing)} are"
        )
        raise InputError(
            f"--format {format}: {what} missing; pip install -r requirements-export.txt"
        )


def open_network(checkpoint: Path) -> tuple[Predictor, Network]:
    predictor = Predictor(checkpoint, "cpu")
    hparams = load_checkpoint(checkpoint)["hyper_parameters"]
    description = {"network": hparams["network"], "ensemble": hparams.get("ensemble", 1)}
    shape = (predictor.channels, predictor.image_size, predictor.image_size)
    return predictor, Network(predictor.classifier, shape, description)


def prepare(images: Tensor, dtype: str, dataset: dict) -> Tensor:
    """uint8 [B, C, S, S] -> what a file with this input takes."""
    if dtype == "normalized":
        return normalize(images, dataset["mean"], dataset["std"])
    return images if dtype == "uint8" else images / 255


@torch.no_grad()
def largest_difference(run: Run, predictor: Predictor, images: Tensor, dtype: str) -> float:
    """Of a logit, between the file and the network; infinite if the class of an image differs.

    The first image is asked about alone, to see that the batch may vary.
    """
    parts = [part for part in (images[:1], images[1:]) if len(part)]
    found = torch.cat([run(prepare(part, dtype, predictor.dataset)) for part in parts])
    expected = predictor.classifier.logits(images)
    same = found.shape == expected.shape and found.argmax(dim=1).equal(expected.argmax(dim=1))
    return (found - expected).abs().max().item() if same else float("inf")


# What is said of a file --------------------------------------------------------------------------------------------


def describe(predictor: Predictor, network: Network, format: str, dtype: str) -> dict:
    """All that a program needs to use the file, in plain primitives."""
    C, S, _ = network.shape
    described = {
        "format": format,
        "dataset": predictor.dataset["name"],
        "classes": predictor.classes,
        **{key: predictor.dataset[key] for key in ("image_size", "channels", "mean", "std")},
        "resize": "crop the center square, then resize it with bicubic interpolation and antialiasing",
        "input": {
            "name": "images",
            "type": "uint8" if dtype == "uint8" else "float32",
            "shape": ["batch", C, S, S],
        },
        "output": {"name": "logits", "type": "float32", "shape": ["batch", len(predictor.classes)]},
        "parameters": sum(p.numel() for p in network.classifier.parameters()),
        "torch": torch.__version__,
    }
    described["input"]["values"] = INPUTS[dtype]
    described["output"]["values"] = "their softmax the probabilities of the classes"
    if format == "safetensors":
        described |= {"timm": network.timm} if network.timm else {"build": network.description}
    return described


def said(described: dict) -> list[str]:
    """What is printed of a file's input, output and check."""
    lines = []
    for key in ("input", "output"):
        part = described[key]
        shape = ", ".join(map(str, part["shape"]))
        lines.append(f"{key:8}{part['name']}: {part['type']} [{shape}], {part['values']}")
    checked = described["checked"]
    what = f"{checked['images']} {checked['source']}: the same class in each, logits the same"
    return [*lines, f"checked with {what} within {checked['largest_difference']:.1e}"]


def usage(described: dict, output: Path) -> list[str]:
    """The lines of Python that use the file."""
    path = str(output)
    if described["format"] == "onnx":
        return [
            "  import onnxruntime",
            f"  session = onnxruntime.InferenceSession({path!r})",
            '  (logits,) = session.run(None, {"images": images})  # a NumPy array',
        ]
    if described["format"] == "torch_export":
        return [
            "  import torch",
            f"  network = torch.export.load({path!r}).module()",
            "  logits = network(images)",
        ]
    if "timm" in described:
        name, *others = described["timm"].items()
        arguments = ", ".join([repr(name[1]), *(f"{key}={value!r}" for key, value in others)])
        return [
            "  import timm",
            f"  network = timm.create_model({arguments}, checkpoint_path={path!r}).eval()",
        ]
    return [
        "  from safetensors.torch import load_file",
        "  from src.models.build import build",
        f"  network = build(**{described['build']!r})",
        f"  network.load_state_dict(load_file({path!r}))",
        "  network.eval()",
    ]


if __name__ == "__main__":
    with exit_on_input_error():
        main(sys.argv[1:])
