"""Kill and resume a training run repeatedly, and compare it with an uninterrupted run.

    python -m benchmarks.kill_harness                            40 kills; two minutes on one core
    python -m benchmarks.kill_harness --kills 200 --seed 1

SIGKILL is sent at random times, so that it interrupts start-up, training, validation and checkpoint
writes. Every third kill waits for the next half-written checkpoint. Training uses scikit-learn's
digits and writes a checkpoint after every step. After each kill, `last.ckpt` must load. The final
weights, optimizer state and metrics must be bit-identical to those of the uninterrupted run. Prints
the number of kills; exits with code 1 if anything differs.
"""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.same_numbers import differences, leaves
from benchmarks.tables import make_parser, positive
from src.errors import exit_on_input_error
from src.runs.checkpoint import load
from src.runs.results import read_metrics
from train import main as train

FLAGS = """
--config configs/digits.yaml
--model.width 128
--model.depth 2
--model.heads 2
--model.dropout 0.1
--model.attention_dropout 0.1
--model.drop_path 0.2
--patience 50
--checkpoint_every_n_steps 1
--data.batch_size 128
--trainer.accelerator cpu
--name killed
""".split()
LONGEST = 2.0  # maximum seconds until a kill; start-up takes about 0.5 s
CHECKPOINTS = "killed/*/checkpoints"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=positive, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=positive, default=12, help="11-step epochs per run")
    options = parser.parse_args()
    flags = [*FLAGS, "--trainer.max_epochs", str(options.epochs)]
    rng, counts, runs = random.Random(options.seed), Counter[str](), 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Program(Path(folder, "undisturbed"))
        check(undisturbed.run(flags) == 0, undisturbed.log())
        expected = undisturbed.outcome()
        while counts.total() < options.kills:
            program = Program(Path(folder, f"run{runs}"))
            kill_until_finished(program, flags, options.kills, rng, counts)
            differing = differences(program.outcome(), expected)
            check(not differing, f"differs from the undisturbed run in {differing[:3]}")
            shutil.rmtree(program.runs)
            runs += 1
    when = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{runs} runs, {counts.total()} kills ({when}): all equal to the undisturbed run")
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)


def check(holds: bool, message: str) -> None:
    if not holds:
        sys.exit(f"failed: {message}")


class Program:
    """Start `train.py` in a new process, with a separate folder for its runs."""

    def __init__(self, runs: Path):
        self.runs = runs
        self.context: Any = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            ["src.cli.parser", "src.training.test", "sklearn.datasets", "torch.utils.tensorboard"]
        )
        runs.mkdir()

    def run(self, flags: list[str], seconds: float = 0.0, in_write: bool = False) -> int:
        """Run to the end, or kill the process after the given time.

        Args:
            flags: `train.py` flags.
            seconds: time until the kill; 0 disables it.
            in_write: whether to wait, after `seconds`, until a checkpoint is half written.

        Returns:
            The exit code; negative if a signal killed the process.
        """
        arguments = ([*flags, "--runs", str(self.runs)], self.runs / "log.txt")
        process = self.context.Process(target=_train, args=arguments)
        process.start()
        process.join(seconds or None)
        if in_write and seconds:
            before = self.half_written()  # files left by earlier kills
            while process.is_alive() and not self.half_written() - before:
                time.sleep(0.0002)
        if seconds:
            process.kill()
        process.join()
        return process.exitcode

    def half_written(self) -> set[Path]:
        return set(self.runs.glob(f"{CHECKPOINTS}/.*.tmp"))

    def last_checkpoint(self) -> Path | None:
        return next(self.runs.glob(f"{CHECKPOINTS}/last.ckpt"), None)

    def outcome(self) -> dict[str, object]:
        """Return the run's checkpoints (best and last) and metrics, flattened to {path: value}."""
        (run,) = self.runs.glob("killed/version_*")
        metrics = [row | {"images_per_second": ""} for row in read_metrics(run)]
        checkpoints = [load(run / "checkpoints" / name) for name in ("best.ckpt", "last.ckpt")]
        found = leaves([*checkpoints, metrics])
        return {name: value for name, value in found if not name.endswith("train_seconds")}

    def log(self) -> str:
        return (self.runs / "log.txt").read_text()[-3000:]


def kill_until_finished(
    program: Program, flags: list[str], kills: int, rng: random.Random, counts: Counter[str]
) -> None:
    """Train, kill and resume until a process finishes or `kills` is reached."""
    while True:
        last = program.last_checkpoint()
        start = ["--resume", str(last.parents[1])] if last else flags
        start = [*start, "--data.workers", str(rng.choice([0, 0, 2]))]
        seconds = rng.uniform(0.001, LONGEST if last else LONGEST / 3)
        if counts.total() == kills:
            seconds = 0.0
        before = program.half_written()
        code = program.run(start, seconds, in_write=counts.total() % 3 == 2)
        if code == 0:
            return
        check(code == -signal.SIGKILL, program.log())
        last = program.last_checkpoint()
        half_written = program.half_written()
        check(len(half_written) <= 1, "a half-written checkpoint from an earlier kill still exists")
        if half_written - before:
            counts["during a checkpoint write"] += 1
        else:
            counts["at another time" if last else "before the first checkpoint"] += 1
        if last:
            load(last)
        else:
            shutil.rmtree(program.runs / "killed", ignore_errors=True)


def _train(flags: list[str], log: Path) -> None:
    multiprocessing.set_start_method(None, force=True)  # the default, for data loader workers
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    train(flags)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
