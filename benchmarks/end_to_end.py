"""Compare the epoch time of `train.py` with bare PyTorch loops, a tutorial's code, and timm.

    python -m benchmarks.end_to_end                     mnist and cifar10_cpu; takes hours
    python -m benchmarks.end_to_end --images 6400 --rounds 3        takes 20 minutes
    python -m benchmarks.end_to_end --configs mnist --precision 32-true

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

import os

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as in train.py, before torch loads OpenMP

import copy
import functools
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import peers
from benchmarks.interleaved import header, interleave, median_ratio, time_step, timing_parser
from benchmarks.tables import Rows, positive, table
from benchmarks.throughput import DTYPES, train_step
from benchmarks.training import train
from src.cli.messages import silence_lightning
from src.cli.parser import parse
from src.data.image_data import ImageDataModule
from src.errors import InputError, exit_on_input_error
from src.models.vit import VisionTransformer
from src.runs.results import read_metrics
from src.training.precision import automatic_precision
from src.transforms.patchify import normalize

CONFIGS = ("mnist", "cifar10_cpu")
EPOCHS = 2  # epochs of train.py per round, after the first
COLUMNS = ("seconds_per_epoch", "of_train.py", "images/s")
Epoch = Callable[[], object]


def main() -> None:
    parser = timing_parser(__doc__)
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=CONFIGS)
    parser.add_argument("--images", type=positive, help="images per epoch (default: all)")
    parser.add_argument("--precision", choices=DTYPES, default=automatic_precision("cpu"))
    options, flags = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    silence_lightning()
    has_timm = peers.installed(["timm"])
    lines, rows = [header("torchvision", *has_timm)], {}
    with tempfile.TemporaryDirectory() as folder:
        for config in options.configs:
            task = Task(config, flags, options.images, options.precision)
            epochs: dict[str, Epoch] = {
                "bare loop": bare_loop(task),
                "bare loop, augmentation and averaging": bare_loop(task, augmented=True),
                "tutorial": tutorial(task),
            }
            if has_timm:
                epochs["timm"] = timm(task, Path(folder, config))
            found = measure(task, epochs, options.rounds)
            rows |= {f"{config}: {name}": row for name, row in found.items()}
            lines.append(f"{config}: {task.batches} batches of {task.batch}, {options.precision}")
    print(*lines, "", table(rows, COLUMNS), sep="\n")


class Task:
    """A training workload: the settings of a recipe, and its training images."""

    def __init__(self, config: str, flags: list[str], images: int | None, precision: str):
        start = ["--config", f"configs/{config}.yaml", "--trainer.accelerator", "cpu"]
        self.flags = [*start, "--trainer.precision", precision, *flags]
        self.precision = precision
        settings = parse(self.flags)
        self.data, self.model = settings.data, settings.model
        self.data.setup("fit")
        self.images = self.data.sets["train"]
        assert self.images
        self.batch = self.data.batch_size
        self.batches = min(images or len(self.images), len(self.images)) // self.batch
        if not self.batches:
            raise InputError(f"--images {images}: {config} has batch size {self.batch}; use more")

    def similar_shape(self) -> peers.Shape:
        """Return the shape of a plain ViT with as many tokens as our network."""
        network, info, config = self.model.net, self.model.dataset, self.model.config
        assert isinstance(network, VisionTransformer)
        patch = info.image_size // network.side
        mlp, classes = config.mlp_ratio, len(info.classes)
        return peers.Shape(info.image_size, info.channels, patch, *config.sizes, mlp, classes)

    def some_images(self) -> tuple[Tensor, Tensor]:
        """Return one epoch of training images and labels, drawn at random."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))
        return self.images.__getitems__(order[: self.batches * self.batch])


def measure(task: Task, epochs: dict[str, Epoch], rounds: int) -> Rows:
    """Time every implementation and return its table rows."""
    contenders = {"train.py": functools.partial(train_py_epoch, task)}
    contenders |= {name: functools.partial(time_step, epoch) for name, epoch in epochs.items()}
    found = interleave(contenders, rounds)
    rows: Rows = {}
    for name, seconds in found.items():
        median = statistics.median(seconds)
        rows[name] = {
            "seconds_per_epoch": median,
            "of_train.py": median_ratio(seconds, found["train.py"]),
            "images/s": task.batches * task.batch / median,
        }
    return rows


# One epoch of each implementation -----------------------------------------------------------------


def train_py_epoch(task: Task) -> float:
    """Return the median seconds per epoch of `train.py`, excluding the first epoch."""
    flags = [*task.flags, "--trainer.max_epochs", str(1 + EPOCHS)]
    for split, limit in (("train", task.batches), ("val", 0), ("test", 0)):
        flags += [f"--trainer.limit_{split}_batches", str(limit)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with tempfile.TemporaryDirectory() as runs:
        run = Path(train(*flags, runs=runs, env=environment)["run"])
        speeds = [float(row["images_per_second"]) for row in read_metrics(run)[1:]]
    return task.batches * task.batch / statistics.median(speeds)


def bare_loop(task: Task, augmented: bool = False) -> Epoch:
    data, model, info = task.data, copy.deepcopy(task.model), task.data.info
    optimizer, generator = model.configure_optimizers(), torch.Generator().manual_seed(0)
    weights, smoothing = list(model.net.parameters()), model.config.label_smoothing
    averages = [p.detach().clone() for p in weights]

    def run() -> None:
        order = torch.randperm(len(task.images))[: task.batches * task.batch]
        for indices in order.split(task.batch):
            batch, labels = task.images.__getitems__(indices)
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


def tutorial(task: Task) -> Epoch:
    network = peers.tutorial(task.similar_shape())
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    pictures = Pictures(*task.some_images(), torchvision_augmentation(task.data))
    loader = DataLoader(pictures, task.batch, shuffle=True)
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
        mode = "symmetric" if a.border == "symmetric" else "constant"
        size = info.image_size
        steps.append(transforms.RandomCrop(size, padding=a.translate, padding_mode=mode))
    steps += [transforms.ToTensor(), transforms.Normalize(info.mean, info.std)]
    if a.erase:
        steps.append(transforms.RandomErasing(a.erase))
    return transforms.Compose(steps)


def timm(task: Task, folder: Path) -> Epoch:
    """Write the images to `folder/train/<class>/<index>.png`, and train with timm."""
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2

    for index, (image, label) in enumerate(zip(*task.some_images(), strict=True)):
        path = folder / "train" / f"{label:03}" / f"{index:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        transforms.functional.to_pil_image(image).save(path)
    data, shape = task.data, task.similar_shape()
    mode = "RGB" if shape.channels == 3 else "L"
    dataset = create_dataset("", root=folder, split="train", is_training=True, input_img_mode=mode)
    loader = create_loader(
        dataset,
        input_size=(shape.channels, shape.image_size, shape.image_size),
        batch_size=task.batch,
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


def loop(
    loader: Iterable[Any], network: nn.Module, optimizer: torch.optim.Optimizer, precision: str
) -> None:
    for images, labels in loader:
        train_step(network, optimizer, images, labels, precision)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
