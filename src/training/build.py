"""From settings to a training that can start: checks across data and model, the trainer, and the run directory.

The run directory comes last: a mistake leaves nothing behind.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml

from src.data.modules import ImageDataModule
from src.errors import InputError
from src.runs.directory import claim_run, is_joining
from src.runs.files import write_atomically
from src.training.checkpoints import Checkpoints
from src.training.classifier import Classifier
from src.training.log import EpochLog, Norms, tensorboard
from src.training.pictures import Pictures
from src.training.resume import take_up
from src.training.stop import Stop
from src.training.trainer import Trainer, make_trainer, seconds


@dataclass
class Settings:
    """What `train.py` was asked for."""

    config: str  # the complete configuration, as config.yaml keeps it
    data: ImageDataModule
    model: Classifier
    trainer: dict  # arguments of the trainer
    name: str
    runs: Path
    patience: int | None
    checkpoint_every_n_steps: int | None
    pictures: bool
    resumed_run: Path | None  # the run to go on with
    checkpoint: Path | None  # of that run


@dataclass
class Training:
    """A training that can start."""

    data: ImageDataModule
    model: Classifier
    trainer: Trainer
    checkpoints: Checkpoints
    pictures: Pictures | None
    run: Path
    checkpoint: Path | None  # to go on from
    lock: IO | None  # held as long as this process trains the run


def build(settings: Settings) -> Training:
    """Read the data, make the trainer, claim the run directory, and see that a resumed run can go on.

    Raises:
        InputError: settings do not fit each other, or the run.
    """
    data, model, trainer_settings = settings.data, settings.model, dict(settings.trainer)
    data.prepare_data()
    _check_together(data, model, settings.patience)
    checkpoints = Checkpoints(settings.checkpoint_every_n_steps)
    table = EpochLog(checkpoints)
    stop = Stop(checkpoints, seconds(trainer_settings.pop("max_time")))
    pictures = Pictures(settings.config) if settings.pictures and not trainer_settings["fast_dev_run"] else None
    callbacks = [stop, Norms(), table, checkpoints, pictures]
    trainer = make_trainer(trainer_settings, [callback for callback in callbacks if callback], settings.patience)

    run, lock = claim_run(settings.runs, settings.name, settings.resumed_run)
    if settings.checkpoint:
        take_up(run, settings.checkpoint, yaml.safe_load(settings.config), model, trainer)
    if not is_joining():
        write_atomically(run / "config.yaml", settings.config.encode())
    checkpoints.folder, table.run = run / "checkpoints", run
    if not trainer.fast_dev_run:
        trainer.loggers = tensorboard(run, settings.checkpoint)
    return Training(data, model, trainer, checkpoints, pictures, run, settings.checkpoint, lock)


def _check_together(data: ImageDataModule, model: Classifier, patience: int | None) -> None:
    networks = model.hparams.ensemble
    if networks > data.batch_size:
        few = f"data.batch_size {data.batch_size} has no image for every network"
        raise InputError(f"model.ensemble {networks}: {few}; use a larger batch, or fewer networks")
    if patience and not data.sets["val"]:
        raise InputError(
            f"patience {patience}: there are no validation images to stop by; set data.val_fraction above 0, "
            "or leave patience out"
        )
