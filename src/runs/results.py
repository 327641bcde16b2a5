"""The two tables of a run: metrics.csv, a row an epoch, and results.json, written once after the test."""

import csv
import io
import json
from pathlib import Path

from src.runs.atomic import write_atomically

COLUMNS = (
    *("epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    *("learning_rate", "images_per_second"),
)


def read_metrics(run: Path) -> list[dict]:
    """Rows of `metrics.csv`; none if there is no such file."""
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def add_metrics(run: Path, row: dict) -> None:
    """Add the row of an epoch; rows from this epoch on, which a crash has undone, are dropped."""
    rows = [r for r in read_metrics(run) if int(r["epoch"]) < row["epoch"]] + [row]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(run / "metrics.csv", text.getvalue().encode())


def write_results(run: Path, results: dict) -> None:
    write_atomically(run / "results.json", (json.dumps(results, indent=2) + "\n").encode())


def read_results(run: Path) -> dict | None:
    """Content of results.json; None if there is no readable one, as before the test."""
    try:
        results = json.loads((run / "results.json").read_text())
    except (OSError, ValueError):
        return None
    return results if isinstance(results, dict) else None


def tested_epochs(run: Path) -> int | None:
    """How many epochs the run had behind it when it was last tested; None if there is no readable results.json."""
    return (read_results(run) or {}).get("epochs")
