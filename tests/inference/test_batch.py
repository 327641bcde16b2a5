"""Test finding image files and classifying them in order, with constant memory usage."""

import os
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image
from program import as_another_user, classify

from src.data.datasets import read_digits
from src.errors import InputError
from src.inference import batch
from src.inference.batch import BATCH, find_images, make_row, read_ahead
from src.inference.predictor import Predictor

IMAGES = read_digits("test")[0]


@pytest.fixture(scope="module")
def predictor(digits_run):
    return Predictor(digits_run / "checkpoints" / "best.ckpt", "cpu")


def save(path: Path, number: int = 0, size: int = 8) -> str:
    """Save a digits test image to a file."""
    picture = Image.fromarray(IMAGES[number, 0].numpy())
    picture.resize((size, size)).save(path)
    return str(path)


# Finding ------------------------------------------------------------------------------------------

FILES = """
a.JPG b.png c.txt .hidden.png notes sub/1.Tiff sub/2.webp sub/deep/x.gif .git/y.png zub/10.png
zub/9.png
""".split()
IN_ORDER = """
a.JPG
b.png
sub/1.Tiff
sub/2.webp
sub/deep/x.gif
zub/10.png
zub/9.png
""".split()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A working directory with several files, seven of which `find_images` should find."""
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folder_expands_to_all_images_below_it_in_order(tree):
    assert find_images(["."]) == [f"./{name}" for name in IN_ORDER]
    assert find_images([f"{tree}/"]) == [f"{tree}/{name}" for name in IN_ORDER]
    several = find_images(["sub/deep", "b.png", "zub"])
    assert several == ["sub/deep/x.gif", "b.png", "zub/10.png", "zub/9.png"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.png", ["b.png"]),
        ("zub/*", ["zub/10.png", "zub/9.png"]),
        ("**/*.[gw]*", ["sub/2.webp", "sub/deep/x.gif"]),
        ("?.*", ["a.JPG", "b.png", "c.txt"]),
    ],
)
def test_pattern_expands_to_matching_files(tree, pattern, found):
    assert find_images([pattern]) == found
    absolute = [f"{tree}/{name}" for name in found]
    assert find_images(["notes", f"{tree}/{pattern}"]) == ["notes", *absolute]


def test_existing_names_are_not_patterns(tree):
    (tree / "scan[1].png").touch()
    folder = tree / "what?"
    folder.mkdir()
    (folder / "x.png").touch()
    names = ["scan[1].png", "nowhere.png", "b.png", "b.png", ".hidden.png"]
    assert find_images(names) == names
    assert find_images(["what?"]) == ["what?/x.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("*.bmp", "*.bmp: no files match this pattern"),
        ("s*", "s*: no files match this pattern"),  # matches only a folder
        ("empty", "empty: no images in this folder (png, apng, jpg, jpeg, "),
    ],
)
def test_nothing_found_is_an_error(tree, name, message):
    folder = tree / "empty"
    folder.mkdir()
    (folder / "notes.txt").touch()
    with pytest.raises(InputError) as caught:
        find_images(["b.png", name])
    assert str(caught.value).startswith(message)


def test_unsupported_formats_and_linked_folders_are_reported(tree, capsys):
    (tree / "sub" / "a.heic").touch()
    (tree / "sub" / "link").symlink_to(tree / "zub")
    assert find_images(["sub"]) == ["sub/1.Tiff", "sub/2.webp", "sub/deep/x.gif"]
    assert capsys.readouterr().err == "note: sub: skipped symlinked folders (1), .heic (1)\n"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_unreadable_folder_is_an_error(digits_run, tmp_path):
    locked = tmp_path / "photos" / "locked"
    locked.mkdir(parents=True)
    save(tmp_path / "photos" / "a.png")
    prepare = as_another_user(tmp_path)
    locked.chmod(0)
    ended = classify(tmp_path / "photos", "--ckpt", digits_run, prepare=prepare)
    locked.chmod(0o755)
    assert f"{locked}: cannot be listed (Permission denied)" in ended.error


# Classifying --------------------------------------------------------------------------------------


def classified(predictor, paths, top_k=1):
    return list(batch.classify(predictor, paths, top_k, predictor.prepare))


def test_many_files_give_the_same_results_as_one_by_one(predictor, tmp_path):
    """Classify more than two batches of files. Large files come first, because they load slowly."""
    paths = []
    for number in range(2 * BATCH + 9):
        size = max(8, 1600 - 200 * number)
        path = save(tmp_path / f"{number}.png", number, size)
        paths.append(path)
    results = classified(predictor, paths, top_k=3)
    assert [row["path"] for row, _ in results] == paths
    for row, prepared in results:
        alone = predictor.prepare(row["path"])
        assert torch.equal(prepared.image, alone.image)
        (expected,) = predictor.top(alone.image[None], 3)
        for actual, prediction in zip(row["predictions"], expected, strict=True):
            assert actual["class"] == prediction["class"]
            assert actual["probability"] == pytest.approx(prediction["probability"], abs=2e-5)


@pytest.mark.parametrize("place", [0, BATCH - 1, BATCH])
def test_unreadable_files_have_an_error_in_their_row(predictor, tmp_path, place):
    good = [save(tmp_path / f"{n}.png", n) for n in range(BATCH + 2)]
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(good[0]).read_bytes()[:60])
    bad = {
        str(broken): "cannot be read as an image",
        "nowhere.png": "no such file",
        str(tmp_path): "not a regular file",
    }
    paths = [*good[:place], *bad, *good[place:]]
    results = classified(predictor, paths)
    assert [row["path"] for row, _ in results] == paths
    probabilities = []
    for row, prepared in results:
        if row["path"] in bad:
            assert row["error"].startswith(bad[row["path"]])
            assert row.keys() == {"path", "error"}
            assert prepared is None
        else:
            probabilities.append(row["predictions"][0]["probability"])
    expected = predictor.probabilities(IMAGES[: len(good)]).amax(1)
    assert probabilities == pytest.approx(expected.tolist(), abs=2e-5)


def test_a_single_unreadable_file_is_an_error(predictor):
    with pytest.raises(InputError, match="^nowhere.png: no such file"):
        classified(predictor, ["nowhere.png"])


def test_unsure_predictions_have_a_note_or_an_answer(predictor, tmp_path):
    cat = [{"class": "cat", "probability": 0.5}, {"class": "dog", "probability": 0.3}]
    dog = [{"class": "dog", "probability": 0.4321}]
    assert make_row("x", cat, []) == {"path": "x", "predictions": cat}
    assert make_row("x", cat, [], 0.5)["answer"] == "cat"
    assert make_row("x", cat, [], 0.51)["answer"] == "unsure"
    assert make_row("x", dog, ["dark"])["notes"][0] == "dark"
    assert make_row("x", dog, [])["notes"][0].startswith("unsure: no class reaches a probability")
    assert make_row("x", dog, [], 0.9) == {"path": "x", "answer": "unsure", "predictions": dog}
    paths = [save(tmp_path / f"{number}.png", number) for number in range(40)]
    rows = [row for row, _ in classified(predictor, paths)]
    unsure = [row["predictions"][0]["probability"] < 0.5 for row in rows]
    assert any(unsure)
    assert ["notes" in row for row in rows] == unsure
    rows = [row for row, _ in batch.classify(predictor, paths, 1, predictor.prepare, 0.5)]
    assert [row["answer"] == "unsure" for row in rows] == unsure


def test_memory_does_not_grow_with_the_number_of_files(predictor, tmp_path):
    """Count the images in memory: those read ahead and those waiting for a full batch."""
    alive = weakref.WeakSet()
    paths = [save(tmp_path / "x.png")] * 1000

    def prepare(path):
        prepared = predictor.prepare(path)
        alive.add(prepared.image)
        return prepared

    counts = []
    for _ in batch.classify(predictor, paths, 1, prepare):
        if not counts:
            time.sleep(1)  # lets the threads read ahead
        counts.append(len(alive))
    assert len(counts) == 1000
    assert BATCH <= max(counts) <= 4 * BATCH


# Reading ahead ------------------------------------------------------------------------------------


def test_read_ahead_keeps_the_order():
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number < 4 else 0)
        return number * number

    squares = [number * number for number in range(60)]
    assert list(read_ahead(slow_at_first, range(60), 8)) == squares


@pytest.mark.parametrize("most", [1, 5])
def test_read_ahead_is_limited(most):
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    for number, result in enumerate(read_ahead(lambda x: x, items(), most)):
        assert result == number
        assert len(taken) <= number + 1 + most
    assert len(taken) == 50


def test_read_ahead_can_be_closed_early():
    done = []

    def slow(number):
        time.sleep(0.01)
        done.append(number)

    results = read_ahead(slow, range(1000), 400)
    next(results)
    results.close()
    assert len(done) < 200
    assert threading.active_count() < 20


def test_read_ahead_raises_an_error_in_its_place():
    results = read_ahead(lambda number: 1 // (number - 3), range(9), 4)
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


# Progress and summary -----------------------------------------------------------------------------


def test_summary(capsys):
    batch.print_summary(1500, 0, 2.0)
    batch.print_summary(3, 2, 0.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "1,500 images in 2.0 s (750 images/s)",
        "3 images in 0.5 s (6 images/s); 2 could not be read",
    ]


@pytest.mark.parametrize(
    ("terminal", "total", "shown"),
    [(True, 100, True), (True, 64, False), (False, 100, False)],
)
def test_progress_bar_needs_a_terminal_and_many_files(monkeypatch, capsys, terminal, total, shown):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    results = batch.with_progress(iter(range(total)), total)
    assert list(results) == list(range(total))
    out, err = capsys.readouterr()
    assert out == ""
    assert ("Classifying" in err) == shown
