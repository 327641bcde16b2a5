"""Build the HTML of the reports: tables, images, and the page itself."""

import base64
import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.runs.atomic import write_atomically

STYLE = Path(__file__).with_name("report.css")


def escape(value: object) -> str:
    """Convert a value to text that is safe in HTML and in quoted attributes."""
    return html.escape(str(value))


def image(png: bytes, description: str) -> str:
    """Return an HTML image with the PNG data embedded."""
    content = base64.b64encode(png).decode()
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{content}">'


def row(values: Iterable[object], tag: str = "td") -> str:
    """Return an HTML table row with <td> or <th> cells."""
    cells = "".join(f"<{tag}>{escape(value)}</{tag}>" for value in values)
    return f"<tr>{cells}</tr>"


def table(rows: Iterable[str]) -> str:
    """Return an HTML table that scrolls horizontally if it is wider than the page."""
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def number(key: str, value: Any) -> str:
    """Format a value of results.json with the precision that suits its key."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if key.endswith(("accuracy", "loss")) else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and key != "seed" else str(value)


def write_page(path: Path, title: str, parts: list[str]) -> Path:
    """Write a self-contained HTML page and return its path."""
    body = "\n".join(parts)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{STYLE.read_text()}</style>
</head>
<body>
{body}
</body>
</html>
"""
    write_atomically(path, page.encode("utf-8", "replace"))
    return path
