"""Read and write metrics.csv (one row per epoch) and results.json (written after the test)."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from src.runs.atomic import write_atomically

COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "val_balanced_accuracy",
    "learning_rate",
    "images_per_second",
)


def read_metrics(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv, or an empty list if the file does not exist."""
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def add_metrics(run: Path, row: dict[str, Any]) -> None:
    """Add the row for an epoch; drop rows for this and later epochs, left over from a crash."""
    rows = [old for old in read_metrics(run) if int(old["epoch"]) < row["epoch"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows([*rows, row])
    write_atomically(run / "metrics.csv", text.getvalue().encode())


def write_results(run: Path, results: dict[str, Any]) -> None:
    """Write results.json."""
    write_atomically(run / "results.json", (json.dumps(results, indent=2) + "\n").encode())


def read_results(run: Path) -> dict[str, Any]:
    """Return the content of results.json, or an empty dict if it is missing or unreadable."""
    try:
        results = json.loads((run / "results.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return results if isinstance(results, dict) else {}
