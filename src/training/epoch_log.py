"""What is written down of every epoch, and where curves go."""

from pathlib import Path

from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch.nn.utils import get_total_norm

from src import lightning_loop as loop
from src.runs.checkpoint import load_checkpoint
from src.runs.results import COLUMNS, add_metrics
from src.training.checkpointing import Checkpoints

# Lightning's names of metrics, and TensorBoard's tags. It sorts the tags, and makes a section of each group. Two runs
# that have a tag in common are two lines in one chart: validation is a run of its own, in the folder `val` of the run.
TAGS = {
    "train_accuracy": "curves/accuracy",
    "train_loss": "curves/loss",
    "learning_rate": "rate/learning_rate",
    "images_per_second": "rate/images_per_second",
    "train_loss_step": "steps/loss",
    "gradient_norm": "steps/gradient_norm",
    "weight_norm": "steps/weight_norm",
    "update_ratio": "steps/update_ratio",
}
VALIDATION_TAGS = {"val_accuracy": "curves/accuracy", "val_loss": "curves/loss"}
LEFT_OUT = {
    "epoch",
    "test_loss",
    "test_accuracy",
    *VALIDATION_TAGS,
}  # of the run itself; HParams has the test


class EpochLog(Checkpoint):
    """Adds a row to `metrics.csv` and prints a line, every epoch.

    A `Checkpoint` only so that Lightning calls it after the module has logged the epoch's metrics.
    """

    run: Path  # set when the run directory is made

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def on_train_epoch_end(self, trainer, module) -> None:
        if not trainer.is_global_zero:
            return
        epoch, metrics = trainer.current_epoch, self.checkpoints.metrics(trainer)
        row = {key: f"{float(metrics[key]):.6g}" for key in COLUMNS[2:] if key in metrics}
        add_metrics(self.run, {"epoch": epoch, "step": trainer.global_step} | row)
        shown = "  ".join(
            f"{key} {float(metrics[key]):.4f}" for key in COLUMNS[2:6] if key in metrics
        )
        speed = f"{float(metrics['images_per_second']):,.0f} images/s"
        print(f"epoch {epoch + 1}/{trainer.max_epochs}  {shown}  {speed}", flush=True)


class Norms(Callback):
    """Logs the norm of the gradient before it is clipped, of the weights, and of the update over that of the weights.

    Computed on the device, and only in the steps that are logged; those keep a copy of the weights until they end.
    """

    def __init__(self):
        self.before: list = []  # the weights before the step

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        if loop.is_logging_step(trainer):
            weights = [p for p in module.net.parameters() if p.requires_grad]
            module.log(
                "gradient_norm", get_total_norm([p.grad for p in weights if p.grad is not None])
            )
            self.before = [p.detach().clone() for p in weights]

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
        if self.before:
            now = [p.detach() for p in module.net.parameters() if p.requires_grad]
            norm = get_total_norm(self.before)
            update = get_total_norm([a - b for a, b in zip(now, self.before, strict=True)])
            module.log_dict({"weight_norm": norm, "update_ratio": update / norm})
            self.before = []


class TrainingCurves(TensorBoardLogger):
    """Events of a run, but for its validation."""

    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        super().log_metrics(
            {TAGS.get(key, key): v for key, v in metrics.items() if key not in LEFT_OUT}, step
        )

    def save(self) -> None:
        """Lightning's would add a file of hyperparameters, which config.yaml has."""
        if self._experiment:
            self.experiment.flush()


class ValidationCurves(TrainingCurves):
    """Events of the validation alone, in the folder `val` of the run."""

    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        if validated := {
            tag: metrics[key] for key, tag in VALIDATION_TAGS.items() if key in metrics
        }:
            TensorBoardLogger.log_metrics(self, validated, step)


def tensorboard(run: Path, resumed_from: Path | None) -> list[TensorBoardLogger]:
    """Events beside the config; on resume, curves that a crash left beyond the checkpoint are taken back."""
    purge = {"purge_step": load_checkpoint(resumed_from)["global_step"]} if resumed_from else {}
    where = dict(
        save_dir=run.parent.parent, name=run.parent.name, version=run.name, default_hp_metric=False
    )
    return [TrainingCurves(**where, **purge), ValidationCurves(**where, **purge, sub_dir="val")]
