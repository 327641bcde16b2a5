"""Measure the memory and speed of reading an image folder that exceeds its memory budget.

    python -m benchmarks.large_folder                            20,000 images; takes 3 minutes
    python -m benchmarks.large_folder --images 2000

Writes 256x256 JPEG files to a temporary folder and reads them with `FolderDataModule`, in a new
process per row. Prints a table of start-up time, peak memory and images per second.
"""

import multiprocessing
import re
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.tables import Rows, make_parser, positive, table
from src.data.modules import FolderDataModule
from src.errors import exit_on_input_error

CONTEXT: Any = multiprocessing.get_context("spawn")
COLUMNS = ("start_s", "peak_MiB_after_the_start", "peak_MiB_after_an_epoch", "images/s")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=positive, default=20_000)
    parser.add_argument(
        "--budget", type=float, default=0.25, help="GiB of decoded images to hold in memory"
    )
    options = parser.parse_args()
    rows: Rows = {}
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), options.images)
        for budget, workers in ((options.budget, 2), (options.budget, 0), (0.0, 2)):
            found = in_new_process(read_once, folder, budget, workers)
            rows[f"budget {budget} GiB, {workers} workers"] = dict(zip(COLUMNS, found, strict=True))
    print(table(rows, COLUMNS))


def in_new_process(function: Callable, *arguments: Any) -> Any:
    """Call a function in a new process and return its result."""
    with ProcessPoolExecutor(1, CONTEXT) as pool:
        return pool.submit(function, *arguments).result()


def make_images(folder: Path, count: int) -> None:
    """Write smooth random JPEGs to ten class folders; they decode as slowly as small photos."""
    random = np.random.default_rng(0)
    for index in range(count):
        small = Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        path = folder / "train" / f"class_{index % 10}" / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=90)


def read_once(folder: str, budget: float, workers: int) -> tuple[float, float, float, float]:
    """Set up the data module, then read all training images once in random order.

    Returns:
        Start-up seconds, peak MiB after start-up, peak MiB after the epoch, images per second.
    """
    clock = time.perf_counter()
    module = FolderDataModule(
        root=folder, image_size=224, patch_size=16, memory_budget=budget, workers=workers
    )
    module.setup("fit")
    start, before = time.perf_counter() - clock, peak_memory()
    images = module.sets["train"]
    assert images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    batches = order.split(64)
    clock = time.perf_counter()
    for _ in module._loader(images, batches, batch_sampler=batches):
        pass
    speed = len(images) / (time.perf_counter() - clock)
    return start, before, peak_memory(), speed


def peak_memory() -> float:
    """Return the peak memory in MiB of this process or its largest worker (Linux only)."""
    # ru_maxrss is inherited from the parent process, so read VmHWM instead.
    (own,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(int(own), largest) / 1024


if __name__ == "__main__":
    with exit_on_input_error():
        main()
