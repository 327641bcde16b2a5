"""Time benchmarks in interleaved rounds, so that background load affects all of them alike."""

import datetime
import importlib.metadata
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.tables import make_parser, positive
from src.errors import ArgumentParser
from src.training.precision import cpu_is_faster_in_bf16

Result = TypeVar("Result")


def timing_parser(description: str | None, rounds: int = 5, threads: int = 0) -> ArgumentParser:
    """Return a parser with the options that speed benchmarks share, and their default values."""
    threads = threads or torch.get_num_threads()
    parser = make_parser(description)
    parser.add_argument("--rounds", type=positive, default=rounds, help="number of measured rounds")
    parser.add_argument("--threads", type=positive, default=threads)
    return parser


def interleave(contenders: dict[str, Callable[[], Result]], rounds: int) -> dict[str, list[Result]]:
    """Call every function once per round and return the results of each.

    An additional warm-up round comes first and is not counted. Each round starts with a different
    function.
    """
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            result = contenders[name]()
            if number:
                results[name].append(result)
    return results


def median_ratio(values: list[float], others: list[float]) -> float:
    """Return the median over rounds of the ratio of two measurements."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


class Timed:
    """Time a step by repeating it. A call returns the mean seconds per step.

    Args:
        step: function to time.
        seconds: approximate duration of a call, in seconds.
        device: "cpu" or "cuda".
    """

    def __init__(self, step: Callable[[], object], seconds: float = 0.0, device: str = "cpu"):
        self.step = step
        self.seconds = seconds
        self.device = device
        self.steps = 0

    def __call__(self) -> float:
        self.step()  # warm up the caches
        if not self.steps:
            once = time_step(self.step, device=self.device)
            self.steps = max(1, round(self.seconds / once))
        return time_step(self.step, self.steps, self.device)


def time_step(step: Callable[[], object], steps: int = 1, device: str = "cpu") -> float:
    """Return the mean seconds per step."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return (time.perf_counter() - start) / steps


def header(*packages: str) -> str:
    """Return the date, machine, thread count, and versions of Python, PyTorch and `packages`."""
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    versions += [f"{package} {importlib.metadata.version(package)}" for package in packages]
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    cpu = model[1] if model else platform.processor()
    faster = "bf16" if cpu_is_faster_in_bf16() else "float32"
    machine = f"{cpu}, faster in {faster}, {torch.get_num_threads()} threads"
    return f"{datetime.date.today()}; {machine}; {', '.join(versions)}"
