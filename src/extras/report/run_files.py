"""Read the files of a run. They may have been edited, so their values are checked here."""

import csv
import json
from pathlib import Path
from typing import Any

from src.errors import InputError, one_line
from src.runs import results
from src.runs.directory import find_checkpoint

Row = dict[str, float]  # values of metrics.csv by their columns, without empty cells

RESULT_TYPES = {"epochs": int, "test_images": int, "checkpoint": str}


def find_run(path: str) -> Path:
    """Return a run directory.

    Args:
        path: run directory, a checkpoint in it, or the folder of all runs of a name.

    Raises:
        InputError: the run has no checkpoint.
    """
    checkpoint = find_checkpoint(path, flag="RUN")
    if not checkpoint.is_file():
        raise InputError(
            f"{path}: not a run with a checkpoint; name one, for example data/runs/mnist/version_0"
        )
    run = checkpoint.parent.parent
    return run if run.parent.name else run.absolute()  # relative to the run: its name is needed


def read_metrics(run: Path) -> list[Row]:
    """Return the rows of metrics.csv; none if the file does not exist.

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
    """Return the content of results.json; empty if the file does not exist.

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
    return InputError(f"{path}: damaged ({one_line(repr(error))}); restore it, or delete it")
