"""Kills a training again and again, resumes it each time, and compares what it ends with to an undisturbed run.

    python -m benchmarks.kill_harness                            40 kills, about two minutes on one CPU core
    python -m benchmarks.kill_harness --kills 200 --seed 1
    python -m benchmarks.kill_harness --processes 2              as torchrun starts them; all are killed at once

Each process is killed by SIGKILL at a random instant: while it reads, builds, trains, validates, or writes; every
third, at the first half-written checkpoint that is seen after that. It trains on scikit-learn's digits and writes a
checkpoint after every step. Weights, optimizer state and metrics must be equal, bit for bit, to those of the run that
nothing disturbed; after every kill, `last.ckpt` must load.
"""

import argparse
import csv
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from benchmarks.training import positive
from src.runs.checkpoint import load_checkpoint
from train import main as train

FLAGS = """--config configs/digits.yaml --model.width 128 --model.depth 2 --model.heads 2 --model.dropout 0.1
    --model.attention_dropout 0.1 --model.drop_path 0.2 --patience 50 --checkpoint_every_n_steps 1
    --data.batch_size 128 --trainer.accelerator cpu --name killed""".split()
LONGEST = 2.0  # seconds that a process lives at most before it is killed; reading and building take about half a second


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=positive, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--processes", type=positive, default=1, help="that train together, one a device"
    )
    parser.add_argument(
        "--epochs", type=positive, default=12, help="of each run; eleven steps each"
    )
    options = parser.parse_args()
    begin = [
        *FLAGS,
        "--trainer.max_epochs",
        str(options.epochs),
        "--trainer.devices",
        str(options.processes),
    ]
    chance, forks = random.Random(options.seed), multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        ["src.cli.parser", "src.training.test", "sklearn.datasets", "torch.utils.tensorboard"]
    )
    processes = Processes(forks, options.processes)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder, "undisturbed")
        assert processes.live(undisturbed, [*begin, "--runs", str(undisturbed)]) == 0, log(
            undisturbed
        )
        expected, counts = outcome(undisturbed), Counter()
        while counts["kills"] < options.kills:
            runs = Path(folder, f"run{counts['runs']}")
            kill_until_it_ends(
                processes, begin, runs, options.kills - counts["kills"], chance, counts
            )
            assert equal(outcome(runs), expected), (
                "the weights, the optimizer state or the metrics differ"
            )
            counts["runs"] += 1
            shutil.rmtree(runs)
        print(f"{counts['runs']} runs, {counts['kills']} kills: {counts['early']} before the first checkpoint (begun "
              f"again), {counts['writing']} during a checkpoint write, {counts['other']} at another time; "
              "all runs ended equal to the undisturbed one, bit for bit")  # fmt: skip


def kill_until_it_ends(
    processes, begin: list[str], runs: Path, kills: int, chance: random.Random, counts: Counter
):
    """Train in `runs`; each process but the last is killed, at most `kills` of them."""
    while True:
        resumable = list(runs.glob("killed/*/checkpoints/last.ckpt"))
        flags = ["--resume", str(resumable[0].parents[1])] if resumable else begin
        flags = [*flags, "--runs", str(runs), "--data.workers", str(chance.choice([0, 0, 2]))]
        longest = processes.count * (LONGEST if resumable else LONGEST / 3)
        seconds = chance.uniform(0, longest) if kills else None
        before = half_written(runs)
        code = processes.live(runs, flags, seconds, in_write=counts["kills"] % 3 == 2)
        if code == 0:
            return
        assert code == -signal.SIGKILL, log(runs)
        kills -= 1
        counts["kills"] += 1
        written = list(runs.glob("killed/*/checkpoints/last.ckpt"))
        for path in written:
            load_checkpoint(path)
        assert len(half_written(runs)) <= 1, (
            "a checkpoint that an earlier kill left half written is still there"
        )
        counts["writing" if half_written(runs) - before else "other" if written else "early"] += 1
        if not written:
            shutil.rmtree(runs / "killed", ignore_errors=True)


class Processes:
    """Starts `count` processes of train.py, and kills them together."""

    def __init__(self, forks, count: int):
        self.forks, self.count = forks, count

    def live(
        self, runs: Path, flags: list[str], seconds: float | None = None, in_write: bool = False
    ) -> int:
        """Run train.py, killed after so many seconds; the exit code of its first process, negative for a signal.

        With `in_write` it is killed at the first instant after that at which a checkpoint is seen half written.
        """
        runs.mkdir(exist_ok=True)
        output, port = str(runs / "log.txt"), free_port()
        started = [
            self.forks.Process(
                target=_train, args=(flags, output, environment(rank, self.count, port))
            )
            for rank in range(self.count)
        ]
        for process in started:
            process.start()
        started[0].join(seconds)
        if in_write and seconds:
            before = half_written(
                runs
            )  # by those killed earlier, if these have not come so far as to clear it away
            while started[0].is_alive() and not half_written(runs) - before:
                time.sleep(0.0002)
        for process in started if seconds else ():
            process.kill()
        for process in started:
            process.join()
        return started[0].exitcode


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun sets in each of several processes."""
    numbers = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "GROUP_RANK": 0,
    }
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    return {key: str(value) for key, value in (numbers | where).items()} if count > 1 else {}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def half_written(runs: Path) -> set[str]:
    return {str(path) for path in runs.glob("killed/*/checkpoints/.*.tmp")}


def _train(flags: list[str], output: str, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    multiprocessing.set_start_method(
        None, force=True
    )  # the data loader's workers start as they do by default
    for number in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    train(flags)


def log(runs: Path) -> str:
    return (runs / "log.txt").read_text()[-3000:]


def outcome(runs: Path) -> list:
    """What the only run in `runs` ended with: its two checkpoints, and its metrics but for the speed."""
    (run,) = runs.glob("killed/version_*")
    with open(run / "metrics.csv", newline="") as file:
        rows = [
            {k: v for k, v in row.items() if k != "images_per_second"}
            for row in csv.DictReader(file)
        ]
    return [load_checkpoint(run / "checkpoints" / name) for name in ("best.ckpt", "last.ckpt")] + [
        rows
    ]


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a if k != "train_seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


if __name__ == "__main__":
    start = time.monotonic()
    main()
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
