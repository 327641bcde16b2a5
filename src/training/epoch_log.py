"""Log epoch metrics to metrics.csv and the terminal, and gradient and weight norms to loggers."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch.nn.utils import get_total_norm

from src import lightning_loop
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


class Norms(Callback):
    """Log the unclipped gradient norm, the weight norm, and the relative update size.

    The norms are computed on the device, and only on logging steps.
    """

    def __init__(self) -> None:
        self.before: list[torch.Tensor] = []  # weights before the optimizer step

    def on_before_optimizer_step(
        self, trainer: Trainer, module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        if not lightning_loop.is_logging_step(trainer):
            return
        weights = [p for p in module.net.parameters() if p.requires_grad]
        gradients = [p.grad for p in weights if p.grad is not None]
        module.log("gradient_norm", get_total_norm(gradients))
        self.before = [p.detach().clone() for p in weights]

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.before:
            return
        weights = [p.detach() for p in module.net.parameters() if p.requires_grad]
        updates = [now - before for now, before in zip(weights, self.before, strict=True)]
        norm = get_total_norm(self.before)
        module.log_dict({"weight_norm": norm, "update_ratio": get_total_norm(updates) / norm})
        self.before = []
