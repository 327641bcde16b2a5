"""Read and validate the files of a run, which may have been edited by hand."""

import csv
import json
from pathlib import Path
from typing import Any

from src.errors import InputError, one_line
from src.runs import results
from src.runs.directory import find_checkpoint

Row = dict[str, float]  # a row of metrics.csv, keyed by column, without empty cells

RESULT_TYPES = {"epochs": int, "test_images": int, "checkpoint": str, "classes": list}


def find_run(path: str) -> Path:
    """Return a run directory.

    Args:
        path: run directory, checkpoint in a run, or folder of runs (the newest run is used).

    Raises:
        InputError: the run has no checkpoint.
    """
    checkpoint = find_checkpoint(path, flag="RUN")
    if not checkpoint.is_file():
        raise InputError(
            f"{path}: not a run with a checkpoint; pass a run such as data/runs/mnist/version_0"
        )
    run = checkpoint.parent.parent
    return run if run.parent.name else run.absolute()  # `.` has no parent name


def read_metrics(run: Path) -> list[Row]:
    """Return the rows of metrics.csv, or an empty list if the file does not exist.

    Raises:
        InputError: the file cannot be read, or a value is not a number.
    """
    try:
        rows = results.read_metrics(run)
        for row in rows:
            int(row["epoch"])
        return [{key: float(row[key]) for key in results.COLUMNS if row.get(key)} for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise _damaged(run / "metrics.csv", error) from None


def read_results(run: Path) -> dict[str, Any]:
    """Return the content of results.json, or an empty dict if the file does not exist.

    Raises:
        InputError: the file cannot be read, or a value has the wrong type.
    """
    path = run / "results.json"
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        for key, value in content.items():
            if not isinstance(value, RESULT_TYPES.get(key, str | float | int | None)):
                raise ValueError(f"{key} {value!r}")
        return content
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: damaged ({one_line(repr(error))}); restore or delete it")
