"""Lightning's Trainer with precision `auto`, configured for `train.py`."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer as LightningTrainer
from pytorch_lightning.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    GradientAccumulationScheduler,
    RichProgressBar,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from src.errors import InputError, one_line
from src.runs.checkpoint import Checkpoint as OpenedCheckpoint
from src.training.checkpointing import AtomicCheckpointIO
from src.training.precision import automatic_precision

# Callbacks that ignore our schedule, best.ckpt or --resume, and the settings that replace them
REPLACED = {
    EarlyStopping: "--patience",
    GradientAccumulationScheduler: "--trainer.accumulate_grad_batches",
    StochasticWeightAveraging: "--model.ema_decay",
    Timer: "--trainer.max_time",
    WeightAveraging: "--model.ema_decay",
}


class Trainer(LightningTrainer):
    """Lightning's Trainer with precision `auto`: bf16-mixed where that is faster, else 32-true.

    TF32 stays off (PyTorch's default): every GPU with TF32 also has bf16.
    """

    def __init__(
        self,
        *args: Any,
        precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto",
        **kwargs: Any,
    ):
        chosen: Any = precision
        if precision == "auto":
            chosen = automatic_precision(kwargs.get("accelerator", "auto"))
        super().__init__(*args, precision=chosen, **kwargs)


def make_trainer(settings: dict[str, Any], resumed: OpenedCheckpoint | None) -> Trainer:
    """Return a trainer with the user's settings and callbacks.

    Raises:
        InputError: Lightning rejects a setting, the strategy is not supported, or a callback
            conflicts with ours.
    """
    if settings["strategy"] not in ("auto", "ddp"):
        raise InputError(
            f"trainer.strategy {settings['strategy']} is not supported; use auto or ddp"
        )
    callbacks: list[Callback] = _as_list(settings["callbacks"])
    for callback in callbacks:
        for kind, flag in REPLACED.items():
            if isinstance(callback, kind):
                raise InputError(
                    f"trainer.callbacks: {type(callback).__name__} conflicts with the schedule or "
                    f"the checkpoints of this program; use {flag} instead"
                )
    progress_bar = settings["enable_progress_bar"] is not False and sys.stdout.isatty()
    if progress_bar:
        callbacks.append(RichProgressBar(leave=False))
    loggers = settings["logger"]
    overrides = {
        "callbacks": callbacks,
        "enable_progress_bar": progress_bar,
        # Our checkpoint callbacks are added later; Lightning must not add its own.
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "logger": [] if loggers in (None, True, False) else loggers,
        "plugins": [*_as_list(settings["plugins"]), AtomicCheckpointIO(resumed)],
        "enable_model_summary": False,
    }
    with _one_line_errors():
        return Trainer(**settings | overrides)


def seconds(max_time: Any) -> float | None:
    """Convert `trainer.max_time`, in any format that Lightning accepts, to seconds."""
    with _one_line_errors():
        return Timer(duration=max_time).time_remaining()


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Convert the three exceptions with which Lightning rejects settings to InputError."""
    try:
        yield
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        reason = one_line(error, limit=1000)
        raise InputError(f"trainer: {reason}; see --help") from None


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def device_name(trainer: LightningTrainer) -> str:
    """Return a description of the device for results.json."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def gpu_memory(trainer: LightningTrainer) -> float | None:
    """Return the peak memory of a CUDA device in GiB; None for other devices."""
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
