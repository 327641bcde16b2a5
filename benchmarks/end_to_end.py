"""Compare the epoch time of `train.py` with bare PyTorch loops, a tutorial's code, and timm.

    python -m benchmarks.end_to_end                     mnist and cifar10_cpu; takes hours
    python -m benchmarks.end_to_end --images 6400 --rounds 3        takes 20 minutes
    python -m benchmarks.end_to_end --configs mnist --precision 32-true --json out.json

Prints a table with medians over interleaved rounds and the ratio to `train.py`. Other flags are
passed to `train.py`, which runs without validation or testing; its first epoch is not counted. The
other implementations are:

- bare loop: plain PyTorch with the same network, optimizer, batches and precision.
- tutorial: torchvision transforms that apply the same augmentation to one PIL image at a time, the
  default DataLoader, attention heads as wide as the model (`benchmarks/peers.py`), and AdamW.
- timm: timm's dataset (PNG files), loader, optimizer and network in a loop modeled on its train.py,
  with that script's default augmentation and without weight averaging.

The tutorial and timm networks have as many tokens as ours, but use plain patches instead of a stem.
"""

import argparse
import copy
import functools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import peers
from benchmarks.interleaved import header, interleave, median_ratio, timing_parser
from benchmarks.tables import Rows, positive, write
from benchmarks.throughput import DTYPES, train_step
from benchmarks.training import train
from src.cli.messages import silence_lightning
from src.cli.parser import parse
from src.data.image_data import ImageDataModule
from src.data.image_set import ImageSet
from src.errors import InputError, exit_on_input_error
from src.models.vit import VisionTransformer
from src.runs.results import read_metrics
from src.training.build import Settings
from src.training.precision import automatic_precision
from src.transforms.patchify import normalize

CONTEXT: Any = multiprocessing.get_context("spawn")
CONFIGS = ("mnist", "cifar10_cpu")
COLUMNS = ("parameters", "seconds_per_epoch", "of_train.py", "images/s")
BARE, AUGMENTED = "bare loop", "bare loop, augmentation and averaging"


class Task(NamedTuple):
    """A training workload."""

    config: str
    flags: tuple[str, ...]
    images: int | None  # number of images per epoch; None means all
    precision: str
    folder: str  # directory for the image files that timm reads

    def train_flags(self) -> list[str]:
        flags = ["--config", f"configs/{self.config}.yaml", "--trainer.accelerator", "cpu"]
        return [*flags, "--trainer.precision", self.precision, *self.flags]


def main() -> None:
    parser = timing_parser(__doc__)
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=CONFIGS)
    parser.add_argument("--images", type=positive, help="images per epoch (default: all)")
    parser.add_argument("--epochs", type=positive, default=2, help="epochs of train.py per round")
    parser.add_argument("--precision", choices=DTYPES, default=automatic_precision("cpu"))
    options, flags = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    # train.py uses the same value. OpenMP reads it when a new process starts.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    pool = ProcessPoolExecutor(1, CONTEXT, torch.set_num_threads, (options.threads,))
    has_timm = peers.installed(["timm"])
    lines, rows = [header("torchvision", *has_timm)], {}
    ways = [name for name in WAYS if name != "timm" or has_timm]
    with tempfile.TemporaryDirectory() as folder, pool:
        for config in options.configs:
            task = Task(config, tuple(flags), options.images, options.precision, folder)
            turns = {way: functools.partial(_run_in, pool, task, way) for way in ways}
            found = measure(task, turns, options)
            rows |= {f"{config}: {name}": row for name, row in found.items()}
            batches, batch = epoch_size(task)
            lines.append(f"{config}: {batches} batches of {batch}, {options.precision}")
    write(lines, rows, COLUMNS, options.json)


def _run_in(pool: ProcessPoolExecutor, task: Task, way: str) -> float:
    return pool.submit(run_epoch, task, way).result()


def measure(
    task: Task, others: dict[str, Callable[[], float]], options: argparse.Namespace
) -> Rows:
    """Time every implementation and return its table rows."""
    ours = functools.partial(train_py_epoch, task, options.epochs, options.threads)
    rows: Rows = {}
    batches, batch = epoch_size(task)
    found = interleave({"train.py": ours} | others, options.rounds)
    for name, seconds in found.items():
        median = statistics.median(seconds)
        rows[name] = {
            "parameters": peers.parameters(network_of(task, name)),
            "seconds_per_epoch": median,
            "of_train.py": median_ratio(seconds, found["train.py"]),
            "images/s": batches * batch / median,
            "rounds": seconds,
        }
    return rows


@functools.cache
def read(task: Task) -> Settings:
    """Return the settings of the recipe, with the training images loaded."""
    silence_lightning()
    settings = parse(task.train_flags())
    settings.data.setup("fit")
    return settings


def train_images(task: Task) -> ImageSet:
    images = read(task).data.sets["train"]
    assert images
    return images


def epoch_size(task: Task) -> tuple[int, int]:
    """Return the number of batches per epoch and the batch size."""
    batch, available = read(task).data.batch_size, len(train_images(task))
    images = min(task.images or available, available)
    if images < batch:
        raise InputError(f"--images {images}: {task.config} has batch size {batch}; use more")
    return images // batch, batch


def network_of(task: Task, way: str) -> nn.Module:
    """Return a network like the one that the implementation trains."""
    make = {"tutorial": peers.tutorial, "timm": peers.timm}.get(way)
    return make(similar_shape(task)) if make else read(task).model.net


