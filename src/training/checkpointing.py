"""Which checkpoints are written, and when; and what ends a training that can no longer succeed."""

import math
import time
from pathlib import Path

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from src import lightning_loop as loop
from src.errors import InputError, is_disk_full, is_lost_peer, is_out_of_memory
from src.runs.atomic import open_atomically
from src.runs.checkpoint import load_checkpoint


class Checkpoints(Checkpoint):
    """Writes `best.ckpt` (highest validation accuracy) and then `last.ckpt`, at the end of every epoch.

    Lightning calls a `Checkpoint` after all other callbacks, so what is saved is complete. `last.ckpt` is also written
    whenever another `every_n_steps` steps are done; at the next step if a run cannot be resumed exactly from this one.
    """

    folder: Path  # set when the run directory is made
    global_batch: int  # training images of a step, on all devices together
    images: dict[str, int]  # how many to train with, and to validate with

    def __init__(self, every_n_steps: int | None = None):
        self.every_n_steps, self.saved_step = every_n_steps, 0
        self.best_accuracy, self.best_epoch = -1.0, None
        self.validated: dict[
            str, float
        ] = {}  # the epoch of the last validation, its val_loss and val_accuracy
        self.seconds_before, self.started = 0.0, math.inf
        self.unread: list[
            tuple[Tensor, str]
        ] = []  # losses that are still on the device, and where each one arose

    @property
    def chosen_path(self) -> Path:
        """The checkpoint to test and classify with: the best, or the last of a run that validates nothing."""
        return self.folder / ("best.ckpt" if self.best_epoch is not None else "last.ckpt")

    @property
    def train_seconds(self) -> float:
        """Wall time of the training, validation and checkpoints included, over all the times it was resumed."""
        return self.seconds_before + max(0.0, time.monotonic() - self.started)

    def state_dict(self) -> dict:
        best = {"best_accuracy": self.best_accuracy, "best_epoch": self.best_epoch}
        now = {"validated": dict(self.validated), "train_seconds": self.train_seconds}
        return best | now | {"global_batch": self.global_batch, "images": self.images}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best_accuracy, self.best_epoch = state_dict["best_accuracy"], state_dict["best_epoch"]
        self.validated, self.seconds_before = (
            dict(state_dict["validated"]),
            state_dict["train_seconds"],
        )

    def on_train_start(self, trainer, module) -> None:
        self.started, self.saved_step = time.monotonic(), trainer.global_step

    def on_train_end(self, trainer, module) -> None:
        self.seconds_before, self.started = self.train_seconds, math.inf

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
        n, step = self.every_n_steps, trainer.global_step
        if n and step // n > self.saved_step // n and loop.can_stop_after(trainer, batch_idx):
            self.save(trainer, module, "last")
        elif loop.is_logging_step(trainer) or batch_idx + 1 == trainer.num_training_batches:
            self._check_losses()

    def on_validation_end(self, trainer, module) -> None:
        metrics = trainer.callback_metrics
        if not trainer.sanity_checking:
            self.validated = {key: float(metrics[key]) for key in ("val_loss", "val_accuracy")}
            self.validated["epoch"] = trainer.current_epoch

    def metrics(self, trainer) -> dict:
        """This epoch's metrics. Lightning keeps a validation's until the next one, but loses them when resuming."""
        metrics = {
            key: v for key, v in trainer.callback_metrics.items() if not key.startswith("val_")
        }
        return metrics | (
            self.validated if self.validated.get("epoch") == trainer.current_epoch else {}
        )

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
        self._check_losses()
        kept = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        moments = [
            value for value in kept if torch.is_tensor(value) and value.ndim
        ]  # without counters of steps
        for what, values in (
            ("a weight", module.state_dict().values()),
            ("an optimizer moment", moments),
        ):
            finite = [torch.isfinite(value).all() for value in values]
            if finite and not torch.stack(finite).all():  # all of them are waited for at once
                self._diverged(f"{what} became infinite or NaN", _where(trainer, module))
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")
        self.saved_step = trainer.global_step

    def on_before_backward(self, trainer, module, loss: Tensor) -> None:
        self.unread.append((loss.detach(), _where(trainer, module)))

    def _check_losses(self) -> None:
        """Read the losses of the steps since the last time: the device is waited for here, not in every step."""
        losses = torch.stack([loss for loss, _ in self.unread]).tolist() if self.unread else []
        for loss, (_, where) in zip(losses, self.unread, strict=True):
            if not math.isfinite(loss):
                self._diverged(f"the loss became {loss}", where)
        self.unread.clear()

    def on_exception(self, trainer, module, exception: BaseException) -> None:
        """What has only one cause that the user can do something about, in one line; all else goes on as it is."""
        last = self.folder / "last.ckpt"
        intact = f"{last} is intact; " if last.is_file() else ""
        reason = " ".join(str(exception).split("\n\n")[0].split())[:300]
        if is_disk_full(exception):  # TensorBoard was the first to notice
            full = f"there is no room to write to ({exception.strerror})"
            raise InputError(
                f"{self.folder.parent}: {full}; {intact}make room, then go on with --resume"
            )
        if type(exception).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
            raise InputError(
                f"model.compile: the compiler failed ({reason}); fix that, or use --model.compile false"
            )
        if is_lost_peer(exception):
            raise InputError(
                f"another process of this training has ended; see what it said; {intact}go on with --resume"
            )
        if isinstance(exception, MisconfigurationException):
            raise InputError(f"trainer: {reason}; see python train.py --help")
        if is_out_of_memory(exception):
            raise InputError(
                f"not enough memory ({reason}); {intact}use a smaller --data.batch_size or network"
            )

    def _diverged(self, what: str, where: str) -> None:
        last = self.folder / "last.ckpt"
        good = (
            f"the last good checkpoint is {last}"
            if last.is_file()
            else "there is no checkpoint yet"
        )
        raise InputError(f"{what} ({where}); {good}; start again with a lower --model.lr")


def _where(trainer, module) -> str:
    return f"step {trainer.global_step}, epoch {trainer.current_epoch + 1}, learning rate {module.lr_now:.2e}"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file and renames: at every instant the file is whole, the old one or the new one."""

    def save_checkpoint(self, checkpoint: dict, path: str, storage_options=None) -> None:
        with open_atomically(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict:
        return load_checkpoint(path)
