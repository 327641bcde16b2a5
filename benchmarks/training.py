"""What the benchmarks share: one training through `train.py`, and a table of its results."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from src.errors import InputError


def train(*flags: str, runs: str | None = None, **process) -> dict:
    """Run `python train.py *flags`, its output passed through to standard error -> its results.json.

    The run's directory stands under the key `run`. Without `runs` it is a temporary one that stays in place. All else
    goes to `subprocess.run`, such as the folder to start in.

    Raises:
        InputError: the training did not end well; it has said why.
    """
    runs = runs or tempfile.mkdtemp(prefix="benchmark-")
    before = set(Path(runs).glob("*/version_*"))
    command = [sys.executable, "train.py", "--runs", runs, *flags]
    if code := subprocess.run(command, stdout=sys.stderr, **process).returncode:
        raise InputError(f"python train.py {' '.join(flags)}: ended with exit code {code}; see what it says above")
    (run,) = set(Path(runs).glob("*/version_*")) - before
    return json.loads((run / "results.json").read_text()) | {"run": str(run)}


def table(results: dict[str, dict], columns: tuple[str, ...]) -> str:
    """A Markdown table, one row a training."""
    lines = ["| | " + " | ".join(column.replace("_", " ") for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, result in results.items():
        cells = [_format(result[column]) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def positive(text: str) -> int:
    """For argparse: a whole number above 0."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: use 1 or more")
    return number


def _format(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
