"""Command-line options and tables that the benchmarks share."""

import argparse
from typing import Any

from src.errors import ArgumentParser

Row = dict[str, Any]
Rows = dict[str, Row]


def make_parser(description: str | None) -> ArgumentParser:
    """Return a parser whose help text starts with the docstring of a benchmark."""
    return ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def positive(text: str) -> int:
    """Parse a positive integer for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def table(rows: Rows, columns: tuple[str, ...]) -> str:
    """Return a Markdown table, with empty cells for missing values."""
    lines = [_line("", [column.replace("_", " ") for column in columns])]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        cells = [_format(row.get(column, "")) for column in columns]
        lines.append(_line(name, cells))
    return "\n".join(lines)


def _line(name: str, cells: list[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def _format(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
