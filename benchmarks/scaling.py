"""Measure how step time and memory scale with batch size, tokens, width and depth.

    python -m benchmarks.scaling                                 takes 20 minutes
    python -m benchmarks.scaling --precision bf16-mixed --json out.json

Each row is one network and batch size, measured in a new process: the median time of a training
step, and the increase of peak memory since the imports. One variable changes at a time; the
others keep their values from `BASE`. Also prints scaling exponents (least-squares fit of logarithms
over the last three values), and the peak memory of training runs by number of epochs.
"""

import argparse
import contextlib
import math
import statistics
import sys
import tempfile
import time

import numpy as np
import torch

from benchmarks.interleaved import header, timing_parser
from benchmarks.large_folder import in_new_process, peak_memory
from benchmarks.peers import Shape, ours
from benchmarks.tables import Rows, positive, write
from benchmarks.throughput import DTYPES, train_step
from src.errors import exit_on_input_error
from train import main as train

BASE = {"images": 16, "tokens": 64, "width": 192, "depth": 4}
GROWTH = {
    "images": (8, 16, 32, 64, 128),
    "tokens": (16, 64, 144, 256, 576, 1024),  # square numbers
    "width": (96, 192, 384, 768),
    "depth": (2, 4, 8, 16),
}
HEAD, MLP_RATIO, PATCH = 48, 4, 4  # HEAD is the width of each head
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
    options = _parse()
    torch.set_num_threads(options.threads)
    points = {
        f"{variable} {value}": BASE | {variable: value}
        for variable in options.grow
        for value in GROWTH[variable][: options.points]
    }
    rows = measure(points, options)
    lines = [header(), *(exponent(variable, rows) for variable in options.grow)]
    # Multiplications per token and block: (4 + 2 MLP_RATIO) width^2 with the weights, and
    # 2 T width with the keys and values.
    half = (2 + MLP_RATIO) * BASE["width"]
    lines.append(f"at {half:,} tokens, half of the multiplications are quadratic in tokens")
    base = ", ".join(f"{name} {value}" for name, value in BASE.items())
    lines.append(f"{options.precision}; unless a row says otherwise: {base}")
    for epochs in options.epochs:
        peak = in_new_process(_training, epochs, options.threads)
        rows[f"train.py, {epochs} epochs"] = {"peak_MiB": peak}
    write(lines, rows, COLUMNS, options.json)


def _parse() -> argparse.Namespace:
    parser = timing_parser(__doc__)
    parser.add_argument("--grow", nargs="*", choices=GROWTH, default=list(GROWTH))
    parser.add_argument("--points", type=int, choices=range(2, 7), default=6, help="values of each")
    parser.add_argument("--steps", type=positive, default=5, help="steps per row and round")
    parser.add_argument("--precision", choices=DTYPES, default="32-true")
    parser.add_argument("--epochs", type=positive, nargs="*", default=[1, 3])
    return parser.parse_args()


def measure(points: dict[str, dict[str, int]], options: argparse.Namespace) -> Rows:
    """Return one table row per network and batch size."""
    seconds: dict[str, list[float]] = {name: [] for name in points}
    memory: dict[str, list[tuple[float, float]]] = {name: [] for name in points}
    how = (options.steps, options.precision, options.threads)
    for _ in range(options.rounds):
        for name, point in points.items():
            times, before, after = in_new_process(_train_steps, point, *how)
            seconds[name] += times
            memory[name].append((after, after - before))
    rows: Rows = {}
    for name in points:
        peak, beyond = (statistics.median(mib) for mib in zip(*memory[name], strict=True))
        rows[name] = {
            "ms_per_step": 1000 * statistics.median(seconds[name]),
            "peak_MiB": peak,
            "MiB_beyond_the_imports": beyond,
            "seconds_of_all_steps": seconds[name],
        }
    return rows


def _train_steps(
    point: dict[str, int], steps: int, precision: str, threads: int
) -> tuple[list[float], float, float]:
    """Return the seconds of each step, and the peak MiB before and after all steps."""
    torch.set_num_threads(threads)
    before = peak_memory()
    side, width, batch = math.isqrt(point["tokens"]), point["width"], point["images"]
    heads = width // HEAD
    network = ours(Shape(PATCH * side, 3, PATCH, width, point["depth"], heads, MLP_RATIO), "mean")
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images = torch.randn(batch, 3, PATCH * side, PATCH * side)
    labels = torch.arange(batch) % 10
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        train_step(network, optimizer, images, labels, precision)
        times.append(time.perf_counter() - start)
    return times[2:], before, peak_memory()  # the first two are warm-up


def exponent(variable: str, rows: Rows) -> str:
    """Fit time and memory as powers of a variable over its last three values."""
    values = [int(name.split()[1]) for name in rows if name.split()[0] == variable][-3:]
    powers = []
    for column in ("ms_per_step", "MiB_beyond_the_imports"):
        measured = [rows[f"{variable} {value}"][column] for value in values]
        slope, _ = np.polyfit(np.log(values), np.log(measured), 1)
        powers.append(f"{variable}^{slope:.2f}")
    time, memory = powers
    return f"{variable}, {values[0]} to {values[-1]}: time ~ {time}, memory ~ {memory}"


def _training(epochs: int, threads: int) -> float:
    """Train on the digits and return the peak MiB."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as runs, contextlib.redirect_stdout(sys.stderr):
        train([*TINY, "--trainer.max_epochs", str(epochs), "--runs", runs])
    return peak_memory()


if __name__ == "__main__":
    with exit_on_input_error():
        main()
