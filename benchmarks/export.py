"""A network in each runtime it can be exported to: size of the file, largest difference of a logit, and speed.

python -m benchmarks.export data/runs/mnist/version_0 data/runs/cifar10_cpu/version_0

Each asks about the same real images, normalization included. They take turns, so that whatever else the machine does
disturbs them alike; each one's median round counts.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.throughput import time_of
from benchmarks.training import positive, table
from benchmarks.turns import take_turns
from src.errors import exit_on_input_error
from src.extras.export.export import IMAGES, export, largest_difference, open_network, prepare
from src.extras.export.formats import FORMATS, open_onnx
from src.extras.export.samples import sample_images
from src.runs.directory import find_checkpoint

COLUMNS = ("file_MiB", "difference", "images/s", "of PyTorch's", "ms_for_one_image")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or checkpoints")
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the datasets (default: as in training)"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for run in options.runs:
        with tempfile.TemporaryDirectory() as folder:
            measure(find_checkpoint(run, flag="RUN"), Path(folder), options)


@torch.inference_mode()
def measure(checkpoint: Path, folder: Path, options: argparse.Namespace) -> None:
    predictor, network = open_network(checkpoint)
    images, source = sample_images(predictor.dataset, IMAGES, options.data)
    rows = {"PyTorch": {"file_MiB": checkpoint.stat().st_size / 2**20, "difference": "0"}}
    runs = {"PyTorch": predictor.classifier.logits}
    for format, file in FORMATS.items():
        path = folder / f"network{file.ending}"
        with torch.inference_mode(False):
            export(checkpoint, format, path, data=options.data)
            run = (
                open_onnx(network, path, options.threads)
                if format == "onnx"
                else file.open(network, path)
            )
        dtype = "normalized" if format == "safetensors" else "uint8"
        name = {"onnx": "ONNX, onnxruntime", "torch_export": "torch.export"}.get(
            format, "safetensors, this program"
        )
        name = "safetensors, timm" if format == "safetensors" and network.timm else name
        difference = largest_difference(run, predictor, images, dtype)
        rows[name] = {"file_MiB": path.stat().st_size / 2**20, "difference": f"{difference:.1e}"}
        runs[name] = lambda batch, run=run, dtype=dtype: run(
            prepare(batch, dtype, predictor.dataset)
        )
    many, one = (
        median_seconds(runs, asked, n * options.rounds)
        for asked, n in ((images, 1), (images[:1], 10))
    )
    for name, row in rows.items():
        row |= {"images/s": len(images) / many[name], "of PyTorch's": many["PyTorch"] / many[name]}
        row["ms_for_one_image"] = 1000 * one[name]
    parameters = sum(p.numel() for p in network.classifier.parameters())
    print(
        f"\n{checkpoint}: {parameters:,} parameters, {len(images)} {source}, {options.threads} threads\n"
    )
    print(table(rows, COLUMNS))


def median_seconds(runs: dict, images: torch.Tensor, rounds: int) -> dict[str, float]:
    """Of each, asked about these images by turns."""
    turns = {
        name: lambda run=run: time_of(lambda: run(images), 1, "cpu") for name, run in runs.items()
    }
    return {name: statistics.median(times) for name, times in take_turns(turns, rounds).items()}


if __name__ == "__main__":
    with exit_on_input_error():
        main()
