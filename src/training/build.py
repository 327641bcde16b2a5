"""Build a training run from its settings: trainer, data, run directory, callbacks and loggers.

The run directory is created after all other checks, so that invalid settings leave no files behind,
and before the callbacks, which write to it.
"""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import yaml
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.callbacks import Checkpoint as CheckpointCallback
from pytorch_lightning.loggers import TensorBoardLogger

from src import lightning_loop
from src.data.duplicates import write_duplicates
from src.data.image_data import ImageDataModule
from src.errors import InputError, printable
from src.runs.atomic import write_atomically
from src.runs.checkpoint import Checkpoint
from src.runs.directory import create_run, lock_run
from src.training.checkpointing import SaveCheckpoints
from src.training.classifier import CNN, Classifier, ViT, print_once
from src.training.epoch_log import EpochLog
from src.training.failures import hide_disk_full_in_threads
from src.training.loggers import continue_loggers, tensorboard_loggers
from src.training.memory import keep_freed_memory
from src.training.processes import rank_zero_first
from src.training.resume import check_resume, refuse_other_images
from src.training.stopping import StopEarly, StopOnSignal
from src.training.threads import ProcessorShare, set_threads
from src.training.trainer import Trainer, make_trainer, seconds


@dataclass(frozen=True)
class Settings:
    """The parsed settings of a training run.

    Attributes:
        config: the complete configuration, as written to config.yaml.
        trainer: arguments for Lightning's Trainer.
        resumed: the run directory and the checkpoint to resume from; None for a new run.
    """

    config: str
    data: ImageDataModule
    model: ViT | CNN
    trainer: dict[str, Any]
    name: str
    runs: Path
    patience: int | None
    checkpoint_every_n_steps: int | None
    pictures: bool
    threads: int | Literal["auto"]
    resumed: tuple[Path, Checkpoint] | None


@dataclass(frozen=True)
class Run:
    """A training run that is ready to start.

    Attributes:
        folder: the run directory.
        resumed: the checkpoint to resume from; None for a new run.
        tensorboard: the logger for the training curves; None if logging is off.
        lock: the open lock file, which rank 0 holds during training; None on other ranks.
    """

    folder: Path
    data: ImageDataModule
    model: Classifier
    trainer: Trainer
    checkpoints: SaveCheckpoints
    resumed: Checkpoint | None
    tensorboard: TensorBoardLogger | None
    lock: IO[str] | None

    def fit(self) -> None:
        """Train from the beginning or from the resumed checkpoint.

        Remove the directory of a new run that fails before its first step, or of a dry run.
        """
        trainer, path = self.trainer, self.resumed.path if self.resumed else None
        try:
            with hide_disk_full_in_threads():
                trainer.fit(self.model, datamodule=self.data, ckpt_path=path, weights_only=True)
        finally:
            is_unused = lightning_loop.is_dry_run(trainer) or not trainer.global_step
            if is_unused and not self.resumed and trainer.is_global_zero:
                shutil.rmtree(self.folder, ignore_errors=True)
                with contextlib.suppress(OSError):
                    self.folder.parent.rmdir()  # unless it contains other runs


def build(
    settings: Settings,
    callbacks: Sequence[Callback] = (),
    initialize: Callable[[ViT], str] | None = None,
) -> Run:
    """Return a run that is ready to start; the module docstring explains the order of the steps.

    Args:
        settings: settings parsed from the command line.
        callbacks: additional callbacks, called after the built-in ones.
        initialize: function that loads `model.init_from` into a model and returns a report.

    Raises:
        InputError: settings conflict with each other or with the run to resume.
    """
    data, model = settings.data, settings.model
    if not settings.resumed:  # otherwise all weights come from the checkpoint
        _initialize(model, initialize)
    options = dict(settings.trainer)
    max_seconds = seconds(options.pop("max_time"))
    resumed_run, resumed = settings.resumed or (None, None)
    trainer = make_trainer(options, resumed)
    if resumed_run and resumed:
        check_resume(resumed_run, resumed, yaml.safe_load(settings.config), model, data, trainer)

    claimed = rank_zero_first(trainer, lambda: _prepare(settings, trainer))
    folder = trainer.strategy.broadcast(claimed[0] if claimed else None)
    assert folder
    if resumed_run and not folder.samefile(resumed_run):
        raise InputError(
            f"{resumed_run}: the first process resumes {folder}; use --resume {folder} on all nodes"
        )
    checkpoints = SaveCheckpoints(
        folder / "checkpoints",
        settings.checkpoint_every_n_steps,
        data.batch_size * trainer.world_size,
        data.fingerprint,
        "val_balanced_accuracy" if data.is_imbalanced else "val_accuracy",
    )
    ours: list[Callback] = [StopOnSignal(checkpoints, max_seconds)]
    if settings.patience:
        ours.append(StopEarly(checkpoints, settings.patience))
    if trainer.strategy.root_device.type == "cpu":
        ours.append(ProcessorShare())
    _add_callbacks(trainer, [*ours, EpochLog(folder, checkpoints), checkpoints, *callbacks])
    tensorboard = _add_loggers(trainer, settings, folder, resumed)
    lock = claimed[1] if claimed else None
    return Run(folder, data, model, trainer, checkpoints, resumed, tensorboard, lock)


