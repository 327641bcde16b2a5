"""Time training steps that keep freed memory or return it to the operating system.

    python -m benchmarks.freed_memory
    python -m benchmarks.freed_memory --configs mnist --seconds 1

Each measurement runs in a new process, because kept memory stays available until a process ends.
It trains a recipe on one batch of random images. Other flags are passed to the recipes, as to
`train.py`.
"""

import statistics
from functools import partial

import torch

from benchmarks.interleaved import Timed, header, interleave, median_ratio, timing_parser
from benchmarks.large_folder import in_new_process, peak_memory
from benchmarks.tables import Rows, table
from benchmarks.training_step import recipe_step
from src.cli.messages import silence_lightning
from src.cli.parser import parse
from src.errors import exit_on_input_error
from src.training.memory import keep_freed_memory

CONFIGS = ("mnist", "cifar10_cpu", "cifar10_plain_cpu", "cifar10_tutorial_cpu")
COLUMNS = ("images/s", "relative_speed", "peak_MiB")


def main() -> None:
    parser = timing_parser(__doc__, rounds=3)
    parser.add_argument("--configs", nargs="+", default=CONFIGS, help="config names")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per measurement")
    options, flags = parser.parse_known_args()
    rows: Rows = {}
    for config in options.configs:
        recipe = ["--config", f"configs/{config}.yaml", "--trainer.accelerator", "cpu", *flags]
        contenders = {
            name: partial(in_new_process, measure, recipe, keep, options.threads, options.seconds)
            for name, keep in {"returned": False, "kept": True}.items()
        }
        found = interleave(contenders, options.rounds)
        speeds = {name: [speed for speed, _ in results] for name, results in found.items()}
        for name, results in found.items():
            rows[f"{config}, freed memory {name}"] = {
                "images/s": statistics.median(speeds[name]),
                "relative_speed": median_ratio(speeds[name], speeds["returned"]),
                "peak_MiB": statistics.median(peak for _, peak in results),
            }
    print(header(), "", table(rows, COLUMNS), sep="\n")


def measure(recipe: list[str], keep: bool, threads: int, seconds: float) -> tuple[float, float]:
    """Train on one batch for about the given time; return images/s and peak memory in MiB."""
    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    silence_lightning()
    settings = parse(recipe)
    step = recipe_step(settings, "cpu", settings.trainer["precision"])
    speed = settings.data.batch_size / Timed(step, seconds)()
    return speed, peak_memory()


if __name__ == "__main__":
    with exit_on_input_error():
        main()
