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


def save(path: Path, number: int = 0) -> str:
    """Save a digits test image to a file."""
    Image.fromarray(IMAGES[number, 0].numpy()).save(path)
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
    several = find_images(["sub/deep", "b.png", "zub"])
    assert several == ["sub/deep/x.gif", "b.png", "zub/10.png", "zub/9.png"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.png", ["b.png"]),
        ("zub/*", ["zub/10.png", "zub/9.png"]),
        ("**/*.[gw]*", ["sub/2.webp", "sub/deep/x.gif"]),
    ],
)
def test_pattern_expands_to_matching_files(tree, pattern, found):
    absolute = [f"{tree}/{name}" for name in found]
    assert find_images([pattern, f"{tree}/{pattern}"]) == found + absolute


def test_existing_names_are_not_patterns(tree):
    (tree / "scan[1].png").touch()
    names = ["scan[1].png", "nowhere.png", "b.png", "b.png", ".hidden.png"]
    assert find_images(names) == names


@pytest.mark.parametrize("name", ["*.bmp", "empty"])
def test_nothing_found_is_an_error(tree, name):
    folder = tree / "empty"
    folder.mkdir()
    (folder / "notes.txt").touch()
    with pytest.raises(InputError, match="no images found; supported formats: .png"):
        find_images(["b.png", name])


def test_unsupported_formats_are_reported(tree, capsys):
    (tree / "sub" / "a.heic").touch()
    assert find_images(["sub"]) == ["sub/1.Tiff", "sub/2.webp", "sub/deep/x.gif"]
    assert capsys.readouterr().err == "note: sub: skipped .heic (1)\n"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_unreadable_folder_is_an_error(digits_run, tmp_path):
    locked = tmp_path / "photos" / "locked"
    locked.mkdir(parents=True)
    save(tmp_path / "photos" / "a.png")
    prepare = as_another_user(tmp_path)
    locked.chmod(0)
    ended = classify(tmp_path / "photos", "--ckpt", digits_run, prepare=prepare)
    locked.chmod(0o755)
    assert f"{locked}: Permission denied; check the path and its permissions" in ended.error


# Classifying --------------------------------------------------------------------------------------


def classified(predictor, paths, top_k=1):
    return list(batch.classify(predictor, paths, top_k, predictor.prepare))


def test_many_files_give_the_same_results_as_one_by_one(predictor, tmp_path):
    """Classify more than two batches of files."""
    paths = [save(tmp_path / f"{number}.png", number) for number in range(2 * BATCH + 9)]
    results = classified(predictor, paths, top_k=3)
    assert [row["path"] for row, _ in results] == paths
    for row, prepared in results:
        alone = predictor.prepare(row["path"])
        assert torch.equal(prepared.image, alone.image)
        (expected,) = predictor.top(alone.image[None], 3)
        for actual, prediction in zip(row["predictions"], expected, strict=True):
            assert actual["class"] == prediction["class"]
            assert actual["probability"] == pytest.approx(prediction["probability"], abs=2e-5)


@pytest.mark.parametrize("place", [0, BATCH - 1])
def test_unreadable_files_have_an_error_in_their_row(predictor, tmp_path, place):
    paths = [save(tmp_path / f"{n}.png", n) for n in range(BATCH)]
    bad = {
        "nowhere.png": "no such file",
        str(tmp_path): "must be a regular file",
    }
    paths[place:place] = bad
    results = classified(predictor, paths)
    assert [row["path"] for row, _ in results] == paths
    for row, prepared in results:
        reason = bad.get(row["path"])
        if reason:
            assert row["error"].startswith(reason)
            assert row.keys() == {"path", "error"}
        assert (prepared is None) == bool(reason)


def test_a_single_unreadable_file_is_an_error(predictor):
    with pytest.raises(InputError, match="^nowhere.png: no such file"):
        classified(predictor, ["nowhere.png"])


def test_unsure_predictions_have_a_note_or_an_answer():
    cat = [{"class": "cat", "probability": 0.5}, {"class": "dog", "probability": 0.3}]
    dog = [{"class": "dog", "probability": 0.4321}]
    assert make_row("x", cat, []) == {"path": "x", "predictions": cat}
    assert make_row("x", cat, [], 0.5)["answer"] == "cat"
    assert make_row("x", cat, [], 0.51)["answer"] == "unsure"
    first, second = make_row("x", dog, ["dark"])["notes"]
    assert first == "dark"
    assert second.startswith("unsure: no class reaches a probability")
    assert make_row("x", dog, [], 0.9) == {"path": "x", "answer": "unsure", "predictions": dog}


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


@pytest.mark.parametrize(
    ("terminals", "total", "shown"),
    [
        (["stderr"], 100, True),
        (["stderr"], 64, False),
        (["stdout", "stderr"], 100, False),
        ([], 100, False),
    ],
)
def test_progress_bar_needs_a_terminal_and_many_files(monkeypatch, capsys, terminals, total, shown):
    for name in terminals:
        monkeypatch.setattr(f"sys.{name}.isatty", lambda: True)
    results = batch.with_progress(iter(range(total)), total)
    assert list(results) == list(range(total))
    out, err = capsys.readouterr()
    assert out == ""
    assert ("Classifying" in err) == shown