def _prepare(settings: Settings, trainer: Trainer) -> tuple[Path, IO[str]] | None:
    """Read the data; on rank 0, also create (or reopen) and lock the run directory."""
    data = settings.data
    data.prepare_data()
    _check_together(data, settings.model, settings.patience, trainer)
    if settings.resumed:
        refuse_other_images(*settings.resumed, data.fingerprint)
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    threads = set_threads(settings.threads, bool(settings.resumed), trainer, settings.model, data)
    if not trainer.is_global_zero:
        return None
    config = _with_actual_values(settings.config, threads, data.batch_size)
    folder = settings.resumed[0] if settings.resumed else create_run(settings.runs, settings.name)
    lock = lock_run(folder)
    write_atomically(folder / "config.yaml", config.encode())
    if found := write_duplicates(data.sets, data.info.classes, folder / "duplicates.csv"):
        print(f"note: {printable(found)}")
    return folder, lock


def _initialize(model: Classifier, initialize: Callable[[ViT], str] | None) -> None:
    if not isinstance(model, ViT):
        return
    if model.init_from:
        if initialize is None:
            raise InputError(
                "model.init_from needs the folder src/extras, which is missing; restore it"
            )
        print_once(initialize(model))
    elif model.freeze_encoder:
        print_once(
            "note: the encoder is frozen at its random initial weights; also set --model.init_from"
        )


def _check_together(
    data: ImageDataModule, model: Classifier, patience: int | None, trainer: Trainer
) -> None:
    networks = model.config.ensemble
    if networks > data.batch_size:
        raise InputError(
            f"model.ensemble {networks} needs at least one image per network, but data.batch_size "
            f"is {data.batch_size}; use a larger batch or fewer networks"
        )
    if patience and not (data.sets["val"] and trainer.limit_val_batches):
        key = "data.val_fraction" if trainer.limit_val_batches else "trainer.limit_val_batches"
        raise InputError(
            f"patience {patience}: early stopping needs validation images; set {key} above 0, or "
            "patience to null"
        )


def _with_actual_values(config: str, threads: int | None, batch_size: int) -> str:
    """Return the config with the measured number of threads and the batch size per device."""
    tree = yaml.safe_load(config)
    tree["threads"] = threads or "auto"
    tree["data"]["init_args"]["batch_size"] = batch_size
    header = [line for line in config.splitlines(keepends=True) if line.startswith("#")]
    return "".join(header) + yaml.safe_dump(tree, sort_keys=False)


def _add_callbacks(trainer: Trainer, ours: Sequence[Callback]) -> None:
    """Add our callbacks and move checkpoint callbacks to the end, as Lightning does."""
    every = [*lightning_loop.callbacks(trainer), *ours]
    first = [callback for callback in every if not isinstance(callback, CheckpointCallback)]
    last = [callback for callback in every if isinstance(callback, CheckpointCallback)]
    lightning_loop.set_callbacks(trainer, first + last)


def _add_loggers(
    trainer: Trainer, settings: Settings, folder: Path, resumed: Checkpoint | None
) -> TensorBoardLogger | None:
    """Add TensorBoard before the user's loggers, unless `trainer.logger` is false."""
    if lightning_loop.is_dry_run(trainer) or settings.trainer["logger"] is False:
        return None
    if resumed:
        saved = resumed.content.get("loggers", [])
        continue_loggers(trainer.loggers, saved, resumed.global_step)
    ours = tensorboard_loggers(folder, resumed.global_step if resumed else None)
    trainer.loggers = [*ours, *trainer.loggers]
    return ours[0]
