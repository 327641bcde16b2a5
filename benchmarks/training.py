"""What the benchmarks share: one training through `train.py`, and a table of its results."""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from src.errors import InputError


def run_train_py(*flags: str, **process) -> None:
    """Run `python train.py *flags`, its output passed through to standard error; all else goes to `subprocess.Popen`.

    Raises:
        InputError: the training did not end well; it has said why.
        KeyboardInterrupt: it was stopped by Ctrl-C, and has written its last checkpoint.
    """
    training = subprocess.Popen([sys.executable, "train.py", *flags], stdout=sys.stderr, **process)
    try:
        code = training.wait()
    except KeyboardInterrupt:
        training.wait()
        raise
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise InputError(
            f"python train.py {' '.join(flags)}: ended with exit code {code}; see what it says above"
        )


def train(*flags: str, runs: str | None = None, **process) -> dict:
    """A new training, as by `run_train_py` -> its results.json, and the run's directory under the key `run`.

    Without `runs`, where its directory is made, it is a temporary folder that stays in place.
    """
    runs = runs or tempfile.mkdtemp(prefix="benchmark-")
    before = set(Path(runs).glob("*/version_*"))
    run_train_py("--runs", runs, *flags, **process)
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


@contextlib.contextmanager
def printed_table():
    """A dict to fill with rows of equal columns, for `table`: what is measured is not lost by what comes after it."""
    results: dict[str, dict] = {}
    try:
        yield results
    finally:
        if results:
            print(table(results, tuple(next(iter(results.values())))))


def positive(text: str) -> int:
    """For argparse: a whole number above 0."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: use 1 or more")
    return number


def _format(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
