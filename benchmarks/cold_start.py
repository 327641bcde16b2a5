"""Measure the time from starting a program to its output, relative to `import torch`.

    python -m benchmarks.cold_start          trains a network on digits first; takes two minutes
    python -m benchmarks.cold_start --ckpt data/runs/mnist/version_0 --rounds 15

Prints a table with the median seconds of each command and the ratio to `import torch`. The commands
run in interleaved rounds. The first round is not counted, because it fills the file cache.
"""

import functools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.interleaved import header, interleave, median_ratio, timing_parser
from benchmarks.tables import Rows, write
from benchmarks.training import train
from src.data.datasets import read_digits
from src.errors import InputError, exit_on_input_error

TORCH = 'python -c "import torch"'
COLUMNS = ("seconds", "of_import_torch")
SHORT = ["--config", "configs/digits.yaml", "--trainer.max_epochs", "1", "--pictures", "false"]


def main() -> None:
    parser = timing_parser(__doc__, rounds=9)
    parser.add_argument("--ckpt", metavar="RUN", help="run or checkpoint to classify with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "digit.png")
        images, _ = read_digits("test")
        Image.fromarray(images[0, 0].numpy()).save(image)
        trained = options.ckpt or train(*SHORT, runs=folder)["run"]
        commands = {
            "python -c pass": ["-c", "pass"],
            TORCH: ["-c", "import torch"],
            "classify.py --help": ["classify.py", "--help"],
            "train.py --help": ["train.py", "--help"],
            "classify.py IMAGE": ["classify.py", str(image), "--ckpt", trained],
        }
        turns = {name: functools.partial(run, command) for name, command in commands.items()}
        found = interleave(turns, options.rounds)
    rows: Rows = {}
    for name, seconds in found.items():
        rows[name] = {
            "seconds": statistics.median(seconds),
            "of_import_torch": median_ratio(seconds, found[TORCH]),
            "rounds": seconds,
        }
    write([header()], rows, COLUMNS, options.json)


def run(command: list[str]) -> float:
    """Run `python` with the given arguments and return the elapsed seconds."""
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise InputError(f"python {' '.join(command)}: failed: {ended.stderr}")
    return seconds


if __name__ == "__main__":
    with exit_on_input_error():
        main()
