"""Lightning's Trainer, with what `train.py` adds to it."""

import contextlib
import sys
from typing import Literal

import torch
from pytorch_lightning import Trainer as LightningTrainer
from pytorch_lightning.callbacks import Callback, EarlyStopping, RichProgressBar, Timer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from src.errors import InputError
from src.training.checkpointing import AtomicCheckpointIO
from src.training.precision import automatic_precision


class Trainer(LightningTrainer):
    """Lightning's Trainer, with precision `auto`: bf16-mixed where the device has it in hardware, else 32 bit.

    TF32 stays off, as PyTorch has it: a device that has it has bf16, too, at twice the speed and half the memory, and
    whoever asks for `32-true` there means all 32 bits.
    """

    def __init__(
        self,
        *args,
        precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto",
        **kwargs,
    ):
        if precision == "auto":
            precision = automatic_precision(kwargs.get("accelerator", "auto"))
        super().__init__(*args, precision=precision, **kwargs)


def make_trainer(settings: dict, callbacks: list[Callback], patience: int | None) -> Trainer:
    """A trainer with the user's settings and callbacks, and then ours.

    Raises:
        InputError: Lightning refuses a setting.
    """
    if patience:
        callbacks = [*callbacks, EarlyStopping("val_accuracy", mode="max", patience=patience)]
    progress_bar = settings["enable_progress_bar"] is not False and sys.stdout.isatty()
    if progress_bar:
        callbacks = [*callbacks, RichProgressBar(leave=False)]
    ours = {
        "callbacks": _as_list(settings["callbacks"]) + callbacks,
        "enable_progress_bar": progress_bar,
        "logger": [] if settings["logger"] in (None, True, False) else settings["logger"],
        "plugins": [*_as_list(settings["plugins"]), AtomicCheckpointIO()],
        "enable_model_summary": False,
    }
    with _mistakes_in_one_line():
        return Trainer(**settings | ours)


def seconds(max_time) -> float | None:
    """`trainer.max_time`, in any form that Lightning takes, in seconds."""
    with _mistakes_in_one_line():
        return Timer(duration=max_time).time_remaining()


@contextlib.contextmanager
def _mistakes_in_one_line():
    """Raises InputError where Lightning refuses a setting, which it does by one of three exceptions."""
    try:
        yield
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise InputError(
            f"trainer: {' '.join(str(error).split())}; see python train.py --help"
        ) from None


def _as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def device_name(trainer: LightningTrainer) -> str:
    """What the run was trained on, for results.json."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def gpu_memory(trainer: LightningTrainer) -> float | None:
    """GiB of a CUDA device's memory that this process had in use at most; None elsewhere."""
    device = trainer.strategy.root_device
    return (
        round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None
    )
