"""Compare a network with its exports: file size, largest logit difference, and speed.

    python -m benchmarks.export data/runs/mnist/version_0 data/runs/cifar10_cpu/version_0

Prints a table of medians over interleaved rounds for each network; takes a minute. All formats
classify the same images, and the time includes normalization.
"""

import argparse
import functools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.interleaved import Timed, interleave, median_ratio
from benchmarks.peers import parameters
from benchmarks.tables import Rows, make_parser, positive, table
from src.errors import exit_on_input_error
from src.extras.export.export import IMAGES, export
from src.extras.export.formats import FORMATS
from src.extras.export.samples import sample_images
from src.inference.predictor import Predictor
from src.runs.directory import find_checkpoint

COLUMNS = ("file_MiB", "difference", "images/s", "of PyTorch")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories or checkpoints")
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--threads", type=positive, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for run in options.runs:
        measure(find_checkpoint(run), options)


def measure(checkpoint: Path, options: argparse.Namespace) -> None:
    """Export a checkpoint to every format, measure each one, and print a table."""
    predictor = Predictor(checkpoint, "cpu")
    images, source = sample_images(predictor.dataset, IMAGES)
    size = checkpoint.stat().st_size / 2**20
    rows: Rows = {"PyTorch": {"file_MiB": size, "difference": "0"}}
    runs: dict[str, Callable[[Tensor], Tensor]] = {"PyTorch": predictor.classifier.logits}
    with tempfile.TemporaryDirectory() as folder:
        for name, format in FORMATS.items():
            path = Path(folder, f"network{format.extension}")
            description = export(checkpoint, name, path)
            runs[name] = format.open(predictor, path)
            difference = description["checked"]["largest_difference"]
            rows[name] = {
                "file_MiB": path.stat().st_size / 2**20,
                "difference": f"{difference:.1e}",
            }
        turns = {name: Timed(functools.partial(run, images)) for name, run in runs.items()}
        with torch.inference_mode():
            found = interleave(turns, options.rounds)
    for name, row in rows.items():
        row["images/s"] = len(images) / statistics.median(found[name])
        row["of PyTorch"] = median_ratio(found["PyTorch"], found[name])
    count = parameters(predictor.classifier)
    print(f"\n{checkpoint}: {count:,} parameters, {len(images)} {source}\n")
    print(table(rows, COLUMNS))


if __name__ == "__main__":
    with exit_on_input_error():
        main()
