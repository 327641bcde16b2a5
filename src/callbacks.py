"""What happens beside the training: checkpoints, a stop on signals or time, a table of metrics, a line an epoch."""

import csv
import io
import math
import os
import shlex
import signal
import time
from pathlib import Path

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from src.errors import InputError, is_disk_full
from src.runs import load_checkpoint, write_atomically


class Checkpoints(Checkpoint):
    """Writes `best.ckpt` (highest validation accuracy) and then `last.ckpt`, at the end of every epoch.

    Lightning calls a `Checkpoint` after all other callbacks, so what is saved is complete. `last.ckpt` is also written
    whenever another `every_n_steps` steps are done; at the next step if a run cannot be resumed exactly from this one.
    """

    folder: Path  # set when the run directory is made

    def __init__(self, every_n_steps: int | None = None):
        self.every_n_steps, self.saved_step = every_n_steps, 0
        self.best_accuracy, self.best_epoch = -1.0, None
        self.validated: dict[str, float] = {}  # the epoch of the last validation, its val_loss and val_accuracy
        self.seconds_before, self.started = 0.0, math.inf

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
            "best_accuracy": self.best_accuracy, "best_epoch": self.best_epoch, "validated": dict(self.validated),
            "train_seconds": self.train_seconds,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict) -> None:
        self.best_accuracy, self.best_epoch = state_dict["best_accuracy"], state_dict["best_epoch"]
        self.validated, self.seconds_before = dict(state_dict["validated"]), state_dict["train_seconds"]

    def on_train_start(self, trainer, module) -> None:
        self.started, self.saved_step = time.monotonic(), trainer.global_step

    def on_train_end(self, trainer, module) -> None:
        self.seconds_before, self.started = self.train_seconds, math.inf

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
        n, step = self.every_n_steps, trainer.global_step
        if n and step // n > self.saved_step // n and can_stop_here(trainer, batch_idx):
            self.save(trainer, module, "last")

    def on_validation_end(self, trainer, module) -> None:
        metrics = trainer.callback_metrics
        if not trainer.sanity_checking:
            self.validated = {key: float(metrics[key]) for key in ("val_loss", "val_accuracy")}
            self.validated["epoch"] = trainer.current_epoch

    def metrics(self, trainer) -> dict:
        """This epoch's metrics. Lightning keeps a validation's until the next one, but loses them when resuming."""
        metrics = {key: v for key, v in trainer.callback_metrics.items() if not key.startswith("val_")}
        return metrics | (self.validated if self.validated.get("epoch") == trainer.current_epoch else {})

    def on_train_epoch_end(self, trainer, module) -> None:
        if trainer.fast_dev_run:
            return
        accuracy = self.metrics(trainer).get("val_accuracy", -math.inf)
        if accuracy >= self.best_accuracy:  # of equals, the later
            self.best_accuracy, self.best_epoch = accuracy, trainer.current_epoch
            self.save(trainer, module, "best")
        self.save(trainer, module, "last")

    def save(self, trainer, module, name: str) -> None:
        """Write `<name>.ckpt`, unless a value is no longer finite: a checkpoint on disk is always a good one."""
        moments = [v for kept in trainer.optimizers[0].state.values() for v in kept.values() if torch.is_tensor(v)]
        for what, values in (("a weight", module.state_dict().values()), ("an optimizer moment", moments)):
            if not all(torch.isfinite(v).all() for v in values):
                self._diverged(trainer, module, f"{what} became infinite or NaN")
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")
        self.saved_step = trainer.global_step

    def on_before_backward(self, trainer, module, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            self._diverged(trainer, module, f"the loss became {loss.item()}")

    def on_exception(self, trainer, module, exception: BaseException) -> None:
        last = self.folder / "last.ckpt"
        intact = f"{last} is intact; " if last.is_file() else ""
        reason = " ".join(str(exception).split("\n\n")[0].split())[:300]
        if is_disk_full(exception):  # TensorBoard was the first to notice
            raise InputError(
                f"{self.folder.parent}: there is no room to write to ({exception.strerror}); {intact}make room, then "
                "go on with --resume"
            )
        if type(exception).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
            raise InputError(f"model.compile: the compiler failed ({reason}); mend that, or use --model.compile false")
        if isinstance(exception, MisconfigurationException):
            raise InputError(f"trainer: {reason}; see python train.py --help")
        if isinstance(exception, RuntimeError) and ("out of memory" in reason or "can't allocate memory" in reason):
            raise InputError(f"not enough memory ({reason}); {intact}use a smaller --data.batch_size or network")

    def _diverged(self, trainer, module, what: str) -> None:
        last = self.folder / "last.ckpt"
        good = f"the last good checkpoint is {last}" if last.is_file() else "there is no checkpoint yet"
        where = f"step {trainer.global_step}, epoch {trainer.current_epoch + 1}, learning rate {module.lr_now:.2e}"
        raise InputError(f"{what} ({where}); {good}; start again with a lower --model.lr")


def can_stop_here(trainer, batch_idx: int) -> bool:
    """Whether a checkpoint after this batch can be resumed exactly.

    Only after a whole optimizer step that is not the epoch's last, since the epoch's own checkpoint follows at once,
    and that no validation follows, since Lightning would leave it out.
    """
    whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    loop = trainer.fit_loop
    validates = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    return whole_step and batch_idx + 1 < trainer.num_training_batches and not validates


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file and renames: at every instant the file is whole, the old one or the new one."""

    def save_checkpoint(self, checkpoint: dict, path: str, storage_options=None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getbuffer())

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict:
        return load_checkpoint(path)


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
        if can_stop_here(trainer, batch_idx) and self._due(trainer):
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
            print(f"Stopped by {name}. {last} is written; go on with:\n"
                  f"  python train.py --resume {shlex.quote(str(last.parent.parent))}", flush=True)  # fmt: skip
        elif trainer.is_global_zero:
            print(f"Stopped by {name} before the first step; start again with the same command", flush=True)
        raise SystemExit(code)

    def teardown(self, trainer, module, stage: str) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def on_exception(self, trainer, module, exception: BaseException) -> None:
        self.teardown(trainer, module, "")


class EpochLog(Checkpoint):
    """Keeps `metrics.csv`, one row an epoch, and prints a line an epoch.

    A `Checkpoint` only so that Lightning calls it after the module has logged the epoch's metrics.
    """

    COLUMNS = ("epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate",
               "images_per_second")  # fmt: skip

    path: Path  # set when the run directory is made

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def on_train_epoch_end(self, trainer, module) -> None:
        if not trainer.is_global_zero:
            return
        epoch, metrics = trainer.current_epoch, self.checkpoints.metrics(trainer)
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
