"""How the rows of classified files are printed, each as soon as it is there: for people, spreadsheets, programs.

A row is {"path", "predictions"}, with "target" and "notes" where there are some, or {"path", "error"}.
"""

import csv
import json
import sys
import textwrap
from collections.abc import Iterable

from src.errors import printable

WIDEST = 60  # characters of a path in a table


def write(
    rows: Iterable[dict], format: str | None, paths: list[str], classes: list[str], k: int
) -> None:
    """Print the rows of these paths as "json" or "csv"; without a format bars for one image, a table for several."""
    if format == "json":
        print_json(rows)
    elif format == "csv":
        print_csv(rows, min(k, len(classes)))
    elif len(paths) == 1:
        print_bars(rows)
    else:
        print_table(rows, paths, classes)


def print_json(rows: Iterable[dict]) -> None:
    """A list of the rows as they are."""
    before = "["
    for row in rows:
        print(before + "\n" + textwrap.indent(json.dumps(row, indent=2), "  "), end="")
        before = ","
    print("\n]")


def print_csv(rows: Iterable[dict], k: int) -> None:
    """path, class, probability, class_2, probability_2, ... up to k, then target, error, notes."""
    names = [
        f"{name}{f'_{i}' if i > 1 else ''}"
        for i in range(1, k + 1)
        for name in ("class", "probability")
    ]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    quoting = csv.writer(
        sys.stdout, lineterminator="\n", quoting=csv.QUOTE_ALL
    )  # Python 3.11 forgets to, for "\r"
    header = ["path", *names, "target", "error", "notes"]
    for number, row in enumerate(rows):
        if number == 0:
            writer.writerow(header)
        values = [p[name] for p in row.get("predictions", []) for name in ("class", "probability")]
        values += [""] * (len(names) - len(values))
        cells = [
            row["path"],
            *values,
            row.get("target", ""),
            row.get("error", ""),
            "; ".join(row.get("notes", [])),
        ]
        (quoting if "\r" in row["path"] else writer).writerow(cells)


def print_bars(rows: Iterable[dict]) -> None:
    """One image: its class, and a bar for the probability of each of the likeliest classes."""
    for row in rows:
        target = f"  (target: {row['target']})" if "target" in row else ""
        print(f"{printable(row['path'])}: {row['predictions'][0]['class']}{target}")
        for prediction in row["predictions"]:
            bar = "█" * round(24 * prediction["probability"])
            print(f"  {prediction['probability']:7.2%}  {prediction['class']:<16} {bar}")
        note(row)


def print_table(rows: Iterable[dict], paths: list[str], classes: list[str]) -> None:
    """A line for each image: path, likeliest class, its probability, and those after it."""
    width = min(WIDEST, max(map(len, paths)))
    name = max(5, *map(len, classes))
    print(f"{'file':<{width}}  {'class':<{name}}  probability  next")
    for row in rows:
        path = printable(row["path"])
        if "error" in row:
            print(f"{path:<{width}}  not read: {printable(row['error'])}")
            continue
        first, *others = row["predictions"]
        after = ", ".join(f"{p['class']} {p['probability']:.2%}" for p in others)
        line = f"{path:<{width}}  {first['class']:<{name}}  {first['probability']:>11.2%}  {after}"
        print(line.rstrip())
        note(row)


def note(row: dict) -> None:
    for sentence in row.get("notes", []):
        print(f"note: {printable(row['path'])}: {sentence}", file=sys.stderr)
