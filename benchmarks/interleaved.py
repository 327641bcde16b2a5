"""Time benchmarks in interleaved rounds, so that background load affects all of them alike."""

import datetime
import importlib.metadata
import os
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


def timing_parser(description: str | None, rounds: int = 5) -> ArgumentParser:
    """Return a parser with the options that all speed benchmarks share."""
    parser = make_parser(description)
    parser.add_argument("--rounds", type=positive, default=rounds, help="number of measured rounds")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the times of all rounds")
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
            once = time_step(self.step, 1, self.device)
            self.steps = max(1, round(self.seconds / once))
        return time_step(self.step, self.steps, self.device)


def time_step(step: Callable[[], object], steps: int, device: str) -> float:
    """Return the mean seconds per step."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    _synchronize(device)
    return (time.perf_counter() - start) / steps


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def header(*packages: str, device: str = "cpu") -> str:
    """Return the date, machine, thread count, and versions of Python, PyTorch and `packages`."""
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    versions += [f"{package} {importlib.metadata.version(package)}" for package in packages]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    faster = "bf16" if cpu_is_faster_in_bf16() else "float32"
    machine = (
        f"{_cpu_model()}, {cores} cores, faster in {faster}, {torch.get_num_threads()} threads"
    )
    if device == "cuda":
        machine = f"{torch.cuda.get_device_name()}; {machine}"
    return f"{datetime.date.today()}; {machine}; {', '.join(versions)}"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()
