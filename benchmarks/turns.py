"""What the benchmarks of speed share: contenders by turns, what was measured on what, and the table, also as JSON."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.training import positive, table
from src.training.precision import cpu_multiplies_bf16


def arguments(description: str, rounds: int = 5, threads: bool = True) -> argparse.ArgumentParser:
    """A parser with the flags that all of them have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=positive, default=rounds, help="turns of each, of which the median counts"
    )
    if threads:
        parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the table there, too, with every round"
    )
    return parser


def take_turns(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each contender returns in each round. One round more, the first, warms up and is not counted.

    They take turns, so that whatever else the machine does disturbs them alike; each round begins with another one.
    """
    results = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            value = contenders[name]()
            if number:
                results[name].append(value)
    return results


def header(*packages: str, device: str = "cpu") -> str:
    """Date, machine, threads, and the versions of Python, PyTorch and the packages, as one line."""
    version = importlib.metadata.version
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    versions += [f"{package} {version(package)}" for package in packages]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    machine = f"{cpu()}, {cores} cores, {'bf16' if cpu_multiplies_bf16() else 'no bf16'}"
    machine += f", {threads} thread{'s' * (threads != 1)}"
    if device == "cuda":
        machine = f"{torch.cuda.get_device_name()}; {machine}"
    return "; ".join([str(datetime.date.today()), machine, ", ".join(versions)])


def cpu() -> str:
    """The model of the CPU."""
    info = Path("/proc/cpuinfo")
    names = (
        re.findall(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE)
        if info.is_file()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def write(
    lines: list[str], rows: dict[str, dict], columns: tuple[str, ...], path: Path | None
) -> None:
    """Print the lines and the table; at `path` they stand as JSON, where a row may have more than its columns."""
    print("\n".join(lines), table(rows, columns), sep="\n\n")
    if path:
        path.write_text(json.dumps({"header": lines, "rows": rows}, indent=2) + "\n")
