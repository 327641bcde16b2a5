"""Test classify.py: output, checkpoint selection, and one-line errors."""

import json
import sys

import pytest
import torch
from photos import SEVEN, class_folders, written
from PIL import Image
from program import call, lose_the_reader
from program import classify as classify_program
from vits import save_module

import classify
from src.data.datasets import DATASETS, read_digits
from src.data.modules import FolderDataModule
from src.training.classifier import CNN, ViT

IMAGES, LABELS = read_digits("test")


@pytest.fixture
def digit(tmp_path):
    """Path of test image 0, saved as a PNG file."""
    path = tmp_path / "digit.png"
    Image.fromarray(IMAGES[0, 0].numpy()).save(path)
    return str(path)


@pytest.fixture
def run(digits_run):
    """Return a function that runs classify.py; by default, with `digits_run`."""
    return lambda *args: call(classify.main, "--ckpt", digits_run, "--device", "cpu", *args)


def rows(ended) -> list[dict]:
    assert ended.code == 0, ended
    return json.loads(ended.out)


# Output -------------------------------------------------------------------------------------------


def test_json_has_the_likeliest_classes_first(run, digit):
    (row,) = rows(run(digit, "--json", "--top-k", 99))
    assert row["path"] == digit
    predictions = row["predictions"]
    assert len(predictions) == 10
    for prediction in predictions:
        assert set(prediction) == {"index", "class", "probability"}
        assert prediction["class"] == str(prediction["index"])
    probabilities = [prediction["probability"] for prediction in predictions]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)


def test_the_newest_run_is_the_default(run, digit, digits_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "runs").symlink_to(digits_run.parents[1])
    note = "note: using the newest run, data/runs/digits/version_0/checkpoints/best.ckpt, trained"
    ended = call(classify.main, digit)
    assert note in ended.err
    assert ended.out == run(digit).out
    for flags in (["--ckpt", digits_run], ["--json"], ["--csv"]):
        assert "newest run" not in call(classify.main, digit, *flags).err


def test_a_photo_of_a_digit_is_read_before_anything_was_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(SEVEN).save("photo.png")
    ended = call(classify.main, "photo.png", "--device", "cpu", "--json")
    assert rows(ended)[0]["predictions"][0]["class"] == "7"
    assert ended.err == (
        "note: no trained network found; using the bundled network for handwritten digits (mnist); "
        "for photos of animals and objects, use --ckpt cifar100\n"
    )
    chosen = call(classify.main, "photo.png", "--ckpt", "cifar100", "--csv")
    assert chosen.code == 0
    assert chosen.err == ""


def test_blank_paper_is_an_error(run, tmp_path):
    path = tmp_path / "paper.png"
    Image.new("L", (30, 30), "white").save(path)
    assert "paper.png: no strokes were found" in run(path).error


def test_a_missing_file_among_several_is_reported_in_its_row(run, digit):
    ended = run(digit, "nowhere.png", "--json")
    assert ended.code == 1
    good, missing = json.loads(ended.out)
    assert good["predictions"]
    assert missing["path"] == "nowhere.png"
    assert "no such file" in missing["error"]


def test_unsure_answers_of_a_file_and_of_a_test_image(run, digit):
    for image in ([digit], ["--index", 0]):
        (sure,) = rows(run(*image, "--json", "--unsure", "1e-9"))
        assert sure["answer"] == sure["predictions"][0]["class"]
        (unsure,) = rows(run(*image, "--json", "--unsure", 1))
        assert unsure == sure | {"answer": "unsure"}
        assert ": unsure" in run(*image, "--unsure", 1).out.splitlines()[0]


# Test images --------------------------------------------------------------------------------------


def test_index_shows_predicted_and_target_class(run, digit):
    ended = run("--index", 3)
    assert ended.code == 0
    first = ended.out.splitlines()[0]
    assert first.startswith("digits test image 3: ")
    assert first.endswith(f"(target: {LABELS[3]})")

    (of_index,) = rows(run("--index", 0, "--json"))
    (of_file,) = rows(run(digit, "--json"))
    assert of_index["target"] == str(int(LABELS[0]))
    assert of_index["predictions"] == of_file["predictions"]


def test_index_of_class_folders_that_have_moved(run, tmp_path):
    old, new, path = tmp_path / "photos", tmp_path / "moved", tmp_path / "photos.ckpt"
    class_folders(old, ("cat", "dog"), (40, 30), train=2, test=2)
    info = FolderDataModule(root=str(old), image_size=8, patch_size=4).info
    save_module(path, ViT(info, width=8, depth=1, heads=1))
    old.rename(new)

    ended = run("--ckpt", path, "--index", 2, "--data", new)
    assert ended.code == 0
    assert "photos test image 2: " in ended.out
    assert "(target: dog)" in ended.out
    error = run("--ckpt", path, "--index", 2).error
    assert "no such folder" in error and "or --data (classify.py)" in error


# Invalid input ------------------------------------------------------------------------------------

MISTAKES = {
    "": "pass either image files",
    "DIGIT --index 0": "pass either image files",
    "nowhere.png": "nowhere.png: no such file",
    "README": "cannot be read as an image",
    "EMPTY": "EMPTY: no images found",
    "DIGIT --ckpt nowhere.ckpt": "nowhere.ckpt: no such checkpoint",
    "DIGIT --ckpt .": "no run with a checkpoint found",
    "DIGIT --ckpt OTHER": "not a checkpoint of this program",
    "DIGIT --ckpt README": "not a checkpoint of this program",
    "DIGIT --invert maybe": "invalid choice: 'maybe'",
    "--index 359": "use 0 to 358",
    "DIGIT --device toaster": "--device cpu",
    "DIGIT --top-k 0": "--top-k must be at least 1, got 0",
    "DIGIT --unsure 50": "--unsure must be above 0 and at most 1, got 50",
    "DIGIT --embeddings out.csv": "--embeddings out.csv: the name must end in .npz",
    "--serve --embeddings out.npz": "--embeddings out.npz: cannot be combined with --serve",
    "--serve --show out.png": "--show out.png: cannot be combined with --serve",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line(run, digit, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README").write_text("I am not an image")
    (tmp_path / "EMPTY").mkdir()
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "OTHER")
    ended = run(*arguments.replace("DIGIT", digit).split())
    assert ended.out == ""
    assert MISTAKES[arguments] in ended.error


def test_a_cnn_has_no_attention_map(run, digit, tmp_path):
    cnn = save_module(tmp_path / "cnn.ckpt", CNN(DATASETS["digits"]))
    ended = run(digit, "--ckpt", cnn, "--attention", tmp_path / "map.png")
    assert ended.out == ""
    assert "--attention: a CNN has no attention; use a run of a ViT" in ended.error


# The program in a separate process ----------------------------------------------------------------


def print_in_ascii() -> None:
    sys.stdout.reconfigure(encoding="ascii")


def test_a_terminal_without_unicode(digits_run, digit):
    """Print to an ASCII terminal, which cannot display the bar characters."""
    flags = [digit, "--ckpt", digits_run, "--device", "cpu"]
    ended = classify_program(*flags, prepare=(print_in_ascii,))
    assert ended.code == 0
    assert ended.out.startswith(digit)


def test_the_program_ends_quietly_when_the_reader_of_stdout_goes_away(digits_run, digit):
    """Simulate `python classify.py FOLDER | head`."""
    ended = classify_program(digit, "--json", "--ckpt", digits_run, prepare=(lose_the_reader,))
    assert (ended.code, ended.err) == (141, "")
