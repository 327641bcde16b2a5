"""What is printed is what a program of another's making reads back: JSON, CSV, and lines for people."""

import csv
import io
import json

import pytest
from photos import SEVEN, written
from program import call

import classify
from src.inference.output import write

CLASSES = ["cat", 'a "dog", or not', "bird, large", "line\nbreak"]
NAMES = [
    "a,b.png",
    'say "hi".png',
    "two\nlines.png",
    "back\rhome.png",
    " space .png",
    "ünï 7.png",
    "=1+1.png",
    ";'.png",
]


def predictions(*shares: float, first: int = 0) -> list[dict]:
    indices = [(first + i) % len(CLASSES) for i in range(len(shares))]
    return [
        {"index": i, "class": CLASSES[i], "probability": p}
        for i, p in zip(indices, shares, strict=True)
    ]


def printed(capsys, rows, format=None, paths=None, k=2) -> str:
    write(iter(rows), format, paths or [row["path"] for row in rows], CLASSES, k)
    return capsys.readouterr().out


ROWS = [
    {"path": name, "predictions": predictions(0.75, 0.125, first=n)} for n, name in enumerate(NAMES)
]
ROWS[1]["target"] = "bird, large"
ROWS[2]["notes"] = ["one, two", 'three "four"']
ROWS.insert(3, {"path": "broken.png", "error": "there is no such file; check the path, please"})


# JSON -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS[3:4] * 2])
def test_json_is_a_list_of_the_rows(capsys, rows):
    assert json.loads(printed(capsys, rows, "json")) == rows


def test_a_name_that_is_not_text_is_read_back_from_json(capsys):
    row = {"path": "caf\udce9.png", "predictions": predictions(1.0)}
    out = printed(capsys, [row], "json")
    assert out.isascii() and json.loads(out) == [row]


# CSV ------------------------------------------------------------------------------------------------------------------


