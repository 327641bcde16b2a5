"""A stop on signals or time that loses nothing."""

import math
import os
import shlex
import signal
import time

from pytorch_lightning.callbacks import Callback

from src import loop
from src.training.checkpoints import Checkpoints


class Stop(Callback):
    """Ends the run on Ctrl-C, SIGTERM or after `max_time`, at the end of a step, with `last.ckpt` written.

    While nothing is trained a signal ends it at once, as does a second one at any time. The process then exits with
    130, 143 or, when the time was up, 0.
    """

    def __init__(self, checkpoints: Checkpoints, max_seconds: float | None):
        self.checkpoints = checkpoints
        self.deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
        self.reason: tuple[str, int] | None = None
        self.training = self.saved = False
        self.handlers: dict = {}

    def setup(self, trainer, module, stage: str) -> None:
        self.trainer = trainer
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self._receive)

    def on_train_start(self, trainer, module) -> None:
        self.training = True
        signal.signal(signal.SIGTERM, self._receive)  # Lightning has taken it since

    def _receive(self, number: int, frame) -> None:
        if self.reason and self.reason[1]:
            os._exit(128 + number)
        self.reason = ("Ctrl-C" if number == signal.SIGINT else "SIGTERM", 128 + number)
        if not self.training:
            self._leave(self.trainer)
        print(f"\n{self.reason[0]}: stopping after this step; once more stops at once", flush=True)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
        if loop.can_stop_after(trainer, batch_idx) and self._due(trainer):
            self.checkpoints.save(trainer, module, "last")
            self.saved = True

    def on_train_batch_start(self, trainer, module, batch, batch_idx: int) -> None:
        if self.saved:  # only now: this step's curves have been written, too
            self._leave(trainer)

    def on_train_epoch_start(self, trainer, module) -> None:
        if trainer.global_step and self._due(trainer):  # the checkpoint of the epoch before has just been written
            self._leave(trainer)

    def on_train_end(self, trainer, module) -> None:
        self.training = False
        if self.reason and self.reason[1]:
            self._leave(trainer)

    def _due(self, trainer) -> bool:
        """Whether this process, or another of the same training, was told to stop: they all do, at the same step."""
        if not self.reason and time.monotonic() > self.deadline:
            self.reason = ("max_time", 0)
        return trainer.strategy.reduce_boolean_decision(self.reason is not None, all=False)

    def _leave(self, trainer) -> None:
        name, code = self.reason or ("another process", 0)
        last = self.checkpoints.folder / "last.ckpt"
        if trainer.is_global_zero and last.is_file():
            resume = f"python train.py --resume {shlex.quote(str(last.parent.parent))}"
            print(f"Stopped by {name}. {last} is written; go on with:\n  {resume}", flush=True)
        elif trainer.is_global_zero:
            print(f"Stopped by {name} before the first step; start again with the same command", flush=True)
        raise SystemExit(code)

    def teardown(self, trainer, module, stage: str) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def on_exception(self, trainer, module, exception: BaseException) -> None:
        self.teardown(trainer, module, "")
