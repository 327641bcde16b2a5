"""Measure training speed while other programs are busy, for several numbers of threads.

    python -m benchmarks.busy_machine --rounds 2

Each run of train.py trains one short epoch. The busy programs are Python processes in endless
loops. Settings are interleaved within a round, so that other load affects all of them equally.
"""

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

BATCHES = {"configs/digits.yaml": 20, "configs/cifar10_cpu.yaml": 6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="+", default=list(BATCHES))
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", nargs="+", default=["1", str(os.cpu_count()), "auto"])
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    print("| config | busy programs |", " | ".join(f"--threads {n}" for n in options.threads), "|")
    for config in options.configs:
        for busy in options.busy:
            with busy_programs(busy):
                speeds = measure(config, options.threads, options.rounds)
            print(f"| {config} | {busy} |", " | ".join(speeds), "|", flush=True)


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


def measure(config: str, threads: list[str], rounds: int) -> list[str]:
    """Return the median images/s for each number of threads; auto adds the chosen numbers."""
    speeds: dict[str, list[float]] = {value: [] for value in threads}
    chosen: list[str] = []
    for _ in range(rounds):
        for value in threads:
            out = train(config, value)
            speeds[value].append(float(find(r"([\d,]+) images/s\n", out).replace(",", "")))
            if value == "auto":
                chosen.append(find(r"using (\d+) of", out))
    medians = {value: f"{statistics.median(numbers):,.0f}" for value, numbers in speeds.items()}
    if chosen:
        medians["auto"] += f" (with {', '.join(chosen)})"
    return list(medians.values())


def train(config: str, threads: str) -> str:
    """Train one short epoch, and return the output of train.py."""
    with tempfile.TemporaryDirectory() as runs:
        flags = ["--pictures=false", "--trainer.max_epochs=1", "--data.val_fraction=0.1"]
        flags += [f"--threads={threads}", f"--trainer.limit_train_batches={BATCHES[config]}"]
        flags += ["--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"]
        command = [sys.executable, "train.py", "--config", config, "--runs", runs, *flags]
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return done.stdout


def find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found, text
    return found[1]


if __name__ == "__main__":
    main()