def read_back(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_csv_is_read_back_whatever_the_names(capsys):
    back = read_back(printed(capsys, ROWS, "csv"))
    assert [row["path"] for row in back] == [row["path"] for row in ROWS]
    for row, expected in zip(back, ROWS, strict=True):
        first, second = expected.get("predictions", [{"class": "", "probability": ""}] * 2)
        assert [row["class"], row["probability"]] == [first["class"], str(first["probability"])]
        assert [row["class_2"], row["probability_2"]] == [
            second["class"],
            str(second["probability"]),
        ]
        assert row["target"] == expected.get("target", "") and row["error"] == expected.get(
            "error", ""
        )
        assert row["notes"] == "; ".join(expected.get("notes", []))


@pytest.mark.parametrize("k, columns", [(1, 2), (3, 6), (4, 8), (99, 8)])
def test_csv_has_as_many_columns_in_every_row(capsys, k, columns):
    rows = [{"path": "broken.png", "error": "why"}]  # the first one may be broken, too
    rows += [{"path": "x.png", "predictions": predictions(*[0.1] * min(k, 4))}]
    lines = list(csv.reader(io.StringIO(printed(capsys, rows, "csv", k=k))))
    assert [len(line) for line in lines] == [1 + columns + 3] * 3
    assert lines[0][:3] == ["path", "class", "probability"] and lines[0][-3:] == [
        "target",
        "error",
        "notes",
    ]
    assert k == 1 or lines[0][3:5] == ["class_2", "probability_2"]
    assert lines[1] == ["broken.png", *[""] * columns, "", "why", ""]


def test_csv_has_no_carriage_returns_and_quotes_only_what_has_to_be(capsys):
    rows = [{"path": "x y.png", "predictions": predictions(0.5)}]
    assert (
        printed(capsys, rows, "csv", k=1)
        == "path,class,probability,target,error,notes\nx y.png,cat,0.5,,,\n"
    )


# For people -----------------------------------------------------------------------------------------------------------


def test_one_image_has_bars(capsys):
    rows = [
        {
            "path": "x.png",
            "predictions": predictions(0.5, 0.25, 0.0),
            "target": "cat",
            "notes": ["look"],
        }
    ]
    write(iter(rows), None, ["x.png"], CLASSES, 3)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "x.png: cat  (target: cat)" and [line.count("█") for line in lines] == [
        0,
        12,
        6,
        0,
    ]
    assert lines[1].split()[:2] == ["50.00%", "cat"] and err == "note: x.png: look\n"


def test_several_images_have_a_line_each_with_their_columns_below_each_other(capsys):
    rows = [
        {"path": "x.png", "predictions": predictions(0.9876, 0.01), "notes": ["look"]},
        {"path": "longer_name.png", "predictions": predictions(0.5, first=2)},
        {"path": "gone.png", "error": "there is no such file"},
    ]
    write(iter(rows), None, [row["path"] for row in rows], CLASSES, 2)
    out, err = capsys.readouterr()
    head, *lines = out.splitlines()
    assert len(lines) == 3 and err == "note: x.png: look\n"
    name, share, after = head.index("class"), head.index("probability"), head.index("next")
    assert name == len("longer_name.png") + 2
    assert lines[0][name:].startswith("cat ") and lines[1][name:].startswith("bird, large ")
    assert [line[share : after - 2].strip() for line in lines[:2]] == ["98.76%", "50.00%"]
    assert lines[0][after:] == f"{CLASSES[1]} 1.00%" and lines[1] == lines[1].rstrip()
    assert lines[2] == f"{'gone.png':<15}  not read: there is no such file"


@pytest.mark.parametrize("count", [1, 2])
def test_a_file_name_neither_breaks_a_line_nor_steers_the_terminal(capsys, count):
    path = "a\nb\x1b]0;owned\x07.png"
    rows = [{"path": path, "predictions": predictions(1.0), "notes": ["look"]}] * count
    rows += [{"path": path, "error": f"[Errno 2]: {path}"}] * (count - 1)
    write(iter(rows), None, [path] * len(rows), CLASSES, 1)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == (2 if count == 1 else 4) and err.count("\n") == count
    assert all(c.isprintable() or c == "\n" for c in out + err) and "a?b?]0;owned?.png" in out


def test_in_one_line_of_error_too():
    ended = call(classify.main, "a\nb\x1b]0;.png", "--ckpt", "nowhere\r.ckpt")
    assert (
        ended.error
        == "error: nowhere?.ckpt: there is no such checkpoint; check the path, or train it first\n"
    )


# As it comes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [None, "csv", "json"])
def test_every_row_is_printed_before_the_next_is_asked_for(capsys, format):
    seen = []

    def rows():
        for row in ROWS[4:]:
            yield row
            seen.append(capsys.readouterr().out)

    write(rows(), format, ["x"] * 5, CLASSES, 2)
    assert len(seen) == 5 and all("75" in out for out in seen)


def test_the_program_prints_what_can_be_read_back(digits_run, tmp_path):
    names = [name for name in NAMES if "/" not in name]
    for name in names:
        written(SEVEN).save(tmp_path / name)
    (tmp_path / "0 broken,\n.png").write_bytes(b"")
    ended = call(classify.main, tmp_path, "--csv", "--ckpt", digits_run, "--device", "cpu")
    back = read_back(ended.out)
    assert ended.code == 1 and sorted(row["path"] for row in back) == sorted(
        f"{tmp_path}/{name}" for name in [*names, "0 broken,\n.png"]
    )
    assert [row["path"] for row in back if row["error"]] == [f"{tmp_path}/0 broken,\n.png"]
    same = json.loads(
        call(classify.main, tmp_path, "--json", "--ckpt", digits_run, "--device", "cpu").out
    )
    for row, other in zip(back, same, strict=True):
        assert row["path"] == other["path"] and row["error"] == other.get("error", "")
        if not row["error"]:
            assert float(row["probability_3"]) == other["predictions"][2]["probability"]
