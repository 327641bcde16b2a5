"""Print predictions as text, CSV or JSON as soon as they are available, and check output paths.

A row is {"path", "predictions"}, optionally with "answer", "target" and "notes", or {"path",
"error"}.
"""

import csv
import json
import os
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.errors import InputError, printable, without_formula

MAX_PATH = 60  # maximum width of the path column
Row = dict[str, Any]


def check_path(path: str, flag: str, suffix: str, images: list[str]) -> None:
    """Check the path of an output file, given as the value of `flag`.

    Raises:
        InputError: `path` does not end in `suffix`, cannot be written, or is one of `images`.
    """
    folder = os.path.dirname(os.path.abspath(path))
    has_suffix = Path(path).suffix.lower() == suffix
    if not has_suffix or os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise InputError(
            f"{flag} {path}: the name must end in {suffix}, and its folder must exist and be "
            "writable; use a different name"
        )
    if not os.path.exists(path):
        return
    for image in images:
        if os.path.exists(image) and os.path.samefile(path, image):
            raise InputError(f"{flag} {path}: would overwrite an input image; use a different name")


def print_rows(
    rows: Iterable[Row],
    format: str | None,
    paths: list[str],
    classes: list[str],
    top_k: int,
    answers: bool = False,
) -> None:
    """Print the rows as "json" or "csv"; the default is bars for one image, a table for several.

    `answers` tells whether the rows have an "answer".
    """
    if format == "json":
        print_json(rows)
    elif format == "csv":
        print_csv(rows, min(top_k, len(classes)), answers)
    elif len(paths) == 1:
        print_bars(rows)
    else:
        print_table(rows, paths, [*classes, "unsure"] if answers else classes)


def print_json(rows: Iterable[Row]) -> None:
    """Print the rows as a JSON list."""
    before = "["
    for row in rows:
        print(before + "\n" + textwrap.indent(json.dumps(row, indent=2), "  "), end="")
        before = ","
    print("\n]")


def print_csv(rows: Iterable[Row], top_k: int, answers: bool) -> None:
    """Print CSV columns: path, (answer,) class, probability, class_2, ..., target, error, notes."""
    ranks = ["", *(f"_{rank}" for rank in range(2, top_k + 1))]
    columns = [f"{name}{rank}" for rank in ranks for name in ("class", "probability")]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    # Python 3.11 does not quote cells just because they contain "\r".
    quoting = csv.writer(sys.stdout, lineterminator="\n", quoting=csv.QUOTE_ALL)
    header = ["path", *["answer"] * answers, *columns, "target", "error", "notes"]
    for number, row in enumerate(rows):
        if number == 0:
            writer.writerow(header)
        predictions = row.get("predictions", [])
        values = [p[name] for p in predictions for name in ("class", "probability")]
        values += [""] * (len(columns) - len(values))
        notes = "; ".join(row.get("notes", []))
        answer = [row.get("answer", "")] * answers
        texts = [row["path"], *answer, *values, row.get("target", ""), row.get("error", ""), notes]
        cells = [without_formula(cell) for cell in texts]
        (quoting if "\r" in row["path"] else writer).writerow(cells)


def print_bars(rows: Iterable[Row]) -> None:
    """Print the predicted class of an image, and a bar for each of its most likely classes."""
    for row in rows:
        target = f"  (target: {row['target']})" if "target" in row else ""
        print(f"{printable(row['path'])}: {_answer(row)}{target}")
        for prediction in row["predictions"]:
            bar = "█" * round(24 * prediction["probability"])
            print(f"  {prediction['probability']:7.2%}  {prediction['class']:<16} {bar}")
        print_notes(row)


def print_table(rows: Iterable[Row], paths: list[str], classes: list[str]) -> None:
    """Print one line per image: path, most likely class, its probability, and the next classes."""
    path_width = min(MAX_PATH, max(map(len, paths)))
    class_width = max(5, *map(len, classes))
    print(f"{'file':<{path_width}}  {'class':<{class_width}}  probability  next")
    for row in rows:
        path = f"{printable(row['path']):<{path_width}}"
        if "error" in row:
            print(f"{path}  not read: {printable(row['error'])}")
            continue
        first, *others = row["predictions"]
        listed = others if _answer(row) == first["class"] else row["predictions"]
        following = ", ".join(f"{p['class']} {p['probability']:.2%}" for p in listed)
        name = f"{_answer(row):<{class_width}}"
        print(f"{path}  {name}  {first['probability']:>11.2%}  {following}".rstrip())
        print_notes(row)


def _answer(row: Row) -> str:
    return row.get("answer", row["predictions"][0]["class"])


def print_notes(row: Row) -> None:
    """Print a row's notes to stderr."""
    for sentence in row.get("notes", []):
        print(f"note: {printable(row['path'])}: {sentence}", file=sys.stderr)
