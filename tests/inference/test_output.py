"""Test how predictions are printed: as JSON, CSV and human-readable text."""

import csv
import io
import json

import pytest
from program import call

import classify
from src.errors import InputError
from src.inference.output import check_path, print_rows

CLASSES = ["cat", 'a "dog", or not', "bird, large", "line\nbreak"]
NAMES = [
    "a,b.png",
    'say "hi".png',
    "two\nlines.png",
    "back\rhome.png",
    "ünï 7.png",
]


def predictions(*probabilities: float, first: int = 0) -> list[dict]:
    """Return one prediction per probability, for consecutive classes starting at `first`."""
    found = []
    for rank, probability in enumerate(probabilities):
        index = (first + rank) % len(CLASSES)
        found.append({"index": index, "class": CLASSES[index], "probability": probability})
    return found


def rows_of_names() -> list[dict]:
    rows = []
    for number, name in enumerate(NAMES):
        row = {"path": name, "predictions": predictions(0.75, 0.125, first=number)}
        rows.append(row)
    rows[1]["target"] = "bird, large"
    rows[2]["notes"] = ["one, two", 'three "four"']
    rows.insert(3, {"path": "broken.png", "error": "no such file; check the path, please"})
    return rows


ROWS = rows_of_names()


@pytest.fixture
def printed(capsys):
    """Return a function that prints rows and returns the captured stdout and stderr."""

    def run(rows, format=None, top_k=2, answers=False):
        paths = [row["path"] for row in rows]
        print_rows(iter(rows), format, paths, CLASSES, top_k, answers)
        return capsys.readouterr()

    return run


# Machine-readable output: CSV and JSON ------------------------------------------------------------


def test_json_is_a_list_of_the_rows_with_names_that_are_not_utf8(printed):
    rows = [*ROWS, {"path": "caf\udce9.png", "predictions": predictions(1.0)}]
    out = printed(rows, "json").out
    assert out.isascii()
    assert json.loads(out) == rows


def parse_csv(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_csv_keeps_every_name(printed):
    parsed = parse_csv(printed(ROWS, "csv").out)
    for row, expected in zip(parsed, ROWS, strict=True):
        cells = {key: "" for key in row}
        cells["path"] = expected["path"]
        for rank, prediction in enumerate(expected.get("predictions", [])):
            suffix = f"_{rank + 1}" if rank else ""
            cells[f"class{suffix}"] = prediction["class"]
            cells[f"probability{suffix}"] = str(prediction["probability"])
        cells["target"] = expected.get("target", "")
        cells["error"] = expected.get("error", "")
        cells["notes"] = "; ".join(expected.get("notes", []))
        assert row == cells


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_csv_cells_are_not_formulas(printed, start):
    rows = [{"path": f"{start}1+1.png", "error": "why"}]
    (row,) = parse_csv(printed(rows, "csv").out)
    assert row["path"] == f"'{start}1+1.png"


def test_csv_has_the_same_columns_in_every_row(printed):
    rows = [
        {"path": "broken.png", "error": "why"},
        {"path": "x y.png", "predictions": predictions(*[0.1] * 4)},
    ]
    assert printed(rows, "csv", top_k=99).out.splitlines() == [
        "path,class,probability,class_2,probability_2,class_3,probability_3,class_4,probability_4,"
        "target,error,notes",
        "broken.png,,,,,,,,,,why,",
        'x y.png,cat,0.1,"a ""dog"", or not",0.1,"bird, large",0.1,"line',
        'break",0.1,,,',
    ]


def test_csv_has_an_answer_if_asked(printed):
    rows = [
        {
            "path": "x.png",
            "answer": "unsure",
            "predictions": predictions(0.5),
        },
        {"path": "broken.png", "error": "why"},
    ]
    assert printed(rows, "csv", 1, answers=True).out.splitlines() == [
        "path,answer,class,probability,target,error,notes",
        "x.png,unsure,cat,0.5,,,",
        "broken.png,,,,,why,",
    ]


# Human-readable output ----------------------------------------------------------------------------


def test_one_image_has_bars(printed):
    row = {
        "path": "x.png",
        "predictions": predictions(0.5, 0.25, 0.0),
        "target": "cat",
        "notes": ["look"],
    }
    out, err = printed([row], top_k=3)
    first, *bars = out.splitlines()
    assert first == "x.png: cat  (target: cat)"
    assert [bar.count("█") for bar in bars] == [12, 6, 0]
    assert bars[0].split()[:2] == ["50.00%", "cat"]
    assert err == "note: x.png: look\n"


def test_several_images_have_a_table(printed):
    rows = [
        {"path": "x.png", "predictions": predictions(0.9876, 0.01), "notes": ["look"]},
        {"path": "longer_name.png", "predictions": predictions(0.5, first=2)},
        {"path": "gone.png", "error": "no such file"},
    ]
    out, err = printed(rows)
    assert out.splitlines() == [
        "file             class            probability  next",
        'x.png            cat                   98.76%  a "dog", or not 1.00%',
        "longer_name.png  bird, large           50.00%",
        "gone.png         not read: no such file",
    ]
    assert err == "note: x.png: look\n"


def test_an_unsure_answer_comes_before_the_best_guess(printed):
    rows = [
        {
            "path": "x.png",
            "answer": "unsure",
            "predictions": predictions(0.45, 0.25),
        },
        {
            "path": "y.png",
            "answer": "cat",
            "predictions": predictions(0.75, 0.125),
        },
    ]
    assert printed(rows[:1], answers=True).out.splitlines()[:2] == [
        "x.png: unsure",
        "   45.00%  cat              ███████████",
    ]
    assert printed(rows, answers=True).out.splitlines()[1:] == [
        'x.png  unsure                45.00%  cat 45.00%, a "dog", or not 25.00%',
        'y.png  cat                   75.00%  a "dog", or not 12.50%',
    ]


@pytest.mark.parametrize("count", [1, 2], ids=["bars", "table"])
def test_file_names_cannot_break_lines_or_control_the_terminal(printed, count):
    path = "a\nb\x1b]0;owned\x07.png"
    rows = [{"path": path, "predictions": predictions(1.0), "notes": ["look"]}] * count
    rows += [{"path": path, "error": f"[Errno 2]: {path}"}] * (count - 1)
    out, err = printed(rows, top_k=1)
    assert out.count("\n") == (2 if count == 1 else 4)
    assert err.count("\n") == count
    assert "a?b?]0;owned?.png" in out
    assert all(c.isprintable() or c == "\n" for c in out + err)


def test_error_messages_have_no_control_characters():
    ended = call(classify.main, "a.png", "--ckpt", "nowhere\r\x1b.ckpt")
    assert ended.error.startswith("error: nowhere??.ckpt: no such checkpoint")


# Output paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["x.jpg", ".png", "none/x.png", "folder.png"])
def test_output_paths_are_checked(tmp_path, path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="--show .*: the name must end in .png, and its folder"):
        check_path(str(tmp_path / path), "--show", ".png", [])


# Streaming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [None, "csv", "json"])
def test_each_row_is_printed_before_the_next_is_computed(capsys, format):
    seen = []

    def rows():
        for row in ROWS[4:]:
            yield row
            seen.append(capsys.readouterr().out)

    print_rows(rows(), format, ["x", "y"], CLASSES, 2)
    assert len(seen) == len(ROWS[4:])
    assert all("75" in out for out in seen)
