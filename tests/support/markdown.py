"""Reads the tables that benchmarks print."""


def rows(text: str) -> dict[str, list[str]]:
    """The rows of a Markdown table, by their first cell."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line[:1] == "|"
    ]
    return {first: others for first, *others in cells[2:]}
