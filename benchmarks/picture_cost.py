"""What pictures cost: the same training with them and without, by turns.

    python -m benchmarks.picture_cost                              MNIST: 2 rounds of 2 epochs, about 3 minutes
    python -m benchmarks.picture_cost --rounds 3 --epochs 11       whole trainings

All of it is the training alone: the test and the report come after it. Processor time is that of all threads, and
depends less on what else the machine does than wall time; that of the callbacks is part of it.
"""

import argparse
import statistics
import tempfile
import time

import torch

from benchmarks.training import positive, table
from src.cli.messages import quiet
from src.cli.parser import parse
from src.errors import exit_on_input_error
from src.extras.report.pictures import Pictures
from src.training.build import build
from src.training.epoch_log import Norms

COLUMNS = ("wall_seconds", "processor_seconds", "in_Pictures", "in_Norms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=positive, default=2)
    parser.add_argument("--epochs", type=positive, default=2)
    parser.add_argument("--config", default="configs/mnist.yaml")
    options = parser.parse_args()
    quiet()
    runs = {}
    for number in range(1, options.rounds + 1):
        for pictures in ("true", "false"):
            runs[f"pictures {pictures}, {number}"] = train(options.config, options.epochs, pictures)
    print(f"{options.config}, {options.epochs} epochs, {torch.get_num_threads()} threads")
    print(table(runs, COLUMNS))
    drawn = [run for name, run in runs.items() if "true" in name]
    for column in COLUMNS[2:]:
        share = statistics.mean(run[column] / run["processor_seconds"] for run in drawn)
        print(f"{column.replace('_', ' ')}: {share:.2%} of the processor time")


def train(config: str, epochs: int, pictures: str) -> dict:
    """-> the seconds of a training, by COLUMNS"""
    with tempfile.TemporaryDirectory() as runs:
        flags = [
            "--config",
            config,
            "--trainer.max_epochs",
            str(epochs),
            "--pictures",
            pictures,
            "--runs",
            runs,
        ]
        training = build(parse(flags))
        seconds = dict.fromkeys(COLUMNS, 0.0)
        for callback in training.trainer.callbacks:
            if isinstance(callback, Pictures | Norms):
                measure(callback, seconds, f"in_{type(callback).__name__}")
        wall, processor = time.perf_counter(), time.process_time()
        training.trainer.fit(training.model, datamodule=training.data)
        seconds["wall_seconds"] = time.perf_counter() - wall
        seconds["processor_seconds"] = time.process_time() - processor
        return seconds


def measure(callback, seconds: dict, key: str) -> None:
    """Add the processor time of all hooks of the callback to `seconds[key]`."""

    def timed(hook):
        def call(*args, **kwargs):
            before = time.process_time()
            hook(*args, **kwargs)
            seconds[key] += time.process_time() - before

        return call

    for name in vars(type(callback)):
        if name.startswith("on_"):
            setattr(callback, name, timed(getattr(callback, name)))


if __name__ == "__main__":
    with exit_on_input_error():
        main()
