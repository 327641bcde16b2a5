"""What pictures cost: the same training with them and without, by turns.

    python -m benchmarks.picture_cost                              MNIST: 2 rounds of 2 epochs, about 3 minutes
    python -m benchmarks.picture_cost --rounds 3 --epochs 11       whole trainings

Processor time is that of all threads, and hardly depends on what else the machine does; `train` is without the test and
the report, which are not part of the training time.
"""

import argparse
import os
import statistics
import tempfile
import time

import torch

from benchmarks.training import positive
from src.cli.messages import quiet
from src.cli.parser import parse
from src.errors import exit_on_input_error
from src.training.build import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=2)
    parser.add_argument("--epochs", type=positive, default=2)
    parser.add_argument("--config", default="configs/mnist.yaml")
    options = parser.parse_args()
    quiet()
    os.environ.pop("LOCAL_RANK", None)
    results = {"true": [], "false": []}
    print(f"{options.config}, {options.epochs} epochs, {torch.get_num_threads()} threads")
    for _ in range(options.rounds):
        for pictures, seconds in results.items():
            seconds.append(train(options.config, options.epochs, pictures))
            wall, processor, spent = seconds[-1]
            print(f"pictures {pictures}: {wall:.1f} s, {processor:.2f} s of processor time, {spent:.2f} s for pictures")
    with_them, without = (statistics.mean(processor for _, processor, _ in seconds) for seconds in results.values())
    share = statistics.mean(spent / wall for wall, _, spent in results["true"])
    print(f"processor time: {with_them / without - 1:+.2%}; wall time spent in the callback: {share:.2%}")


def train(config: str, epochs: int, pictures: str) -> tuple[float, float, float]:
    """-> seconds of wall time and of processor time that the training took, and those that drawing took."""
    with tempfile.TemporaryDirectory() as runs:
        flags = ["--config", config, "--trainer.max_epochs", str(epochs), "--pictures", pictures, "--runs", runs]
        training = build(parse(flags))
        wall, processor = time.perf_counter(), time.process_time()
        training.trainer.fit(training.model, datamodule=training.data)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        return wall, processor, training.pictures.spent if training.pictures else 0.0


if __name__ == "__main__":
    with exit_on_input_error():
        main()
