"""Parse the tables that benchmarks print."""


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of a Markdown table, keyed by their first cell."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: others for first, *others in cells[2:]}


def column(table: dict[str, list[str]], index: int) -> list[float]:
    """Return the numbers in a column of a table."""
    return [float(cells[index].replace(",", "")) for cells in table.values()]
