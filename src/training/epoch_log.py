"""Log epoch metrics to metrics.csv and the terminal."""

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from src.runs.results import COLUMNS, add_metrics
from src.training.checkpointing import SaveCheckpoints


class EpochLog(Checkpoint):
    """Add a row to metrics.csv and print a line after every epoch.

    This class derives from `Checkpoint` so that Lightning calls it after the module has logged its
    metrics.
    """

    def __init__(self, run: Path, checkpoints: SaveCheckpoints):
        self.run = run
        self.checkpoints = checkpoints

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        metrics = self.checkpoints.epoch_metrics(trainer)  # all ranks take part in the average
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch
        row: dict[str, Any] = {"epoch": epoch, "step": trainer.global_step}
        row |= {key: f"{float(metrics[key]):.6g}" for key in COLUMNS[2:] if key in metrics}
        add_metrics(self.run, row)
        keys = dict.fromkeys([*COLUMNS[2:6], self.checkpoints.monitor])
        shown = [f"{key} {float(metrics[key]):.4f}" for key in keys if key in metrics]
        shown.append(f"{float(metrics['images_per_second']):,.0f} images/s")
        print(f"epoch {epoch + 1}/{trainer.max_epochs}  {'  '.join(shown)}", flush=True)
