"""What the decoded images of a large folder cost when several processes train on one machine: mapped, and copied.

    python -m benchmarks.shared_cache                            8 processes, 10,000 images of 3x128x128: 469 MiB

Each process asks for every image once, in an order of its own, in batches of 128. Memory is the sum of all processes'
proportional set sizes (a page that n of them share counts 1/n in each), less that of the same processes without images.
"""

import argparse
import multiprocessing
import re
import tempfile
from pathlib import Path

import torch

from benchmarks.training import positive
from src.data.folders import ImageSet, _load_cache
from src.errors import exit_on_input_error

CONTEXT = multiprocessing.get_context("spawn")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=positive, default=10_000)
    parser.add_argument("--processes", type=positive, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache.pt")
        images = torch.randint(0, 256, (options.images, 3, 128, 128), dtype=torch.uint8)
        torch.save(
            {"images": images, "labels": torch.zeros(len(images), dtype=torch.int64), "key": ""},
            cache,
        )
        del images
        print(f"cache of {cache.stat().st_size / 2**20:,.0f} MiB")
        print("| processes | images | MiB in all processes |\n|---|---|---|")
        for processes in (1, options.processes):
            for how in ("mapped", "copied"):
                print(f"| {processes} | {how} | {run(cache, processes, how):,.0f} |", flush=True)


def run(cache: Path, processes: int, how: str) -> float:
    """Memory in MiB of all processes together."""
    barrier, queue = CONTEXT.Barrier(processes), CONTEXT.Queue()
    started = [
        CONTEXT.Process(target=work, args=(str(cache), how, n, barrier, queue))
        for n in range(processes)
    ]
    for process in started:
        process.start()
    total = sum(queue.get() for _ in started)
    for process in started:
        process.join()
    return total


def work(cache: str, how: str, number: int, barrier, queue) -> None:
    barrier.wait()
    before = proportional_memory()
    state = (
        _load_cache(Path(cache), "") if how == "mapped" else torch.load(cache, weights_only=True)
    )
    images = ImageSet(state["images"], state["labels"])
    for indices in torch.randperm(
        len(images), generator=torch.Generator().manual_seed(number)
    ).split(128):
        images.__getitems__(indices)
    barrier.wait()
    memory = proportional_memory() - before
    barrier.wait()  # nobody leaves, and so changes the shares of the others, before all have looked
    queue.put(memory)


def proportional_memory() -> float:
    """MiB of this process; Linux alone knows."""
    return int(re.search(r"Pss: +(\d+)", Path("/proc/self/smaps_rollup").read_text())[1]) / 1024


if __name__ == "__main__":
    with exit_on_input_error():
        main()
