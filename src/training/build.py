"""From settings to a training that can start: checks across data and model, the trainer, and the run directory.

The run directory comes last: a mistake leaves nothing behind.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml
from pytorch_lightning.loggers import TensorBoardLogger

from src.data.modules import ImageDataModule
from src.errors import InputError
from src.extras.report.pictures import Pictures
from src.runs.atomic import write_atomically
from src.runs.directory import claim_run
from src.training.checkpointing import Checkpoints
from src.training.classifier import Classifier
from src.training.epoch_log import EpochLog, Norms, tensorboard
from src.training.processes import in_turns
from src.training.resume import refuse_other_images, take_up
from src.training.stopping import Stop
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
    tensorboard: (
        TensorBoardLogger | None
    )  # the first of the trainer's loggers; None if there is none of ours
    lock: IO | None  # held as long as the first process trains the run


def build(settings: Settings) -> Training:
    """Make the trainer, see that a resumed run can go on, start all processes, read the data, and claim the run.

    Raises:
        InputError: settings do not fit each other, or the run.
    """
    data, model, trainer_settings = settings.data, settings.model, dict(settings.trainer)
    checkpoints = Checkpoints(settings.checkpoint_every_n_steps)
    table = EpochLog(checkpoints)
    stop = Stop(checkpoints, seconds(trainer_settings.pop("max_time")))
    pictures = (
        Pictures(settings.config)
        if settings.pictures and not trainer_settings["fast_dev_run"]
        else None
    )
    callbacks = [stop, Norms(), table, checkpoints, pictures]
    trainer = make_trainer(
        trainer_settings, [callback for callback in callbacks if callback], settings.patience
    )
    config, before = settings.config, None
    if settings.checkpoint:
        before = take_up(
            settings.resumed_run, settings.checkpoint, yaml.safe_load(config), model, data, trainer
        )
        config = _as_it_trains(config, data)
    run = lock = None

    def prepare() -> None:
        nonlocal run, lock
        data.prepare_data()
        _check_together(data, model, settings.patience)
        checkpoints.images = {split: len(data.sets[split] or ()) for split in ("train", "val")}
        refuse_other_images(settings.resumed_run, before, checkpoints.images)
        if trainer.is_global_zero:
            run, lock = claim_run(settings.runs, settings.name, settings.resumed_run)
            write_atomically(run / "config.yaml", config.encode())

    in_turns(trainer, prepare)
    run = trainer.strategy.broadcast(run)
    if settings.resumed_run and not run.samefile(settings.resumed_run):
        raise InputError(
            f"{settings.resumed_run}: the first process resumes {run}; name it: --resume {run}"
        )
    checkpoints.folder, table.run = run / "checkpoints", run
    checkpoints.global_batch = data.batch_size * trainer.world_size
    ours = _add_loggers(trainer, settings, run)
    return Training(
        data, model, trainer, checkpoints, pictures, run, settings.checkpoint, ours, lock
    )


def _add_loggers(trainer: Trainer, settings: Settings, run: Path) -> TensorBoardLogger | None:
    """TensorBoard before the loggers of the user, who can turn off all with `trainer.logger: false`."""
    if trainer.fast_dev_run or settings.trainer["logger"] is False:
        return None
    ours = tensorboard(run, settings.checkpoint)
    trainer.loggers = [*ours, *trainer.loggers]
    return ours[0]


def _as_it_trains(config: str, data: ImageDataModule) -> str:
    """The configuration with each device's share of the batch, which is another one on another number of devices."""
    tree = yaml.safe_load(config)
    if tree["data"]["init_args"]["batch_size"] == data.batch_size:
        return config
    tree["data"]["init_args"]["batch_size"] = data.batch_size
    return yaml.safe_dump(tree, sort_keys=False)


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