def similar_shape(task: Task) -> peers.Shape:
    """Return the shape of a plain ViT with as many tokens as our network."""
    model = read(task).model
    network, info, config = model.net, model.dataset, model.config
    assert isinstance(network, VisionTransformer)
    patch = info.image_size // network.side
    mlp, classes = config.mlp_ratio, len(info.classes)
    return peers.Shape(info.image_size, info.channels, patch, *config.sizes, mlp, classes)


# One epoch of each implementation -----------------------------------------------------------------


def train_py_epoch(task: Task, epochs: int, threads: int) -> float:
    """Return the median seconds per epoch of `train.py`, excluding the first epoch."""
    batches, batch = epoch_size(task)
    flags = [*task.train_flags(), "--trainer.max_epochs", str(1 + epochs)]
    for split, limit in (("train", batches), ("val", 0), ("test", 0)):
        flags += [f"--trainer.limit_{split}_batches", str(limit)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as runs:
        run = Path(train(*flags, runs=runs, env=environment)["run"])
        speeds = [float(row["images_per_second"]) for row in read_metrics(run)[1:]]
    return batches * batch / statistics.median(speeds)


def run_epoch(task: Task, way: str) -> float:
    """Time one epoch of the given implementation, excluding its (cached) setup."""
    run = prepare(task, way)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@functools.cache
def prepare(task: Task, way: str) -> Callable[[], None]:
    return WAYS[way](task)


def bare_loop(task: Task, augmented: bool = False) -> Callable[[], None]:
    settings, images = read(task), train_images(task)
    batches, size = epoch_size(task)
    data, model, info = settings.data, copy.deepcopy(settings.model), settings.data.info
    optimizer, generator = model.configure_optimizers(), torch.Generator().manual_seed(0)
    weights, smoothing = list(model.net.parameters()), model.config.label_smoothing
    averages = [p.detach().clone() for p in weights]

    def run() -> None:
        for indices in torch.randperm(len(images))[: batches * size].split(size):
            batch, labels = images.__getitems__(indices)
            if augmented:
                pixels = data.augment(batch, generator)
            else:
                pixels = normalize(batch, info.mean, info.std)
            inputs = data.patchify(pixels)
            train_step(model.net, optimizer, inputs, labels, task.precision, smoothing)
            if augmented:
                now: list[Tensor] = [p.detach() for p in weights]
                torch._foreach_lerp_(averages, now, 1 - model.config.ema_decay)

    return run


def tutorial_way(task: Task) -> Callable[[], None]:
    network = peers.tutorial(similar_shape(task))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    pictures = Pictures(*some_images(task), torchvision_augmentation(read(task).data))
    loader = DataLoader(pictures, read(task).data.batch_size, shuffle=True)
    return functools.partial(loop, loader, network, optimizer, task.precision)


class Pictures(Dataset):
    """Dataset that converts single images to PIL, like torchvision's MNIST and CIFAR10."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Image.Image], Tensor]):
        self.images = images.permute(0, 2, 3, 1).numpy()
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.images[index].squeeze())
        return self.transform(picture), self.labels[index]


def torchvision_augmentation(data: ImageDataModule) -> transforms.Compose:
    """Return torchvision transforms equivalent to the recipe's augmentation."""
    a, info = data.augmentation, data.info
    steps: list[Any] = [transforms.RandomHorizontalFlip()] if a.flip else []
    if a.rotate or a.scale:
        move = (a.translate / info.image_size, a.translate / info.image_size)
        steps.append(transforms.RandomAffine(a.rotate, move, (1 - a.scale, 1 + a.scale)))
    elif a.translate:
        steps.append(transforms.RandomCrop(info.image_size, padding=a.translate))
    steps += [transforms.ToTensor(), transforms.Normalize(info.mean, info.std)]
    if a.erase:
        steps.append(transforms.RandomErasing(a.erase))
    return transforms.Compose(steps)


def timm_way(task: Task) -> Callable[[], None]:
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2

    data, shape = read(task).data, similar_shape(task)
    folder = Path(task.folder, task.config)
    write_images(task, folder / "train")
    mode = "RGB" if shape.channels == 3 else "L"
    dataset = create_dataset("", root=folder, split="train", is_training=True, input_img_mode=mode)
    loader = create_loader(
        dataset,
        input_size=(shape.channels, shape.image_size, shape.image_size),
        batch_size=data.batch_size,
        is_training=True,
        use_prefetcher=False,
        hflip=0.5 if data.augmentation.flip else 0.0,
        re_prob=data.augmentation.erase,
        mean=data.info.mean,
        std=data.info.std,
        num_workers=0,
        device=torch.device("cpu"),
    )
    network = peers.timm(shape)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.05)
    return functools.partial(loop, loader, network, optimizer, task.precision)


def write_images(task: Task, folder: Path) -> None:
    """Write the training images to `folder/<class>/<index>.png`."""
    for index, (image, label) in enumerate(zip(*some_images(task), strict=True)):
        path = folder / f"{label:03}" / f"{index:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy().squeeze()).save(path)


def some_images(task: Task) -> tuple[Tensor, Tensor]:
    """Return one epoch of training images and labels, drawn at random."""
    images, (batches, batch) = train_images(task), epoch_size(task)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.__getitems__(order[: batches * batch])


def loop(
    loader: Iterable[Any], network: nn.Module, optimizer: torch.optim.Optimizer, precision: str
) -> None:
    for images, labels in loader:
        train_step(network, optimizer, images, labels, precision)


WAYS: dict[str, Callable[[Task], Callable[[], None]]] = {
    BARE: bare_loop,
    AUGMENTED: functools.partial(bare_loop, augmented=True),
    "tutorial": tutorial_way,
    "timm": timm_way,
}


if __name__ == "__main__":
    with exit_on_input_error():
        main()
