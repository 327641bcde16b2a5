"""Test reading and writing metrics.csv and results.json."""

import pytest

from src.runs.results import COLUMNS, add_metrics, read_metrics, read_results, write_results


def test_rows_that_a_crash_has_undone_are_replaced(tmp_path):
    assert read_metrics(tmp_path) == []
    for epoch, loss in ((0, 3.0), (1, 2.0), (2, 1.0), (1, 9.0)):
        add_metrics(tmp_path, {"epoch": epoch, "train_loss": loss})
    rows = read_metrics(tmp_path)
    assert [(row["epoch"], row["train_loss"]) for row in rows] == [("0", "3.0"), ("1", "9.0")]
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["val_loss"] == ""


@pytest.mark.parametrize("text", ["", "[1]"])
def test_unreadable_results_are_empty(tmp_path, text):
    assert read_results(tmp_path) == {}
    write_results(tmp_path, {"epochs": 7})
    assert read_results(tmp_path) == {"epochs": 7}
    (tmp_path / "results.json").write_text(text)
    assert read_results(tmp_path) == {}
