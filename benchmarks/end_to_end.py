"""Seconds of an epoch: `train.py` beside bare loops, a tutorial's way, and timm's way, by turns.

    python -m benchmarks.end_to_end                                 whole epochs of mnist and cifar10_cpu
    python -m benchmarks.end_to_end --images 12800 --workers 0 2    shorter; DataLoaders without workers, and with two
    python -m benchmarks.end_to_end --configs mnist --precision 32-true --json out.json

`train.py` runs as its users start it, without validation and test; of its epochs all but the first count, as
`metrics.csv` tells. The bare loops are PyTorch alone, with the same network, optimizer, batches and precision, their
data in memory. The tutorial's way: one PIL image at a time through torchvision's transforms for the same augmentation,
the default DataLoader, heads as wide as the model (`benchmarks/peers.py`), AdamW. timm's way: its dataset, loader,
optimizer and network, in a loop written after its train.py, which is no part of the package, with that one's default
augmentation and without its average of the weights; it reads the same images as PNG files in class folders. Both
networks have as many tokens as ours, but plain patches where ours has a stem: hence the column of counted flops.
All networks compute in the same precision. Prints a table: medians of the rounds, and the ratio to `train.py`.
"""

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
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import flops, peers
from benchmarks.throughput import CLIP, count
from benchmarks.training import positive, train
from benchmarks.turns import arguments, header, take_turns, write
from src.cli.messages import quiet
from src.cli.parser import parse
from src.errors import InputError, exit_on_input_error
from src.runs.results import read_metrics
from src.training.precision import automatic_precision
from src.transforms.patchify import normalize

CONTEXT = multiprocessing.get_context("spawn")
CONFIGS = ("mnist", "cifar10_cpu")
COLUMNS = ("parameters", "MFLOP_an_image", "seconds_an_epoch", "of_train.py", "images/s")


class Given(NamedTuple):
    """What is trained."""

    config: str
    flags: tuple[str, ...]  # of train.py
    images: int | None  # of an epoch; None for all
    precision: str
    folder: str  # for timm's files


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=CONFIGS)
    parser.add_argument(
        "--images", type=positive, help="of an epoch, whole batches of them (default: all)"
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        default=2,
        help="of train.py in a round, after one that does not count",
    )
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[0],
        help="of the tutorial's and timm's DataLoader",
    )
    parser.add_argument(
        "--precision", choices=["32-true", "bf16-mixed"], default=automatic_precision("cpu")
    )
    options, flags = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as train.py does; the others get it, too
    timm = peers.installed(["timm"])
    lines, rows = [header("torchvision", *timm)], {}
    pool = ProcessPoolExecutor(1, CONTEXT, torch.set_num_threads, (options.threads,))
    with tempfile.TemporaryDirectory() as folder, pool:
        for config in options.configs:
            given = Given(config, tuple(flags), options.images, options.precision, folder)
            rows |= {
                f"{config}: {name}": row
                for name, row in measure(given, bool(timm), pool, options).items()
            }
            lines.append(
                "{}: {} batches of {}, {}".format(config, *size_of(given), options.precision)
            )
    write(lines, rows, COLUMNS, options.json)


def measure(given: Given, timm: bool, pool: ProcessPoolExecutor, options) -> dict[str, dict]:
    """-> the rows of a recipe"""
    ways = {"bare loop": ("bare", False), "bare loop, augmentation and average": ("bare", True)}
    for workers in options.workers:
        among = f", {workers} workers" if workers else ""
        ways |= {
            f"{way}{among}": (way, workers)
            for way in (("tutorial", "timm") if timm else ("tutorial",))
        }
    turns = {
        "train.py": functools.partial(epoch_of_train_py, given, options.epochs, options.threads)
    }
    turns |= {
        name: lambda way=way: pool.submit(epoch, given, *way).result() for name, way in ways.items()
    }
    found, (batches, batch), rows = take_turns(turns, options.rounds), size_of(given), {}
    for name, times in found.items():
        ratios = [a / b for a, b in zip(times, found["train.py"], strict=True)]
        row = {
            "seconds_an_epoch": statistics.median(times),
            "of_train.py": statistics.median(ratios),
            "rounds": times,
        }
        row["images/s"] = batches * batch / row["seconds_an_epoch"]
        rows[name] = row | size_of_network(given, ways.get(name, ("bare",))[0])
    return rows


@functools.cache
def read(given: Given):
    """-> settings, with their training images read"""
    quiet()
    config = ["--config", f"configs/{given.config}.yaml", "--trainer.precision", given.precision]
    settings = parse([*config, "--trainer.accelerator", "cpu", *given.flags])
    settings.data.setup("fit")
    return settings


@functools.cache
def size_of(given: Given) -> tuple[int, int]:
    """-> batches of an epoch, and images of a batch"""
    data = read(given).data
    images = min(given.images or len(data.sets["train"]), len(data.sets["train"]))
    if images < data.batch_size:
        raise InputError(
            f"{given.config}: {images} images are no batch of {data.batch_size}; use more images"
        )
    return images // data.batch_size, data.batch_size


def size_of_network(given: Given, way: str) -> dict:
    """Parameters and flops of our network, or of the tutorial's or timm's."""
    if way == "bare":
        parameters = sum(p.numel() for p in read(given).model.net.parameters())
        return {
            "parameters": parameters,
            "MFLOP_an_image": flops.count(given.config, 50_000, *given.flags).image / 1e6,
        }
    parameters = sum(p.numel() for p in peers.PEERS[way](shape_of(given)).parameters())
    return {"parameters": parameters, "MFLOP_an_image": count(way, shape_of(given))[0] / 1e6}


