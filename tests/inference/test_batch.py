"""Finding image files, and classifying them in their order while others are read, in constant memory."""

import os
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch
from photos import FOUR, SEVEN, written
from PIL import Image
from program import as_another_user, classify

from src.data.datasets import read_digits
from src.errors import InputError
from src.inference import batch as files
from src.inference.batch import BATCH, find_images, read_ahead
from src.inference.predictor import Predictor

IMAGES = read_digits("test")[0]


@pytest.fixture(scope="module")
def predictor(digits_run):
    return Predictor(digits_run / "checkpoints" / "best.ckpt", "cpu")


def save(path: Path, number: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(IMAGES[number, 0].numpy()).save(path)
    return str(path)


# Finding --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Files of many kinds in folders, whose images are seven."""
    names = "b.png a.JPG c.txt .hidden.png sub/2.webp sub/1.Tiff sub/deep/x.gif .git/y.png zub/10.png zub/9.png notes"
    for name in names.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_stands_for_its_images_and_those_in_its_folders_in_order(tree):
    images = "a.JPG b.png sub/1.Tiff sub/2.webp sub/deep/x.gif zub/10.png zub/9.png".split()
    assert find_images(["."]) == [f"./{name}" for name in images]
    assert (
        find_images([str(tree)])
        == [f"{tree}/{name}" for name in images]
        == find_images([f"{tree}/"])
    )
    assert find_images(["sub/deep", "b.png", "zub"]) == [
        "sub/deep/x.gif",
        "b.png",
        "zub/10.png",
        "zub/9.png",
    ]


@pytest.mark.parametrize(
    "pattern, found",
    [
        ("*.png", ["b.png"]),
        ("zub/*", ["zub/10.png", "zub/9.png"]),
        ("**/*.[gw]*", ["sub/2.webp", "sub/deep/x.gif"]),
        (
            "?.*",
            ["a.JPG", "b.png", "c.txt"],
        ),  # who names a text file is told that it is not an image
    ],
)
def test_a_pattern_stands_for_the_files_that_fit(tree, pattern, found):
    assert find_images([pattern]) == found
    assert find_images(["notes", str(tree / pattern)]) == [
        "notes",
        *(str(tree / name) for name in found),
    ]


def test_files_stand_for_themselves_even_if_they_look_like_patterns_or_are_not_there(tree):
    (tree / "scan[1].png").touch()
    (tree / "what?").mkdir()
    (tree / "what?" / "x.png").touch()
    names = ["scan[1].png", "nowhere.png", "b.png", "b.png", ".hidden.png"]
    assert find_images(names) == names
    assert find_images(["what?"]) == ["what?/x.png"] and find_images([]) == []


@pytest.mark.parametrize(
    "name, said",
    [
        ("*.bmp", "*.bmp: no file fits this pattern"),
        ("s*", "s*: no file fits this pattern"),  # a folder alone does
        (
            "empty",
            "empty: is a folder without images (png, jpg, jpeg, webp, gif, bmp, tif, tiff, pgm, ppm)",
        ),
        ("empty/", "empty/: is a folder without images"),
    ],
)
def test_what_stands_for_nothing_is_said(tree, name, said):
    (tree / "empty").mkdir()
    (tree / "empty" / "notes.txt").touch()
    with pytest.raises(InputError) as caught:
        find_images(["b.png", name])
    assert str(caught.value).startswith(said)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_that_cannot_be_listed_is_said(digits_run, tmp_path):
    save(tmp_path / "photos" / "a.png")
    save(tmp_path / "photos" / "locked" / "b.png")
    prepare = as_another_user(tmp_path)
    (tmp_path / "photos" / "locked").chmod(0)
    ended = classify(tmp_path / "photos", "--ckpt", digits_run, prepare=prepare)
    (tmp_path / "photos" / "locked").chmod(0o755)
    assert f"{tmp_path}/photos/locked: cannot be listed: Permission denied" in ended.error


# Classifying ----------------------------------------------------------------------------------------------------------


def test_many_files_are_classified_in_their_order_and_as_if_alone(predictor, tmp_path):
    """More than two batches, of several sizes; the larger ones, which are read slowly, come first."""
    paths = []
    for number in range(2 * BATCH + 9):
        paths.append(save(tmp_path / f"{number}.png", number))
        if number < 8:
            strokes, side = (FOUR, SEVEN)[number % 2], 1500 - 150 * number
            written(strokes, (side, side), side // 20).save(paths[-1])
    rows = list(files.classify(predictor, paths, 3))
    assert [row["path"] for row, _ in rows] == paths
    for (row, given), path in zip(rows, paths, strict=True):
        alone = predictor.open(path)
        assert torch.equal(given.image, alone.image) and given.box == alone.box
        (expected,) = predictor.top(alone.image[None], 3)
        assert [p["class"] for p in row["predictions"]] == [p["class"] for p in expected]
        shares = [
            [p["probability"] for p in predictions]
            for predictions in (row["predictions"], expected)
        ]
        assert shares[0] == pytest.approx(shares[1], abs=2e-5)


@pytest.mark.parametrize("place", [0, 1, BATCH - 1, BATCH, BATCH + 2])
def test_broken_and_missing_files_among_many_are_told_in_their_rows(predictor, tmp_path, place):
    good, broken = (
        [save(tmp_path / f"{n}.png", n) for n in range(BATCH + 2)],
        tmp_path / "broken.png",
    )
    broken.write_bytes(Path(good[0]).read_bytes()[:60])
    Image.new("L", (50, 50), 200).save(tmp_path / "blank.png")
    bad = [str(broken), "nowhere.png", str(tmp_path), str(tmp_path / "blank.png")]
    paths = good[:place] + bad + good[place:]
    rows = list(files.classify(predictor, paths, 1))
    assert [row["path"] for row, _ in rows] == paths
    errors = {index: row["error"] for index, (row, _) in enumerate(rows) if "error" in row}
    assert list(errors) == list(range(place, place + 4))
    said = [
        "cannot be read as an image",
        "there is no such file",
        "is a directory",
        "no strokes were found",
    ]
    assert [
        error.startswith(start) for error, start in zip(errors.values(), said, strict=True)
    ] == [True] * 4
    assert all(
        (given is None) == ("error" in row) == ("predictions" not in row) for row, given in rows
    )
    shares = [row["predictions"][0]["probability"] for row, given in rows if given]
    assert shares == pytest.approx(
        predictor.probabilities(IMAGES[: len(good)]).amax(1).tolist(), abs=2e-5
    )


def test_files_that_are_all_broken_are_all_told(predictor):
    rows = list(files.classify(predictor, ["a.png", "b.png"], 1))
    assert [(row["path"], given) for row, given in rows] == [("a.png", None), ("b.png", None)]
    assert all(set(row) == {"path", "error"} for row, _ in rows)


def test_the_only_file_is_refused_if_it_cannot_be_read(predictor):
    with pytest.raises(InputError, match="^nowhere.png: there is no such file"):
        list(files.classify(predictor, ["nowhere.png"], 1))


def test_invert_is_what_the_files_are_read_with(predictor, tmp_path):
    written([[(0.3, 0.2), (0.7, 0.2), (0.7, 0.8), (0.3, 0.8), (0.3, 0.2)]], pen=30).save(
        tmp_path / "frame.png"
    )
    path = str(tmp_path / "frame.png")
    for invert in ("auto", "yes", "no"):
        ((_, given),) = files.classify(predictor, [path], 1, invert)
        assert torch.equal(given.image, predictor.open(path, invert).image)
    assert (
        given.box[2] - given.box[0] < predictor.open(path).box[2] - predictor.open(path).box[0]
    )  # its inside alone


def test_an_unsure_answer_is_said_in_a_note(predictor, tmp_path):
    half = [{"probability": 0.5}, {"probability": 0.3}]
    assert files.unsure(half) == []
    (note,) = files.unsure([{"probability": 0.4321}])
    assert note.startswith("unsure: no class has more than 43.2%")
    paths = [save(tmp_path / f"{number}.png", number) for number in range(40)]
    rows = [row for row, _ in files.classify(predictor, paths, 1)]
    unsure = [row["predictions"][0]["probability"] < 0.5 for row in rows]
    assert unsure == ["notes" in row for row in rows] and any(unsure)


def test_memory_does_not_grow_with_the_number_of_files(predictor, tmp_path):
    """Of 1,000 images that are read no more are kept at any time than wait for the network, and for it to be free."""
    alive, most = weakref.WeakSet(), 0
    paths = [save(tmp_path / "x.png")] * 1000

    class Watched(Predictor):
        def __init__(self):
            vars(self).update(vars(predictor))

        def open(self, path, invert="auto"):
            given = super().open(path, invert)
            alive.add(given.image)
            return given

    rows = 0
    for _row, _given in files.classify(Watched(), paths, 1):
        if rows == 0:
            time.sleep(1)  # the threads would read on
        rows, most = rows + 1, max(most, len(alive))
    assert rows == 1000 and BATCH <= most <= 4 * BATCH


# Reading ahead --------------------------------------------------------------------------------------------------------


def test_reading_ahead_keeps_the_order_whoever_is_ready_first():
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number < 4 else 0)
        return number * number

    assert list(read_ahead(slow_at_first, range(60), 8)) == [
        number * number for number in range(60)
    ]


@pytest.mark.parametrize("most", [1, 5])
def test_it_reads_so_many_ahead_and_no_more(most):
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    for number, result in enumerate(read_ahead(lambda x: x, items(), most)):
        assert result == number and len(taken) <= number + 1 + most
    assert len(taken) == 50


def test_whoever_stops_early_waits_for_nothing_that_has_not_begun():
    done, results = (
        [],
        read_ahead(lambda number: (time.sleep(0.01), done.append(number)), range(1000), 400),
    )
    next(results)
    results.close()
    assert len(done) < 200 and threading.active_count() < 20


def test_what_a_thread_raises_comes_up_in_its_place():
    results = read_ahead(lambda number: 1 // (number - 3), range(9), 4)
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


# What is said ---------------------------------------------------------------------------------------------------------


def test_how_many_and_how_fast(capsys):
    files.say_how_many(1500, 0, 2.0)
    files.say_how_many(3, 2, 0.5)
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == [
        "1,500 images in 2.0 s (750 images/s)",
        "3 images in 0.5 s (6 images/s); 2 could not be read",
    ]


@pytest.mark.parametrize(
    "terminal, total, shown", [(True, 100, True), (True, 64, False), (False, 100, False)]
)
def test_a_bar_is_shown_on_a_terminal_for_many_files(monkeypatch, capsys, terminal, total, shown):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert list(files.with_progress(iter(range(total)), total)) == list(range(total))
    out, err = capsys.readouterr()
    assert out == "" and ("Classifying" in err) == shown
