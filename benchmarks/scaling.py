"""Measure how step time and memory scale with batch size, tokens, width and depth.

    python -m benchmarks.scaling                                 takes 20 minutes
    python -m benchmarks.scaling --precision bf16-mixed

Each row is one network and batch size, measured in a new process: the median time of a training
step, and the increase of peak memory since the imports. One variable changes at a time; the
others keep their values from `BASE`. Also prints scaling exponents (least-squares fit of logarithms
over the last three values), and the peak memory of training runs by number of epochs.
"""

import contextlib
import math
import statistics
import sys
import tempfile
from functools import partial

import numpy as np
import torch

from benchmarks.interleaved import header, interleave, time_step, timing_parser
from benchmarks.large_folder import in_new_process, peak_memory
from benchmarks.peers import Shape, ours
from benchmarks.tables import Rows, table
from benchmarks.throughput import DTYPES, train_step
from src.errors import exit_on_input_error
from train import main as train

BASE = {"images": 16, "tokens": 64, "width": 192, "depth": 4}
GROWTH = {
    "images": (8, 16, 32, 64, 128),
    "tokens": (16, 64, 144, 256, 576),  # square numbers
    "width": (96, 192, 384, 768),
    "depth": (2, 4, 8, 16),
}
HEAD, MLP_RATIO, PATCH = 48, 4, 4  # HEAD is the width of each head
STEPS = 3  # steps per row and round
COLUMNS = ("ms_per_step", "peak_MiB", "MiB_beyond_the_imports")
TINY = """
--config configs/digits.yaml
--model.width 32
--model.depth 1
--model.heads 2
--pictures false
--trainer.accelerator cpu
""".split()


def main() -> None:
    parser = timing_parser(__doc__, rounds=2)
    parser.add_argument("--precision", choices=DTYPES, default="32-true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    points = {
        f"{variable} {value}": partial(
            in_new_process,
            train_steps,
            BASE | {variable: value},
            options.precision,
            options.threads,
        )
        for variable, values in GROWTH.items()
        for value in values
    }
    rows: Rows = {}
    for name, found in interleave(points, options.rounds).items():
        medians = map(statistics.median, zip(*found, strict=True))
        rows[name] = dict(zip(COLUMNS, medians, strict=True))
    lines = [header(), *(exponent(variable, rows) for variable in GROWTH)]
    # Multiplications per token and block: (4 + 2 MLP_RATIO) width^2 with the weights, and
    # 2 T width with the keys and values.
    half = (2 + MLP_RATIO) * BASE["width"]
    lines.append(f"at {half:,} tokens, half of the multiplications are quadratic in tokens")
    lines.append(f"{options.precision}; unless a row says otherwise: {BASE}")
    for epochs in (1, 3):
        peak = in_new_process(train_digits, epochs, options.threads)
        rows[f"train.py, {epochs} epochs"] = {"peak_MiB": peak}
    print(*lines, "", table(rows, COLUMNS), sep="\n")


def train_steps(point: dict[str, int], precision: str, threads: int) -> tuple[float, float, float]:
    """Return the median milliseconds per step, the peak MiB, and its increase by the steps."""
    torch.set_num_threads(threads)
    before = peak_memory()
    side, width, batch = math.isqrt(point["tokens"]), point["width"], point["images"]
    heads = width // HEAD
    network = ours(Shape(PATCH * side, 3, PATCH, width, point["depth"], heads, MLP_RATIO), "mean")
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images = torch.randn(batch, 3, PATCH * side, PATCH * side)
    labels = torch.arange(batch) % 10

    def step() -> None:
        train_step(network, optimizer, images, labels, precision)

    times = [time_step(step) for _ in range(2 + STEPS)][2:]  # the first two are warm-up
    after = peak_memory()
    return 1000 * statistics.median(times), after, after - before


def exponent(variable: str, rows: Rows) -> str:
    """Fit time and memory as powers of a variable over its last three values."""
    values = GROWTH[variable][-3:]
    powers = []
    for column in ("ms_per_step", "MiB_beyond_the_imports"):
        measured = [rows[f"{variable} {value}"][column] for value in values]
        slope, _ = np.polyfit(np.log(values), np.log(measured), 1)
        powers.append(f"{variable}^{slope:.2f}")
    time, memory = powers
    return f"{variable}, {values[0]} to {values[-1]}: time ~ {time}, memory ~ {memory}"


def train_digits(epochs: int, threads: int) -> float:
    """Train on the digits and return the peak MiB."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as runs, contextlib.redirect_stdout(sys.stderr):
        train([*TINY, "--trainer.max_epochs", str(epochs), "--runs", runs])
    return peak_memory()


if __name__ == "__main__":
    with exit_on_input_error():
        main()
