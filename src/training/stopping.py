"""Stop training on a signal, at a time limit, or when accuracy stops improving."""

import math
import os
import shlex
import signal
import time
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from src import lightning_loop
from src.errors import command
from src.training import slurm
from src.training.checkpointing import SaveCheckpoints, epochs_waited

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
if hasattr(signal, "SIGUSR1"):  # sent by SLURM before the time limit: `sbatch --signal=USR1@120`
    SIGNALS[signal.SIGUSR1] = "SIGUSR1"
# Reasons for stopping, by exit code
REASONS = {0: "max_time"} | {128 + number: name for number, name in SIGNALS.items()}


class StopEarly(Callback):
    """Stop after `patience` epochs without improvement.

    Lightning's `EarlyStopping` counts validations instead, and can stop in the middle of an epoch.
    """

    def __init__(self, checkpoints: SaveCheckpoints, patience: int):
        self.checkpoints, self.patience = checkpoints, patience

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        state, epochs = self.checkpoints.state_dict(), lightning_loop.epochs_done(trainer)
        if epochs_waited(state, epochs) >= self.patience:
            trainer.should_stop = True


class StopOnSignal(Callback):
    """Write last.ckpt and stop on Ctrl-C, SIGTERM or SIGUSR1, or after `max_seconds`.

    The run ends after the current step, with exit code 130, 143 or 138, or with 0 at the time
    limit. A second signal ends the program immediately, as does any signal outside of training. On
    SIGUSR1, a SLURM job is requeued.
    """

    def __init__(self, checkpoints: SaveCheckpoints, max_seconds: float | None):
        self.checkpoints = checkpoints
        self.deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
        self.received = self.saved = self.training = False
        self.exit_code: int | None = None  # set when the run should stop
        self.handlers: dict[int, Any] = {}

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.trainer = trainer
        for number in SIGNALS:
            self.handlers[number] = signal.signal(number, self._receive)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.training = True
        signal.signal(signal.SIGTERM, self._receive)  # Lightning has replaced the handler

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)
        self.received, self.exit_code = True, 128 + number
        name = SIGNALS[signal.Signals(number)]
        if not self.training:
            self._exit(self.trainer)
        print(f"\n{name}: stopping after this step; repeat to stop immediately", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if lightning_loop.can_stop_after(trainer, batch_idx) and self._is_due(trainer):
            self.checkpoints.save(trainer, module, "last")
            self.saved = True

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.saved:  # by now, the loggers have written the metrics of the last step
            self._exit(trainer)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step and self._is_due(trainer):  # last.ckpt is up to date
            self._exit(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.training = False
        if self.exit_code:
            self._exit(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        """Return whether any process has to stop; all of them stop at the same step."""
        if self.exit_code is None and time.monotonic() > self.deadline:
            self.exit_code = 0
        if trainer.world_size > 1:
            own = -1 if self.exit_code is None else self.exit_code
            code = torch.tensor(own, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(code, torch.distributed.ReduceOp.MAX)
            self.exit_code = int(code) if code >= 0 else None
        return self.exit_code is not None

    def _exit(self, trainer: Trainer) -> None:
        code = self.exit_code or 0
        if trainer.is_global_zero:
            last = self.checkpoints.folder / "last.ckpt"
            run = shlex.quote(str(last.parent.parent))
            next_step = f"Saved {last}; resume with:\n  {command('train.py')} --resume {run}"
            if not last.is_file():
                next_step = "Nothing was saved; start again with the same command"
            print(f"Stopped by {REASONS[code]}. {next_step}", flush=True)
            if REASONS[code] == "SIGUSR1":
                slurm.requeue()
        raise SystemExit(code)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def on_exception(
        self, trainer: Trainer, module: LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, module, "")
