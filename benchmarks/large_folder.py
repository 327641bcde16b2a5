"""A folder of images larger than the memory budget: peak memory and images a second, with and without workers.

    python -m benchmarks.large_folder                            20,000 JPEG files of 256x256

Makes the folder in a temporary place, then reads it through `FolderDataModule` in a process of its own for each row.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.training import positive
from src.data.modules import FolderDataModule
from src.errors import exit_on_input_error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=positive, default=20_000)
    parser.add_argument(
        "--budget", type=float, default=0.25, help="GiB of decoded images to hold in memory"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), options.images)
        print(
            "| budget GiB | workers | start, s | peak MiB after the start | peak MiB after an epoch | images/s |"
        )
        print("|---" * 6 + "|")
        for budget, workers in ((options.budget, 2), (options.budget, 0), (0.0, 2)):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                start, before, after, speed = pool.submit(measure, folder, budget, workers).result()
            print(
                f"| {budget} | {workers} | {start:.1f} | {before:.0f} | {after:.0f} | {speed:,.0f} |",
                flush=True,
            )


def make_images(folder: Path, count: int) -> None:
    """Smooth random pictures as JPEG, ten classes: as large and as hard to decode as small photos."""
    random = np.random.default_rng(0)
    for index in range(count):
        small = Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        path = folder / "train" / f"class_{index % 10}" / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=90)


def measure(folder: str, budget: float, workers: int) -> tuple[float, float, float, float]:
    """Start, then one pass over all training images, as a training would ask for them.

    Returns the seconds of the start, the peak memory after it and after the pass in MiB, and images a second.
    """
    clock = time.perf_counter()
    module = FolderDataModule(
        root=folder, image_size=224, patch_size=16, memory_budget=budget, workers=workers
    )
    module.setup("fit")
    start, before = time.perf_counter() - clock, peak()
    train = module.sets["train"]
    loader = module._loader(train, shuffled_batches(len(train), 64))
    clock = time.perf_counter()
    seen = sum(len(labels) for _, labels in loader)
    return start, before, peak(), seen / (time.perf_counter() - clock)


def shuffled_batches(size: int, batch: int) -> list:
    return list(torch.randperm(size, generator=torch.Generator().manual_seed(0)).split(batch))


def peak() -> float:
    """Peak memory of this process or the largest of its workers, in MiB."""
    return (
        max(
            resource.getrusage(who).ru_maxrss
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        / 1024
    )


if __name__ == "__main__":
    with exit_on_input_error():
        main()
