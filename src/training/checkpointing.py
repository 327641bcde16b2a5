"""Write best.ckpt and last.ckpt, and stop training when it diverges."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint as CheckpointCallback
from torch import Tensor

from src import lightning_loop
from src.errors import InputError
from src.runs.atomic import open_atomically
from src.runs.checkpoint import Checkpoint, load
from src.training.failures import explain
from src.training.loggers import versions


class SaveCheckpoints(CheckpointCallback):
    """Write best.ckpt after each validation that is best so far, and last.ckpt after each epoch.

    A validation after the last batch of an epoch is saved together with last.ckpt, from which
    training resumes at the next epoch. Lightning calls `Checkpoint` callbacks after all others, so
    the saved state is complete.

    Args:
        folder: directory for the checkpoints.
        every_n_steps: number of steps between additional writes of last.ckpt; each write is
            delayed to a step from which the run can be resumed exactly. None disables these extra
            writes.
        global_batch: number of training images per step over all devices.
        fingerprint: hashes of the training and validation images; see `ImageDataModule`.
        monitor: validation metric that decides which checkpoint is the best; higher is better.
    """

    def __init__(
        self,
        folder: Path,
        every_n_steps: int | None,
        global_batch: int,
        fingerprint: dict[str, str],
        monitor: str = "val_accuracy",
    ):
        self.folder = folder
        self.every_n_steps, self.saved_step = every_n_steps, 0
        self.global_batch, self.fingerprint = global_batch, fingerprint
        self.monitor = monitor
        # epoch, step, `val_*` metrics and class scores from the last and the best validation
        self.validated: dict[str, Any] = {}
        self.best: dict[str, Any] = {}
        self.improved_epoch: int | None = None  # a tie also updates `best`
        self.seconds_before, self.started = 0.0, math.inf
        self.unread_losses: list[tuple[Tensor, int]] = []  # losses on the device, and their steps

    @property
    def chosen_path(self) -> Path:
        """The checkpoint to test and predict with: best.ckpt, or last.ckpt without validation."""
        return self.folder / ("best.ckpt" if self.best else "last.ckpt")

    @property
    def train_seconds(self) -> float:
        """Wall time of training, validation and checkpointing, including time before a resume."""
        return self.seconds_before + max(0.0, time.monotonic() - self.started)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": dict(self.best),
            "improved_epoch": self.improved_epoch,
            "validated": dict(self.validated),
            "train_seconds": self.train_seconds,
            "global_batch": self.global_batch,
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = dict(state_dict["best"])
        self.improved_epoch = state_dict["improved_epoch"]
        self.validated = dict(state_dict["validated"])
        self.seconds_before = state_dict["train_seconds"]

    def on_save_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["loggers"] = versions(trainer.loggers)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.started, self.saved_step = time.monotonic(), trainer.global_step

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.seconds_before, self.started = self.train_seconds, math.inf

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        self.unread_losses.append((loss.detach(), trainer.global_step))

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        n, step = self.every_n_steps, trainer.global_step
        is_due = n and step // n > self.saved_step // n
        is_last = batch_idx + 1 == trainer.num_training_batches
        if is_due and lightning_loop.can_stop_after(trainer, batch_idx):
            self.save(trainer, module, "last")
        elif is_last or lightning_loop.is_logging_step(trainer):
            self._check_losses()

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics.items()
        self.validated = {key: float(value) for key, value in metrics if key.startswith("val_")}
        self.validated |= {"epoch": trainer.current_epoch, "step": trainer.global_step}
        self.validated["class_scores"] = module.class_scores
        score, best = self.validated[self.monitor], self.best.get(self.monitor, -math.inf)
        if score > best:
            self.improved_epoch = trainer.current_epoch
        if score >= best:  # on a tie, keep the later checkpoint
            self.best = dict(self.validated)
            if lightning_loop.batch(trainer) < trainer.num_training_batches:
                self.save(trainer, module, "best")

    def epoch_metrics(self, trainer: Trainer) -> dict[str, Any]:
        """Return this epoch's metrics; Lightning drops the validation metrics on resume."""
        metrics = trainer.callback_metrics.items()
        training = {key: value for key, value in metrics if not key.startswith("val_")}
        is_current = self.validated.get("epoch") == trainer.current_epoch
        return training | (self.validated if is_current else {})

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if lightning_loop.is_dry_run(trainer):
            return
        if self.best.get("step") == trainer.global_step:
            self.save(trainer, module, "best")
        self.save(trainer, module, "last")

    def save(self, trainer: Trainer, module: LightningModule, name: str) -> None:
        """Write `<name>.ckpt`.

        Raises:
            InputError: a loss, weight or optimizer moment is infinite or NaN.
        """
        self._check_losses()
        states = trainer.optimizers[0].state.values()
        values = [value for state in states for value in state.values()]
        moments = [v for v in values if torch.is_tensor(v) and v.ndim]  # skip step counters
        tensors = [*module.state_dict().values(), *moments]
        finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors])
        if not finite.all():  # a single read from the device
            what = "a weight or an optimizer moment became infinite or NaN"
            raise self._divergence(what, trainer.global_step)
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")
        self.saved_step = trainer.global_step

    def _check_losses(self) -> None:
        """Read back and check the losses recorded since the last call.

        This is the only place where training waits for the device.
        """
        if not self.unread_losses:
            return
        losses = torch.stack([loss for loss, _ in self.unread_losses]).tolist()
        for loss, (_, step) in zip(losses, self.unread_losses, strict=True):
            if not math.isfinite(loss):
                raise self._divergence(f"the loss became {loss}", step)
        self.unread_losses.clear()

    def _divergence(self, what: str, step: int) -> InputError:
        last = self.folder / "last.ckpt"
        good = f"the last good checkpoint is {last}" if last.is_file() else "no checkpoint exists"
        return InputError(f"{what} at step {step}; {good}; start again with a lower --model.lr")

    def on_exception(
        self, trainer: Trainer, module: LightningModule, exception: BaseException
    ) -> None:
        last = self.folder / "last.ckpt"
        intact = f"{last} is intact; " if last.is_file() else ""
        if explained := explain(exception, str(self.folder.parent), intact):
            raise explained


def epochs_waited(state: dict[str, Any], epochs: int) -> int:
    """Return the number of completed epochs since the last improvement.

    Args:
        state: state of `SaveCheckpoints`.
        epochs: number of completed epochs. If the last one was not validated, return 0.
    """
    is_validated = state["validated"].get("epoch") == epochs - 1
    return epochs - 1 - state["improved_epoch"] if is_validated else 0


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically, and read them safely.

    Args:
        opened: the checkpoint of a resumed run, which is already in memory.
    """

    def __init__(self, opened: Checkpoint | None = None):
        super().__init__()
        self.opened = opened

    def save_checkpoint(self, checkpoint: dict, path: Any, storage_options: Any = None) -> None:
        with open_atomically(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(  # type: ignore[override]
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if self.opened and Path(path) == self.opened.path:
            return self.opened.content
        return load(Path(path))
