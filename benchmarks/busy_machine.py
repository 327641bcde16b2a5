"""Measure training speed while other programs are busy, for several numbers of threads.

    python -m benchmarks.busy_machine --rounds 2

Each run of train.py trains one short epoch. The busy programs are Python processes in endless
loops. Settings are interleaved within a round, so that other load affects all of them equally.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.tables import Rows, make_parser, positive, table
from benchmarks.training import train
from src.errors import exit_on_input_error
from src.runs.results import read_metrics

BATCHES = {"digits": 20, "cifar10_cpu": 6}
BUSY = (0, 1, 2)
THREADS = ("1", str(os.cpu_count()), "auto")
CHOSEN = "chosen by auto"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=positive, default=1)
    options = parser.parse_args()
    rows: Rows = {}
    for config in BATCHES:
        for busy in BUSY:
            with busy_programs(busy):
                row = measure(config, options.rounds)
            rows[f"{config}, {busy} busy programs"] = row
    print(table(rows, (*THREADS, CHOSEN)))


@contextlib.contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """Run an endless loop in each of `count` processes."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measure(config: str, rounds: int) -> dict[str, float | str]:
    """Return the median images/s for each value of --threads, and the numbers that auto chose."""
    speeds, chosen = defaultdict(list), []
    for _ in range(rounds):
        for value in THREADS:
            speed, used = train_briefly(config, value)
            speeds[value].append(speed)
            if value == "auto":
                chosen.append(used)
    medians = {value: statistics.median(numbers) for value, numbers in speeds.items()}
    return medians | {CHOSEN: ", ".join(chosen)}


def train_briefly(config: str, threads: str) -> tuple[float, str]:
    """Train one short epoch; return the images per second and the number of threads."""
    flags = ["--config", f"configs/{config}.yaml", "--threads", threads, "--pictures=false"]
    flags += ["--trainer.max_epochs=1", "--data.val_fraction=0.1"]
    flags += [f"--trainer.limit_train_batches={BATCHES[config]}"]
    flags += ["--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as runs:
        results = train(*flags, runs=runs, env=environment)
        (epoch,) = read_metrics(Path(results["run"]))
    return float(epoch["images_per_second"]), results["device"].split()[1]  # "cpu, 2 threads"


if __name__ == "__main__":
    with exit_on_input_error():
        main()