def shape_of(given: Given) -> peers.Shape:
    """Ours, with plain patches that give as many tokens."""
    settings = read(given)
    network, side = settings.model.hparams.network, settings.model.net.side
    sizes = (network[name] for name in ("width", "depth", "heads", "mlp_ratio", "classes"))
    return peers.Shape(
        network["image_size"], network["channels"], network["image_size"] // side, *sizes
    )


# A turn of each -------------------------------------------------------------------------------------------------------


def epoch_of_train_py(given: Given, epochs: int, threads: int) -> float:
    """Seconds of an epoch of `train.py`, the median of those after the first."""
    batches, batch = size_of(given)
    flags = [
        "--config",
        f"configs/{given.config}.yaml",
        "--trainer.precision",
        given.precision,
        *given.flags,
    ]
    flags += ["--trainer.accelerator", "cpu", "--trainer.max_epochs", str(1 + epochs)]
    for split, limit in (("train", batches), ("val", 0), ("test", 0)):
        flags += [f"--trainer.limit_{split}_batches", str(limit)]
    with tempfile.TemporaryDirectory() as runs:
        run = Path(
            train(*flags, runs=runs, env=os.environ | {"OMP_NUM_THREADS": str(threads)})["run"]
        )
        speeds = [float(row["images_per_second"]) for row in read_metrics(run)[1:]]
    return batches * batch / statistics.median(speeds)


def epoch(given: Given, way: str, setting: int = 0) -> float:
    """Seconds of an epoch of another way; in a process of its own, which keeps what it has prepared."""
    run = {"bare": bare, "tutorial": tutorial, "timm": timm_way}[way](given, setting)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@functools.cache
def bare(given: Given, everything: bool) -> Callable[[], None]:
    """Our network and optimizer; `everything` adds augmentation, and the average of the weights."""
    settings, (batches, size) = read(given), size_of(given)
    model, data, train = copy.deepcopy(settings.model), settings.data, settings.data.sets["train"]
    optimizer, generator = model.configure_optimizers(), torch.Generator().manual_seed(0)
    info, weights = data.info, list(model.net.parameters())
    smoothing, decay = model.hparams.label_smoothing, model.hparams.ema_decay
    average = [p.detach().clone() for p in weights]

    def run() -> None:
        for indices in torch.randperm(len(train))[: batches * size].split(size):
            images, labels = train.__getitems__(indices)
            pixels = (
                data.augment(images, generator)
                if everything
                else normalize(images, info.mean, info.std)
            )
            step(model.net, optimizer, data.patchify(pixels), labels, given.precision, smoothing)
            if everything:
                torch._foreach_lerp_(average, [p.detach() for p in weights], 1 - decay)

    return run


@functools.cache
def tutorial(given: Given, workers: int) -> Callable[[], None]:
    network, (batches, size) = peers.tutorial(shape_of(given)), size_of(given)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    pictures = Pictures(*some(given, batches * size), pipeline(read(given).data))
    loader = DataLoader(
        pictures, size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: loop(loader, network, optimizer, given.precision)


class Pictures(Dataset):
    """As torchvision's MNIST and CIFAR10: an array in memory, a PIL image and its transforms for each index."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable):
        self.images, self.labels, self.transform = (
            images.permute(0, 2, 3, 1).numpy(),
            labels.tolist(),
            transform,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].squeeze())), self.labels[index]


def pipeline(data) -> Callable:
    """torchvision's transforms for the recipe's augmentation."""
    a, size = data.augmentation, data.info.image_size
    steps = [transforms.RandomHorizontalFlip()] if a.flip else []
    if a.rotate or a.scale:
        steps += [
            transforms.RandomAffine(a.rotate, (a.translate / size,) * 2, (1 - a.scale, 1 + a.scale))
        ]
    elif a.translate:
        steps += [transforms.RandomCrop(size, padding=a.translate)]
    steps += [transforms.ToTensor(), transforms.Normalize(data.info.mean, data.info.std)]
    return transforms.Compose(steps + ([transforms.RandomErasing(a.erase)] if a.erase else []))


@functools.cache
def timm_way(given: Given, workers: int) -> Callable[[], None]:
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2

    network, (batches, size), data = peers.timm(shape_of(given)), size_of(given), read(given).data
    info, channels = data.info, len(data.info.mean)
    folder = Path(given.folder, given.config)
    for index, (image, label) in enumerate(zip(*some(given, batches * size), strict=True)):
        path = folder / "train" / f"{label:03}" / f"{index:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy().squeeze()).save(path)
    mode = "RGB" if channels == 3 else "L"
    dataset = create_dataset("", root=folder, split="train", is_training=True, input_img_mode=mode)
    loader = create_loader(
        dataset, (channels, info.image_size, info.image_size), size, is_training=True, use_prefetcher=False,
        hflip=0.5 if data.augmentation.flip else 0.0, re_prob=data.augmentation.erase, mean=info.mean, std=info.std,
        num_workers=workers, persistent_workers=workers > 0, device=torch.device("cpu"),
    )  # fmt: skip
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.05)
    return lambda: loop(loader, network, optimizer, given.precision)


def some(given: Given, count: int) -> tuple[Tensor, Tensor]:
    """So many training images of all classes, and their labels."""
    train = read(given).data.sets["train"]
    return train.__getitems__(
        torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]
    )


def loop(
    loader: Iterable, network: nn.Module, optimizer: torch.optim.Optimizer, precision: str
) -> None:
    for images, labels in loader:
        step(network, optimizer, images, labels, precision)


def step(
    network, optimizer, inputs: Tensor, labels: Tensor, precision: str, smoothing: float = 0.0
) -> None:
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        loss = F.cross_entropy(network(inputs), labels, label_smoothing=smoothing)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimizer.step()


if __name__ == "__main__":
    with exit_on_input_error():
        main()
