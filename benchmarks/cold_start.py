"""Seconds from the shell to the answer: the two programs beside Python alone, and beside `import torch`, by turns.

    python -m benchmarks.cold_start                              a network is trained for it first, on the digits
    python -m benchmarks.cold_start --ckpt data/runs/mnist/version_0 --rounds 15

Prints a table: the median seconds of each command, their ratio to `import torch` (median of the ratios within a round),
and the processor time of all its threads. The first round is not counted: files are in the system's memory by then.
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

from benchmarks.training import train
from benchmarks.turns import arguments, header, take_turns, write
from src.data.datasets import read_digits
from src.errors import InputError, exit_on_input_error

TORCH = 'python -c "import torch"'
COLUMNS = ("seconds", "of_import_torch", "processor_seconds")
SHORT = ["--config", "configs/digits.yaml", "--trainer.max_epochs", "1", "--pictures", "false"]


def main() -> None:
    parser = arguments(__doc__, rounds=9, threads=False)
    parser.add_argument("--ckpt", metavar="RUN", help="checkpoint or run that classifies")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "digit.png")
        Image.fromarray(read_digits("test")[0][0, 0].numpy()).save(image)
        run = options.ckpt or train(*SHORT, runs=folder)["run"]
        commands = {
            "python -c pass": ["-c", "pass"],
            TORCH: ["-c", "import torch"],
            "classify.py --help": ["classify.py", "--help"],
            "train.py --help": ["train.py", "--help"],
            "classify.py IMAGE": ["classify.py", str(image), "--ckpt", str(run)],
        }
        found = take_turns(
            {name: timed(command) for name, command in commands.items()}, options.rounds
        )
    seconds = {name: [wall for wall, _ in times] for name, times in found.items()}
    rows = {}
    for name, times in found.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds[TORCH], strict=True)]
        rows[name] = {
            "seconds": statistics.median(seconds[name]),
            "of_import_torch": statistics.median(ratios),
        }
        rows[name] |= {
            "processor_seconds": statistics.median(cpu for _, cpu in times),
            "rounds": seconds[name],
        }
    write([header()], rows, COLUMNS, options.json)


def timed(command: list[str]) -> Callable[[], tuple[float, float]]:
    """A turn: seconds of the command, and its processor time."""

    def turn() -> tuple[float, float]:
        before, start = os.times(), time.perf_counter()
        ended = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        seconds, after = time.perf_counter() - start, os.times()
        if ended.returncode:
            raise InputError(
                f"python {' '.join(command)}: ended with exit code {ended.returncode}; {ended.stderr}"
            )
        processor = (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
        return seconds, processor

    return turn


if __name__ == "__main__":
    with exit_on_input_error():
        main()
