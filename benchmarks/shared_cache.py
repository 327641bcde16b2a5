"""What the decoded images of a large folder cost when several processes train on one machine: mapped, and copied.

    python -m benchmarks.shared_cache                            8 processes, 10,000 images of 3x128x128: 469 MiB

Each process asks for every image once, in an order of its own, in batches of 128. Memory is the sum of all processes'
proportional set sizes (a page that n of them share counts 1/n in each), less that of the same processes without images.
"""

import argparse
import multiprocessing
import re
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.training import positive
from src.data.folders import ImageSet, _load_cache
from src.errors import exit_on_input_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive, default=10_000)
    parser.add_argument("--processes", type=positive, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache.pt")
        images = torch.randint(0, 256, (options.images, 3, 128, 128), dtype=torch.uint8)
        torch.save({"images": images, "labels": torch.zeros(len(images), dtype=torch.int64), "key": ""}, cache)
        del images
        print(f"cache of {cache.stat().st_size / 2**20:,.0f} MiB")
        print("| processes | images | MiB in all processes | images/s in all processes |\n|---|---|---|---|")
        for processes in (1, options.processes):
            for how in ("mapped", "copied"):
                memory, speed = run(cache, processes, how)
                print(f"| {processes} | {how} | {memory:,.0f} | {speed:,.0f} |", flush=True)


def run(cache: Path, processes: int, how: str) -> tuple[float, float]:
    """Memory in MiB and images a second of all processes together."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(processes), context.Queue()
    started = [context.Process(target=work, args=(str(cache), how, n, barrier, queue)) for n in range(processes)]
    for process in started:
        process.start()
    rows = [queue.get() for _ in started]
    for process in started:
        process.join()
    return sum(row[0] for row in rows), sum(row[1] for row in rows)


def work(cache: str, how: str, number: int, barrier, queue) -> None:
    torch.set_num_threads(1)
    barrier.wait()
    before = proportional_memory()
    state = _load_cache(Path(cache), "") if how == "mapped" else torch.load(cache, weights_only=True)
    images = ImageSet(state["images"], state["labels"])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(number))
    barrier.wait()
    start = time.perf_counter()
    for indices in order.split(128):
        images.__getitems__(indices)
    seconds = time.perf_counter() - start
    barrier.wait()
    memory = proportional_memory() - before
    barrier.wait()  # nobody leaves, and so changes the shares of the others, before all have looked
    queue.put((memory, len(images) / seconds))


def proportional_memory() -> float:
    """MiB of this process; Linux alone knows."""
    return int(re.search(r"Pss: +(\d+)", Path("/proc/self/smaps_rollup").read_text())[1]) / 1024


if __name__ == "__main__":
    with exit_on_input_error():
        main()
