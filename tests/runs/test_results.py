"""The tables of a run."""

import pytest

from src.runs import results
from src.runs.results import COLUMNS, add_metrics, read_metrics, write_results


def test_rows_that_a_crash_has_undone_are_written_anew(tmp_path):
    assert read_metrics(tmp_path) == []
    for epoch, loss in ((0, 3.0), (1, 2.0), (2, 1.0), (1, 9.0)):
        add_metrics(tmp_path, {"epoch": epoch, "train_loss": loss})
    rows = read_metrics(tmp_path)
    assert [(row["epoch"], row["train_loss"]) for row in rows] == [("0", "3.0"), ("1", "9.0")]
    assert tuple(rows[0]) == COLUMNS and rows[0]["val_loss"] == ""


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", "{broken"])
def test_results_that_cannot_be_read_count_as_none(tmp_path, text):
    write_results(tmp_path, {"epochs": 7})
    assert results.tested_epochs(tmp_path) == 7
    (tmp_path / "results.json").unlink()
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    assert results.tested_epochs(tmp_path) is None
