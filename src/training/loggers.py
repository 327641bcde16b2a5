"""TensorBoard loggers for training curves (run directory) and validation curves (`val/` in it).

TensorBoard groups tags by prefix and plots the same tag of different runs in one chart. Validation
is logged as a separate run, so that it shares charts with training. Other loggers are added by
the user; with `--resume`, they continue.
"""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from pytorch_lightning.utilities import rank_zero_only

from src.data.image_data import ImageDataModule

TAGS = {
    "train_accuracy": "curves/accuracy",
    "train_loss": "curves/loss",
    "learning_rate": "rate/learning_rate",
    "images_per_second": "rate/images_per_second",
    "train_loss_step": "steps/loss",
    "gradient_norm": "steps/gradient_norm",
}
VALIDATION_TAGS = {
    "val_accuracy": "curves/accuracy",
    "val_balanced_accuracy": "curves/balanced_accuracy",
    "val_loss": "curves/loss",
}
# Test metrics are logged with the hyperparameters instead.
NOT_TRAINING = {"epoch", "test_loss", "test_accuracy", "test_balanced_accuracy", *VALIDATION_TAGS}


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


def log_hyperparameters(trainer: Trainer, model: dict[str, Any]) -> None:
    """Log the hyperparameters of the model, the trainer and the data."""
    used: dict[str, Any] = {
        "epochs": trainer.max_epochs,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
    }
    data = getattr(trainer, "datamodule", None)
    if isinstance(data, ImageDataModule):
        used |= {key: getattr(data, key) for key in ("batch_size", "val_fraction", "seed")}
        used |= {"augment": asdict(data.augmentation)}
    for logger in trainer.loggers if trainer.enable_autolog_hparams else ():
        if isinstance(logger, MLFlowLogger) and trainer.ckpt_path:
            continue  # MLflow refuses changed values, such as more epochs
        logger.log_hyperparams(model | used)


def versions(loggers: list[Logger]) -> list[list[Any]]:
    """Return the type and the version (or run ID) of each of the user's loggers."""
    theirs = [logger for logger in loggers if not isinstance(logger, TrainingCurves)]
    return [[type(logger).__name__, logger.version] for logger in theirs]


@rank_zero_only
def continue_loggers(loggers: list[Any], saved: list[list[Any]], step: int) -> None:
    """Let loggers append to the version that they wrote to before the run was resumed.

    Args:
        loggers: the user's loggers.
        saved: their `versions`, from the checkpoint.
        step: global step of the checkpoint; later rows and points are deleted.
    """
    for logger, (kind, version) in zip(loggers, saved, strict=False):
        if type(logger).__name__ != kind:  # `--trainer.logger` has changed
            continue
        if isinstance(logger, MLFlowLogger):
            logger._run_id = logger._run_id or version
        elif isinstance(logger, WandbLogger):
            logger._wandb_init["id"] = logger._wandb_init["id"] or version
        elif isinstance(logger, TensorBoardLogger | CSVLogger):
            if logger._version is None:
                logger._version = version
        if isinstance(logger, TensorBoardLogger):
            logger._kwargs["purge_step"] = step
        if isinstance(logger, CSVLogger):
            _keep_rows(logger, step)


def _keep_rows(logger: CSVLogger, step: int) -> None:
    """Restore the rows before `step`, because Lightning deletes an existing file."""
    path = Path(logger.log_dir, "metrics.csv")
    if path.is_file():
        with open(path, newline="") as file:
            rows: list[Any] = [row for row in csv.DictReader(file) if int(row["step"]) < step]
        logger.experiment.metrics = rows
        logger.save()
