"""Measure the seconds from the shell to the answer, beside `import torch`, interleaved.

    python -m benchmarks.cold_start          trains on the digits first; two minutes
    python -m benchmarks.cold_start --ckpt data/runs/mnist/version_0 --rounds 15

Prints a table: median seconds of each command, their ratio to `import torch`, and processor seconds
of all threads. The first round is not counted: then the files are in the system's memory.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from benchmarks.interleaved import header, interleave, median_ratio, timing_parser
from benchmarks.tables import Rows, write
from benchmarks.training import train
from src.data.datasets import read_digits
from src.errors import InputError, exit_on_input_error

TORCH = 'python -c "import torch"'
COLUMNS = ("seconds", "of_import_torch", "processor_seconds")
SHORT = ["--config", "configs/digits.yaml", "--trainer.max_epochs", "1", "--pictures", "false"]


def main() -> None:
    parser = timing_parser(__doc__, rounds=9)
    parser.add_argument("--ckpt", metavar="RUN", help="checkpoint or run that classifies")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "digit.png")
        images, _ = read_digits("test")
        Image.fromarray(images[0, 0].numpy()).save(image)
        run = options.ckpt or train(*SHORT, runs=folder)["run"]
        commands = {
            "python -c pass": ["-c", "pass"],
            TORCH: ["-c", "import torch"],
            "classify.py --help": ["classify.py", "--help"],
            "train.py --help": ["train.py", "--help"],
            "classify.py IMAGE": ["classify.py", str(image), "--ckpt", str(run)],
        }
        turns = {name: timed(command) for name, command in commands.items()}
        found = interleave(turns, options.rounds)
    seconds = {name: [wall for wall, _ in times] for name, times in found.items()}
    rows: Rows = {}
    for name, times in found.items():
        rows[name] = {
            "seconds": statistics.median(seconds[name]),
            "of_import_torch": median_ratio(seconds[name], seconds[TORCH]),
            "processor_seconds": statistics.median(processor for _, processor in times),
            "rounds": seconds[name],
        }
    write([header()], rows, COLUMNS, options.json)


def timed(command: list[str]) -> Callable[[], tuple[float, float]]:
    """Return a contender that gives the seconds and the processor seconds of a command."""

    def turn() -> tuple[float, float]:
        before, start = os.times(), time.perf_counter()
        ended = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        seconds, after = time.perf_counter() - start, os.times()
        if ended.returncode:
            name = " ".join(command)
            raise InputError(f"python {name}: failed ({ended.returncode}): {ended.stderr}")
        user = after.children_user - before.children_user
        return seconds, user + after.children_system - before.children_system

    return turn


if __name__ == "__main__":
    with exit_on_input_error():
        main()
