"""What is written down of every epoch, and where curves go."""

from pathlib import Path

from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import TensorBoardLogger

from src.runs.checkpoint import load_checkpoint
from src.runs.results import COLUMNS, add_metrics
from src.training.checkpoints import Checkpoints


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
        shown = "  ".join(f"{key} {float(metrics[key]):.4f}" for key in COLUMNS[2:6] if key in metrics)
        speed = f"{float(metrics['images_per_second']):,.0f} images/s"
        print(f"epoch {epoch + 1}/{trainer.max_epochs}  {shown}  {speed}", flush=True)


def tensorboard(run: Path, resumed_from: Path | None) -> TensorBoardLogger:
    """Events beside the config; on resume, curves that a crash left beyond the checkpoint are taken back."""
    purge = {"purge_step": load_checkpoint(resumed_from)["global_step"]} if resumed_from else {}
    where = dict(save_dir=run.parent.parent, name=run.parent.name, version=run.name)
    return TensorBoardLogger(**where, default_hp_metric=False, **purge)
