"""Choose the number of CPU threads, and detect when other programs slow down training."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from src.data.image_data import ImageDataModule
from src.training.classifier import Classifier

MEASUREMENT_SECONDS = 0.1  # target time of a measurement
MAX_MEASURING_SECONDS = 1.2  # no new round of measurements starts after this time
MIN_EPOCH_SECONDS = 5  # a shorter epoch says little about the load
WAITING_THRESHOLD = 0.3  # print a note if threads wait for a CPU for at least this part of an epoch


def set_threads(
    threads: int | Literal["auto"],
    resumed: bool,
    trainer: Trainer,
    model: Classifier,
    data: ImageDataModule,
) -> int | None:
    """Set the number of threads for operators on the CPU.

    The number affects the last bits of the results, so a resumed run keeps it.

    Args:
        threads: number of threads. "auto" measures which number trains a new run fastest under the
            current load, unless OMP_NUM_THREADS is set.
        resumed: whether the run has been trained before.

    Returns:
        The number of threads, or None if several processes share the processor or the network
        trains on another device.
    """
    if trainer.strategy.root_device.type != "cpu" or trainer.world_size > 1:
        return None
    if threads == "auto" and not resumed and "OMP_NUM_THREADS" not in os.environ:
        step = training_step(trainer, model, data)
        # Batch norm cannot train on a single value, so each network gets at least two images.
        size = min(2 * model.config.ensemble, data.batch_size)
        speeds = measure(step, size, data.batch_size)
        threads = choose(speeds)
        measured = ", ".join(f"{speed:,.0f} with {n}" for n, speed in speeds.items())
        print(f"using {threads} of {max(speeds)} threads (images/s measured: {measured})")
    if threads != "auto":
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def training_step(
    trainer: Trainer, model: Classifier, data: ImageDataModule
) -> Callable[[int], None]:
    """Return a function that augments and trains on a number of random images.

    It changes neither weights nor random number generators.
    """
    info, network = data.info, model.net
    weights = [weight for weight in network.parameters() if weight.requires_grad]

    def step(size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (size, info.channels, info.image_size, info.image_size)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.randint(len(info.classes), (size,), generator=generator)
        statistics = [buffer.clone() for buffer in network.buffers()]
        with torch.random.fork_rng(devices=[]), trainer.precision_plugin.forward_context():
            inputs = data.patchify(data.augment(images, generator))
            loss = F.cross_entropy(network.forward(inputs), labels)  # bypasses the compiled call
        torch.autograd.grad(loss, weights, allow_unused=True)
        for buffer, before in zip(network.buffers(), statistics, strict=True):
            buffer.copy_(before)

    return step


def choose(speeds: dict[int, float]) -> int:
    """Return the number of threads to use for the given speeds by number of threads.

    This is the smallest number within 5 percent of the best speed, because fewer threads are
    slowed down less when another program starts later.
    """
    best = max(speeds.values())
    return min(threads for threads, speed in speeds.items() if speed >= 0.95 * best)


def measure(step: Callable[[int], None], size: int, batch_size: int) -> dict[int, float]:
    """Return the speed of training steps in images/s by number of threads.

    This takes less than two seconds, unless the network needs more for a few images.

    Args:
        step: function that trains on a number of images.
        size: smallest number of images to train on.
        batch_size: number of images in a real step; slow networks are measured with fewer.
    """
    most = torch.get_num_threads()
    candidates = sorted({most} | {2**k for k in range(most.bit_length()) if 2**k < most})
    if most == 1:
        return {1: 0.0}

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        step(size)
        return time.perf_counter() - start

    start = time.perf_counter()
    step(size)  # the first step allocates memory and compiles kernels
    while seconds(1) < MEASUREMENT_SECONDS and size < batch_size:
        size = min(2 * size, batch_size)
    totals = dict.fromkeys(candidates, 0.0)
    rounds = 0
    while not rounds or time.perf_counter() - start < MAX_MEASURING_SECONDS:
        for threads in candidates:
            totals[threads] += seconds(threads)
        rounds += 1
    torch.set_num_threads(most)
    return {threads: rounds * size / total for threads, total in totals.items()}


class ProcessorShare(Callback):
    """Print a note at the end of the first epoch in which other programs slow down training.

    Linux counts how long the threads of a process were ready to run but waited for a CPU.
    """

    def __init__(self) -> None:
        self.printed = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        # Lightning does not call the hook below when it resumes within an epoch.
        self.on_train_epoch_start(trainer, module)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.before = time.perf_counter(), time.process_time(), seconds_waited()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        started, used, waited = self.before
        elapsed = time.perf_counter() - started
        fraction = (seconds_waited() - waited) / elapsed
        if elapsed < MIN_EPOCH_SECONDS or fraction < WAITING_THRESHOLD:
            return
        if self.printed or not trainer.is_global_zero:
            return
        self.printed = True
        threads = torch.get_num_threads()
        share = (time.process_time() - used) / elapsed
        needed, remedy = "1 CPU core", "stop them to train faster"
        if threads > 1:
            needed, remedy = f"{threads} CPU cores", "stop them, or resume with --threads 1"
        print(
            f"note: other programs slow down this training; in epoch {trainer.current_epoch + 1}, "
            f"it got {share:.1f} of {needed}; {remedy}"
        )


def seconds_waited() -> float:
    """Return how long all threads of this process have waited for a CPU; 0 if unknown."""
    nanoseconds = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # the thread has just ended
            nanoseconds += int(path.read_text().split()[1])
    return nanoseconds / 1e9
