"""Read CSV and JSON-lines files with a row of path, label and optional split for each image."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from src.data.listing import ImageFile, Listing, Split, normalize, split_named
from src.errors import InputError

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
ENDINGS = (".csv", ".tsv", *JSON_ENDINGS)
PATHS = ("path", "image", "file", "filename", "file_name")
LABELS = ("label", "class")


class Row(NamedTuple):
    """A row of the table and its line number."""

    line: int
    path: str
    label: str
    split: Split


def list_table_classes(table: Path) -> list[str]:
    """Return the sorted labels of the training images.

    Raises:
        InputError: the table is invalid, or has fewer than two training classes.
    """
    names = sorted({row.label for row in _read(table) if row.split == "train"})
    if len(names) < 2:
        found = f"1 ({names[0]})" if names else "none"
        raise InputError(
            f"{table}: training images of at least two classes are needed, found {found}; add rows"
        )
    return names


def list_table(table: Path, split: Split, classes: tuple[str, ...]) -> Listing | None:
    """Return the images of a split, in the order of the table, or None if it has no rows.

    Raises:
        InputError: the table is invalid, or a file or a class does not exist.
    """
    numbers = {name: label for label, name in enumerate(classes)}
    files: list[ImageFile] = []
    labels: list[int] = []
    for row in _read(table):
        if row.split != split:
            continue
        if row.label not in numbers:
            raise InputError(
                f"{table}, line {row.line}: {row.label} is not a training class; add training "
                "images of it, or remove the row"
            )
        try:
            status = os.stat(os.path.join(table.parent, row.path))
        except (OSError, ValueError):  # ValueError: the path contains a NUL byte
            raise InputError(
                f"{table}, line {row.line}: {row.path}: no such file; correct the path, which is "
                f"relative to {table.parent}, or remove the row"
            ) from None
        files.append((row.path, status.st_size, status.st_mtime_ns))
        labels.append(numbers[row.label])
    return Listing(table.parent, files, labels) if files else None


def _read(table: Path) -> list[Row]:
    """Return all rows; the content of the file is not trusted."""
    if not table.is_file():
        raise InputError(f"{table}: no such file; check data.root")
    read = _read_json if table.suffix.lower() in JSON_ENDINGS else _read_csv
    rows = []
    line = 0
    try:
        for line, record in read(table):
            place = f"{table}, line {line}"
            values = {str(key).strip().lower(): value for key, value in record.items()}
            name = _value(values, ("split",), place) if "split" in values else "train"
            if (split := split_named(name)) is None:
                raise InputError(f"{place}: unknown split {name}; use train, val or test")
            label = normalize(_value(values, LABELS, place))
            rows.append(Row(line, _value(values, PATHS, place), label, split))
    except OSError as error:
        raise InputError(
            f"{table}: cannot be read ({error.strerror}); change its permissions"
        ) from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise InputError(f"{table}, after line {line}: {error}; correct the file") from None
    return rows


def _read_csv(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(table, encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count))
        for record in reader:
            yield reader.line_num, record


def _read_json(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(table, encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                record = json.loads(text)
                if not isinstance(record, dict):
                    raise InputError(f"{table}, line {line}: write one JSON object per line")
                yield line, record


def _value(values: dict[str, Any], names: tuple[str, ...], place: str) -> str:
    """Return the text in the first of the named columns that exists."""
    name = next((name for name in names if name in values), None)
    if name is None:
        raise InputError(f"{place}: no column named {' or '.join(names)}; add or rename one")
    value = values[name]
    if not isinstance(value, str | int) or not (text := str(value).strip()):
        raise InputError(f"{place}: empty or invalid {name}; correct or remove the row")
    return text
