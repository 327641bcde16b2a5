"""TensorBoard loggers for training curves (run directory) and validation curves (`val/` in it).

TensorBoard groups tags by prefix and plots the same tag of different runs in one chart. Validation
is logged as a separate run, so that it shares charts with training.
"""

from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

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
# Test metrics are logged with the hyperparameters instead.
NOT_TRAINING = {"epoch", "test_loss", "test_accuracy", *VALIDATION_TAGS}


class TrainingCurves(TensorBoardLogger):
    """Log all metrics except validation and test metrics."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        kept = {TAGS.get(key, key): v for key, v in metrics.items() if key not in NOT_TRAINING}
        super().log_metrics(kept, step)

    def save(self) -> None:
        """Flush only; Lightning's method would also write hparams.yaml next to config.yaml."""
        if self._experiment:
            self.experiment.flush()


class ValidationCurves(TrainingCurves):
    """Log only validation metrics."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        kept = {tag: metrics[key] for key, tag in VALIDATION_TAGS.items() if key in metrics}
        if kept:
            TensorBoardLogger.log_metrics(self, kept, step)


def tensorboard_loggers(run: Path, resumed_step: int | None) -> list[TensorBoardLogger]:
    """Return the training and validation loggers of a run.

    Args:
        run: the run directory.
        resumed_step: global step of the resumed checkpoint; later points are deleted. None for a
            new run.
    """
    options: dict[str, Any] = {
        "save_dir": run.parent.parent,
        "name": run.parent.name,
        "version": run.name,
        "default_hp_metric": False,
    }
    if resumed_step is not None:
        options["purge_step"] = resumed_step
    return [TrainingCurves(**options), ValidationCurves(**options, sub_dir="val")]
