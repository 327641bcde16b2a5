"""What a training step costs as images, tokens, width and depth grow; and what memory does not grow with.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --precision bf16 --json out.json

A point is a network and a batch in a process of its own: the seconds of a training step (median of the steps of all
rounds; a round passes over all points), and how far the peak memory of the process rises above what it is after the
imports. One of the four grows, the others stay as they are in BASE. Prints a table of them; the exponent of each
growth, by least squares in logarithms over all points and over the last three; the number of tokens from which
attention's quadratic part takes more than half of a step, by the counted products and as fitted to the measured
seconds (a + b T + c T^2, none below zero); and the peak memory of a whole training by epochs, and of a pass over a
folder larger than its `data.memory_budget` by its images.
"""

import contextlib
import math
import multiprocessing
import re
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.large_folder import make_images, shuffled_batches
from benchmarks.training import positive
from benchmarks.turns import arguments, header, write
from src.data.modules import FolderDataModule
from src.errors import exit_on_input_error
from src.models.vit import VisionTransformer
from train import main as train

CONTEXT = multiprocessing.get_context("spawn")
BASE = {"images": 16, "tokens": 64, "width": 192, "depth": 4}
GROWTH = {
    "images": (8, 16, 32, 64, 128),
    "tokens": (16, 64, 144, 256, 576, 1024),  # squares
    "width": (96, 192, 384, 768),
    "depth": (2, 4, 8, 16),
}
HEAD, MLP_RATIO, PATCH = 48, 4, 4  # width of a head
COLUMNS = ("ms_a_step", "peak_MiB", "MiB_above_the_imports")
TINY = """--config configs/digits.yaml --model.width 32 --model.depth 1 --model.heads 2 --pictures false
    --trainer.accelerator cpu""".split()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--grow", nargs="*", choices=GROWTH, default=list(GROWTH))
    parser.add_argument(
        "--points", type=positive, default=6, help="of each growth, from the smallest"
    )
    parser.add_argument(
        "--steps", type=positive, default=5, help="of each point in a round; two more warm up"
    )
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument(
        "--epochs", type=positive, nargs="*", default=[1, 3], help="of the whole trainings"
    )
    parser.add_argument(
        "--folder",
        type=positive,
        nargs="*",
        default=[2000, 4000, 8000],
        help="images of the folders",
    )
    parser.add_argument(
        "--budget", type=float, default=0.125, help="GiB of their decoded images to hold in memory"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    points = {
        f"{what} {value}": BASE | {what: value}
        for what in options.grow
        for value in GROWTH[what][: options.points]
    }
    seconds, peaks = {name: [] for name in points}, {name: [] for name in points}
    for _ in range(options.rounds):
        for name, point in points.items():
            times, *before_and_after = apart(
                step_of, point, options.steps, options.precision, options.threads
            )
            seconds[name] += times
            peaks[name].append(before_and_after)
    rows = {}
    for name in points:
        before, after = (statistics.median(mib) for mib in zip(*peaks[name], strict=True))
        rows[name] = {"ms_a_step": 1000 * statistics.median(seconds[name]), "peak_MiB": after}
        rows[name] |= {
            "MiB_above_the_imports": after - before,
            "ms_of_all_steps": [1000 * s for s in seconds[name]],
        }
    lines = [header()] + [line for what in options.grow for line in exponents(what, rows)]
    if "tokens" in options.grow:
        lines += half(rows)
    base = ", ".join(f"{name} {value}" for name, value in BASE.items())
    lines.append(f"steps in {options.precision}; what a row does not say is {base}")
    write(
        lines,
        rows | memory_of_trainings(options) | memory_of_folders(options),
        COLUMNS,
        options.json,
    )


def apart(function, *arguments):
    """The function's result, from a fresh process."""
    with ProcessPoolExecutor(1, CONTEXT) as pool:
        return pool.submit(function, *arguments).result()


def peak() -> float:
    """Peak memory of this process in MiB."""
    status = Path(
        "/proc/self/status"
    )  # Linux's ru_maxrss begins with the peak of the process that started this one
    if status.is_file():
        return int(re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )


# Steps ----------------------------------------------------------------------------------------------------------------


def step_of(
    point: dict[str, int], steps: int, precision: str, threads: int
) -> tuple[list[float], float, float]:
    """-> the seconds of each step, the peak memory before the network is made, and in the end, MiB"""
    torch.set_num_threads(threads)
    before, side, width = peak(), math.isqrt(point["tokens"]), point["width"]
    network = VisionTransformer(
        image_size=PATCH * side, patch_size=PATCH, channels=3, classes=10, pool="mean",
        width=width, depth=point["depth"], heads=width // HEAD, mlp_ratio=MLP_RATIO,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images, labels = (
        torch.randn(point["images"], 3, PATCH * side, PATCH * side),
        torch.arange(point["images"]) % 10,
    )
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return times[2:], before, peak()


def exponents(what: str, rows: dict[str, dict]) -> list[str]:
    """Of time and memory as powers of what grows."""
    values = [int(name.split()[1]) for name in rows if name.split()[0] == what]
    found = []
    for last in (len(values), 3):
        if 2 <= last <= len(values):
            x = np.log(values[-last:])
            time, memory = (
                np.polyfit(x, np.log([rows[f"{what} {v}"][column] for v in values[-last:]]), 1)[0]
                for column in ("ms_a_step", "MiB_above_the_imports")
            )
            found.append(
                f"{what}, {values[-last]} to {values[-1]}: time ~ {what}^{time:.2f}, memory ~ {what}^{memory:.2f}"
            )
    return list(dict.fromkeys(found))


def half(rows: dict[str, dict]) -> list[str]:
    """From how many tokens on the quadratic part is more than half: by counting, and by measuring."""
    from scipy.optimize import nnls  # which scikit-learn brings

    # A block multiplies each token with (4 + 2 MLP_RATIO) width^2 weights, and with 2 T width keys and values.
    counted = (2 + MLP_RATIO) * BASE["width"]
    lines = [
        f"attention's quadratic part is half of the products at {counted:,} tokens (width {BASE['width']})"
    ]
    points = [
        (int(name.split()[1]), row["ms_a_step"])
        for name, row in rows.items()
        if name.split()[0] == "tokens"
    ]
    tokens, times = np.array(points, dtype=float).T
    (a, b, c), _ = nnls(
        np.stack([tokens**0, tokens, tokens**2], axis=1) / times[:, None], np.ones(len(times))
    )
    if c == 0 or len(points) < 3:
        return [*lines, "the measured seconds show no quadratic part"]
    measured = (b + math.sqrt(b * b + 4 * a * c)) / (2 * c)  # where c T^2 = a + b T
    where = (
        "" if measured <= tokens.max() else f", beyond the {tokens.max():,.0f} that were measured"
    )
    return [
        *lines,
        f"and of the measured seconds at {measured:,.0f}{where}: {a:.3g} + {b:.3g} T + {c:.3g} T^2 ms",
    ]


# What memory does not grow with ---------------------------------------------------------------------------------------


def memory_of_trainings(options) -> dict[str, dict]:
    return {
        f"train.py, epochs {n}": memory(training_of, n, options.threads) for n in options.epochs
    }


def memory(*call) -> dict:
    """The row of a call that returns its peak."""
    return {"ms_a_step": "-", "peak_MiB": apart(*call), "MiB_above_the_imports": "-"}


def training_of(epochs: int, threads: int) -> float:
    """Peak memory of a whole training, its test included."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as runs, contextlib.redirect_stdout(sys.stderr):
        train([*TINY, "--trainer.max_epochs", str(epochs), "--runs", runs])
    return peak()


def memory_of_folders(options) -> dict[str, dict]:
    rows = {}
    for images in options.folder:
        with tempfile.TemporaryDirectory() as folder:
            make_images(Path(folder), images)
            name = f"folder, images {images}, {options.budget} GiB of {images * 3 * 224**2 / 2**30:.2f} in memory"
            rows[name] = memory(pass_over, folder, options.budget, options.threads)
    return rows


def pass_over(folder: str, budget: float, threads: int) -> float:
    """Peak memory of reading a folder, and of one pass over its images."""
    torch.set_num_threads(threads)
    module = FolderDataModule(root=folder, image_size=224, patch_size=16, memory_budget=budget)
    with contextlib.redirect_stdout(sys.stderr):
        module.setup("fit")
    images = module.sets["train"]
    for _ in module._loader(images, shuffled_batches(len(images), 64)):
        pass
    return peak()


if __name__ == "__main__":
    with exit_on_input_error():
        main()
