"""What happens beside the training: checkpoints, a stop on signals or time, a table of metrics, a line an epoch."""

import csv
import io
import math
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch import Tensor

from src.errors import InputError
from src.runs import load_checkpoint, write_atomically


class Checkpoints(Checkpoint):
    """Writes `best.ckpt` (highest validation accuracy) and then `last.ckpt`, at the end of every epoch.

    Lightning calls a `Checkpoint` after all other callbacks, so what is saved is complete. `last.ckpt` is also written
    every `every_n_steps` steps; never after an epoch's last step, because the epoch's own follows at once.
    """

    folder: Path  # set when the run directory is made

    def __init__(self, every_n_steps: int | None = None):
        self.every_n_steps = every_n_steps
        self.best_accuracy, self.best_epoch = -1.0, None
        self.seconds_before, self.started = 0.0, time.monotonic()

    @property
    def chosen_path(self) -> Path:
        """The checkpoint to test and classify with: the best, or the last of a run that validates nothing."""
        return self.folder / ("best.ckpt" if self.best_epoch is not None else "last.ckpt")

    @property
    def train_seconds(self) -> float:
        """Wall time of the training, validation and checkpoints included, over all the times it was resumed."""
        return self.seconds_before + max(0.0, time.monotonic() - self.started)

    def state_dict(self) -> dict:
        return {
            "best_accuracy": self.best_accuracy, "best_epoch": self.best_epoch, "train_seconds": self.train_seconds
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict) -> None:
        self.best_accuracy, self.best_epoch = state_dict["best_accuracy"], state_dict["best_epoch"]
        self.seconds_before = state_dict["train_seconds"]

    def on_train_start(self, trainer, module) -> None:
        self.started = time.monotonic()

    def on_train_end(self, trainer, module) -> None:
        self.seconds_before, self.started = self.train_seconds, math.inf

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and can_stop_here(trainer, batch_idx):
            self.save(trainer, module, "last")

    def on_train_epoch_end(self, trainer, module) -> None:
        if trainer.fast_dev_run:
            return
        accuracy = trainer.callback_metrics.get("val_accuracy")
        if accuracy is not None and float(accuracy) >= self.best_accuracy:  # of equals, the later
            self.best_accuracy, self.best_epoch = float(accuracy), trainer.current_epoch
            self.save(trainer, module, "best")
        self.save(trainer, module, "last")

    def save(self, trainer, module, name: str) -> None:
        """Write `<name>.ckpt`, unless a weight is no longer finite: a checkpoint on disk is always a good one."""
        if not all(torch.isfinite(p).all() for p in module.parameters()):
            self._diverged(trainer, module, "a weight became infinite or NaN")
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")

    def on_before_backward(self, trainer, module, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            self._diverged(trainer, module, f"the loss became {loss.item()}")

    def _diverged(self, trainer, module, what: str) -> None:
        last = self.folder / "last.ckpt"
        raise InputError(
            f"{what} at step {trainer.global_step} (epoch {trainer.current_epoch}, learning rate {module.lr_now:.2e}); "
            f"the last good checkpoint is {last if last.is_file() else 'none yet'}; try a lower --model.lr"
        )


def can_stop_here(trainer, batch_idx: int) -> bool:
    """Whether a checkpoint after this batch can be resumed exactly: whole optimizer steps, and not an epoch's last."""
    whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return whole_step and batch_idx + 1 < trainer.num_training_batches


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file and renames: at every instant the file is whole, the old one or the new one."""

    def save_checkpoint(self, checkpoint: dict, path: str, storage_options=None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            write_atomically(Path(path), buffer.getbuffer())
        except OSError as error:
            free = shutil.disk_usage(Path(path).parent).free / 2**20
            raise InputError(
                f"{path}: the checkpoint could not be written ({error.strerror}); it needs "
                f"{len(buffer.getbuffer()) / 2**20:.1f} MiB and the disk has {free:.1f} MiB free; the one before it is "
                "intact: make room, then continue with --resume"
            ) from None

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict:
        return load_checkpoint(path)


class Stop(Callback):
    """Ends the run on Ctrl-C, SIGTERM or after `max_time`, at the end of a step, with `last.ckpt` written.

    A second signal ends it at once. The process then exits with 130, 143 or, when the time was up, 0.
    """

    def __init__(self, checkpoints: Checkpoints, max_time: timedelta | None):
        self.checkpoints = checkpoints
        self.deadline = time.monotonic() + max_time.total_seconds() if max_time else math.inf
        self.reason: tuple[str, int] | None = None
        self.handlers: dict = {}

    def on_train_start(self, trainer, module) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame) -> None:
        if self.reason:
            raise SystemExit(128 + number)
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        self.reason = (name, 128 + number)
        print(f"\n{name}: stopping after this step; once more stops at once", flush=True)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
        if self._due() and can_stop_here(trainer, batch_idx):
            self.checkpoints.save(trainer, module, "last")
            self._leave()

    def on_train_epoch_start(self, trainer, module) -> None:
        if self._due():  # the checkpoint of the epoch before has just been written
            self._leave()

    def _due(self) -> bool:
        if not self.reason and time.monotonic() > self.deadline:
            self.reason = ("max_time", 0)
        return self.reason is not None

    def _leave(self) -> None:
        name, code = self.reason
        folder = self.checkpoints.folder
        print(f"Stopped by {name}. {folder / 'last.ckpt'} is written; go on with:\n"
              f"  python train.py --resume {folder.parent}", flush=True)  # fmt: skip
        raise SystemExit(code)

    def teardown(self, trainer, module, stage: str) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())


class EpochLog(Checkpoint):
    """Keeps `metrics.csv`, one row an epoch, and prints a line an epoch.

    A `Checkpoint` only so that Lightning calls it after the module has logged the epoch's metrics.
    """

    COLUMNS = ("epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate",
               "images_per_second")  # fmt: skip

    path: Path  # set when the run directory is made

    def on_train_epoch_end(self, trainer, module) -> None:
        if not trainer.is_global_zero:
            return
        epoch, metrics = trainer.current_epoch, trainer.callback_metrics
        row = {"epoch": str(epoch), "step": str(trainer.global_step)}
        row |= {key: f"{float(metrics[key]):.6g}" for key in self.COLUMNS[2:] if key in metrics}
        # Epochs that a crash undid are written again, not twice.
        rows = [r for r in read_metrics(self.path) if int(r["epoch"]) < epoch] + [row]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())
        shown = "  ".join(f"{key} {float(metrics[key]):.4f}" for key in self.COLUMNS[2:6] if key in metrics)
        print(f"epoch {epoch + 1}/{trainer.max_epochs}  {shown}  "
              f"{float(metrics['images_per_second']):,.0f} images/s", flush=True)  # fmt: skip


def read_metrics(path: Path) -> list[dict]:
    """Rows of a `metrics.csv`; none if there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
