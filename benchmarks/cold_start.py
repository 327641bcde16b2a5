"""Measure the time from starting a program to its output, relative to `import torch`.

    python -m benchmarks.cold_start          takes a minute

Prints a table with the median seconds of each command and the ratio to `import torch`. The commands
run in interleaved rounds. The first round is not counted, because it fills the file cache.
"""

import functools
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.interleaved import header, interleave, median_ratio, time_step
from benchmarks.tables import Rows, make_parser, positive, table
from src.data.datasets import read_digits
from src.errors import exit_on_input_error

TORCH = 'python -c "import torch"'


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=positive, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "digit.png")
        images, _ = read_digits("test")
        Image.fromarray(images[0, 0].numpy()).save(image)
        commands = {
            "python -c pass": ["-c", "pass"],
            TORCH: ["-c", "import torch"],
            "classify.py --help": ["classify.py", "--help"],
            "train.py --help": ["train.py", "--help"],
            "classify.py IMAGE": ["classify.py", str(image), "--ckpt", "mnist"],
        }
        turns = {
            name: functools.partial(time_step, functools.partial(run, command))
            for name, command in commands.items()
        }
        found = interleave(turns, options.rounds)
    rows: Rows = {
        name: {
            "seconds": statistics.median(seconds),
            "of_import_torch": median_ratio(seconds, found[TORCH]),
        }
        for name, seconds in found.items()
    }
    print(header(), "", table(rows, ("seconds", "of_import_torch")), sep="\n")


def run(command: list[str]) -> None:
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
