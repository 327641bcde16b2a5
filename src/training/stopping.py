"""A stop on signals or time that loses nothing."""

import math
import os
import shlex
import signal
import subprocess
import time

import torch
from pytorch_lightning.callbacks import Callback

from src import lightning_loop as loop
from src.training.checkpointing import Checkpoints

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
if hasattr(signal, "SIGUSR1"):  # what SLURM sends before the time is up: `sbatch --signal=USR1@120`
    SIGNALS[signal.SIGUSR1] = "SIGUSR1"
REASONS = {0: "max_time"} | {
    128 + number: name for number, name in SIGNALS.items()
}  # by the exit code


class Stop(Callback):
    """Ends the run on Ctrl-C, SIGTERM, SIGUSR1 or after `max_time`, at the end of a step, with `last.ckpt` written.

    While nothing is trained a signal ends it at once, as does a second one at any time. The process then exits with
    130, 143, 138 or, when the time was up, 0. On SIGUSR1 a SLURM job is queued again.
    """

    def __init__(self, checkpoints: Checkpoints, max_seconds: float | None):
        self.checkpoints = checkpoints
        self.deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
        self.received = self.saved = self.training = False
        self.code: int | None = None  # to exit with, once it is time to stop
        self.handlers: dict = {}

    def setup(self, trainer, module, stage: str) -> None:
        self.trainer = trainer
        for number in SIGNALS:
            self.handlers[number] = signal.signal(number, self._receive)

    def on_train_start(self, trainer, module) -> None:
        self.training = True
        signal.signal(signal.SIGTERM, self._receive)  # Lightning has taken it since

    def _receive(self, number: int, frame) -> None:
        if self.received:
            os._exit(128 + number)
        self.received, self.code = True, 128 + number
        if not self.training:
            self._leave(self.trainer)
        print(f"\n{SIGNALS[number]}: stopping after this step; once more stops at once", flush=True)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
        if loop.can_stop_after(trainer, batch_idx) and self._due(trainer):
            self.checkpoints.save(trainer, module, "last")
            self.saved = True

    def on_train_batch_start(self, trainer, module, batch, batch_idx: int) -> None:
        if self.saved:  # only now: this step's curves have been written, too
            self._leave(trainer)

    def on_train_epoch_start(self, trainer, module) -> None:
        if trainer.global_step and self._due(
            trainer
        ):  # the checkpoint of the epoch before has just been written
            self._leave(trainer)

    def on_train_end(self, trainer, module) -> None:
        self.training = False
        if self.code:
            self._leave(trainer)

    def _due(self, trainer) -> bool:
        """Whether this process, or another of the same training, was told to stop: they all do, at the same step."""
        if self.code is None and time.monotonic() > self.deadline:
            self.code = 0
        if trainer.world_size > 1:
            code = torch.tensor(
                -1 if self.code is None else self.code, device=trainer.strategy.root_device
            )
            torch.distributed.all_reduce(code, torch.distributed.ReduceOp.MAX)
            self.code = int(code) if code >= 0 else None
        return self.code is not None

    def _leave(self, trainer) -> None:
        name = REASONS[self.code]
        last = self.checkpoints.folder / "last.ckpt"
        if trainer.is_global_zero and last.is_file():
            resume = f"python train.py --resume {shlex.quote(str(last.parent.parent))}"
            print(f"Stopped by {name}. {last} is written; go on with:\n  {resume}", flush=True)
        elif trainer.is_global_zero:
            print(
                f"Stopped by {name} before the first step; start again with the same command",
                flush=True,
            )
        if trainer.is_global_zero and name == "SIGUSR1":
            queue_again()
        raise SystemExit(self.code)

    def teardown(self, trainer, module, stage: str) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def on_exception(self, trainer, module, exception: BaseException) -> None:
        self.teardown(trainer, module, "")


def queue_again() -> None:
    """Have SLURM start this job again, if it is one; its script then goes on with `--resume`."""
    job = os.environ.get("SLURM_JOB_ID")
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job:
        try:
            subprocess.run(["scontrol", "requeue", job], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"the job could not be queued again ({error}); submit it once more", flush=True)
