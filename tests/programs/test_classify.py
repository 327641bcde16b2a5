"""classify.py as its users see it: what it prints, which checkpoint it takes, and one line for a mistake."""

import json
import os

import pytest
import torch
from photos import class_folders
from PIL import Image
from program import call, started

import classify
from src.data.datasets import read_digits
from src.data.modules import FolderDataModule
from src.inference.predictor import Predictor
from src.runs.checkpoint import FORMAT, load_checkpoint
from src.training.classifier import ViT

IMAGES, LABELS = read_digits("test")


@pytest.fixture
def digit(tmp_path):
    Image.fromarray(IMAGES[0, 0].numpy()).save(tmp_path / "digit.png")
    return str(tmp_path / "digit.png")


@pytest.fixture
def run(digits_run):
    """Run classify.py with arguments: exit code, standard output, standard error."""
    return lambda *args: call(
        classify.main, "--runs", digits_run.parents[1], "--device", "cpu", *args
    )


def test_which_run_answered_is_said_where_none_was_named(run, digit, digits_run):
    note = f"note: by {digits_run}/checkpoints/best.ckpt, the newest run, trained on digits; --ckpt names another\n"
    assert run(digit)[2].endswith(note)
    for named in (["--ckpt", digits_run], ["--json"], ["--csv"]):
        assert "newest run" not in run(digit, *named)[2]


def test_json_has_the_promised_shape(run, digit):
    code, out, _ = run(digit, "--json", "--top-k", 4)
    rows = json.loads(out)
    assert code == 0 and len(rows) == 1 and {"path", "predictions"} <= set(rows[0])
    assert rows[0]["path"] == digit and len(rows[0]["predictions"]) == 4
    for prediction in rows[0]["predictions"]:
        assert set(prediction) == {"index", "class", "probability"}
        assert (
            prediction["class"] == str(prediction["index"]) and 0 <= prediction["probability"] <= 1
        )
    shares = [prediction["probability"] for prediction in rows[0]["predictions"]]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("k", [10, 99])
def test_all_classes_together_have_the_probability_one(run, digit, k):
    predictions = json.loads(run(digit, "--json", "--top-k", k)[1])[0]["predictions"]
    assert sorted(p["index"] for p in predictions) == list(range(10))
    assert sum(p["probability"] for p in predictions) == pytest.approx(1, abs=1e-5)


def test_several_images_are_listed_in_their_order(run, digit, tmp_path):
    Image.fromarray(IMAGES[1, 0].numpy()).save(tmp_path / "other.png")
    paths = [digit, str(tmp_path / "other.png"), digit]
    rows = json.loads(run(*paths, "--json")[1])
    assert [row["path"] for row in rows] == paths
    assert rows[0]["predictions"] == rows[2]["predictions"] != rows[1]["predictions"]


def test_text_names_the_likeliest_class_and_its_probability(run, digit, digits_run):
    code, out, _ = run(digit, "--top-k", 2)
    first = Predictor(digits_run / "checkpoints/best.ckpt", "cpu")
    best = first.top(first.read([digit]), 2)[0]
    lines = out.splitlines()
    assert code == 0 and lines[0] == f"{digit}: {best[0]['class']}" and len(lines) == 3
    assert (
        f"{best[0]['probability']:.2%}" in lines[1] and f"{best[1]['probability']:.2%}" in lines[2]
    )


def test_index_shows_the_predicted_and_the_target_class(run, digit):
    code, out, _ = run("--index", 3)
    assert code == 0
    assert (
        out.startswith("digits test image 3: ") and f"(target: {LABELS[3]})" in out.splitlines()[0]
    )
    (row,) = json.loads(run("--index", 0, "--json")[1])
    assert row["target"] == str(int(LABELS[0]))
    assert row["predictions"] == json.loads(run(digit, "--json")[1])[0]["predictions"]


def test_index_in_a_folder_of_images_that_has_moved(run, tmp_path):
    class_folders(tmp_path / "photos", ("cat", "dog"), (40, 30), train=2, test=2)
    data = FolderDataModule(root=str(tmp_path / "photos"), image_size=8, patch_size=4)
    model = ViT(data.description, width=8, depth=1, heads=1)
    content = {
        "format": FORMAT,
        "hyper_parameters": dict(model.hparams),
        "state_dict": model.state_dict(),
    }
    torch.save(content, tmp_path / "photos.ckpt")
    (tmp_path / "photos").rename(tmp_path / "moved")
    code, out, _ = run(
        "--ckpt", tmp_path / "photos.ckpt", "--index", 2, "--data", tmp_path / "moved"
    )
    assert code == 0 and "photos test image 2" in out and "(target: dog)" in out
    assert "there is no such folder" in run("--ckpt", tmp_path / "photos.ckpt", "--index", 2).error


def test_blank_paper_is_said(run, tmp_path):
    Image.new("L", (30, 30), "white").save(tmp_path / "paper.png")
    assert "paper.png: no strokes were found" in run(tmp_path / "paper.png").error


def test_a_missing_file_among_several_is_a_row_and_exit_code_1(run, digit):
    ended = run(digit, "nowhere.png", "--json")
    good, missing = json.loads(ended.out)
    assert (
        ended.code == 1
        and good["predictions"]
        and missing["path"] == "nowhere.png"
        and "there is no such file" in missing["error"]
    )


def weights_at(path, digits_run, shift):
    """A copy of the run's best checkpoint, recognizable by a shifted bias."""
    content = load_checkpoint(digits_run / "checkpoints/best.ckpt")
    content["state_dict"]["ema.head.bias"] += shift * torch.arange(10)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def test_the_newest_runs_best_checkpoint_is_the_default(run, digits_run, digit, tmp_path):
    for name, time in (("a/version_0", 200), ("b/version_0", 300), ("c/version_3", 100)):
        for file, shift in (("best", time), ("last", -time)):
            weights_at(tmp_path / "runs" / name / "checkpoints" / f"{file}.ckpt", digits_run, shift)
            os.utime(tmp_path / "runs" / name / "checkpoints" / f"{file}.ckpt", (time, time))
    expected = run(digit, "--json", "--ckpt", tmp_path / "runs/b/version_0/checkpoints/best.ckpt")[
        1
    ]
    assert run(digit, "--json", "--runs", tmp_path / "runs")[1] == expected
    (
        tmp_path / "runs/b/version_0/checkpoints/best.ckpt"
    ).unlink()  # a run without validation has none
    expected = run(digit, "--json", "--ckpt", tmp_path / "runs/b/version_0/checkpoints/last.ckpt")[
        1
    ]
    assert run(digit, "--json", "--runs", tmp_path / "runs")[1] == expected


def test_a_run_its_checkpoints_and_a_file_are_all_accepted(run, digits_run, digit):
    places = [
        digits_run.parent,
        digits_run,
        digits_run / "checkpoints",
        digits_run / "checkpoints" / "best.ckpt",
    ]
    outputs = {run(digit, "--json", "--ckpt", place)[1] for place in places}
    assert len(outputs) == 1 and json.loads(outputs.pop())


MISTAKES = {
    "nothing to classify": ([], "name image files"),
    "both image and index": (["DIGIT", "--index", "0"], "name image files"),
    "missing image": (["nowhere.png"], "nowhere.png: there is no such file"),
    "no image": (["README"], "cannot be read as an image"),
    "a folder without images": (["EMPTY"], "EMPTY: is a folder without images"),
    "missing checkpoint": (
        ["DIGIT", "--ckpt", "nowhere.ckpt"],
        "nowhere.ckpt: there is no such checkpoint",
    ),
    "a run without checkpoints": (["DIGIT", "--ckpt", "."], "there is no such checkpoint"),
    "checkpoint of another program": (
        ["DIGIT", "--ckpt", "OTHER"],
        "not a checkpoint of this program",
    ),
    "checkpoint that is text": (["DIGIT", "--ckpt", "README"], "not a checkpoint of this program"),
    "no run": (["DIGIT", "--runs", "."], "no run has a checkpoint"),
    "no way to invert": (["--invert", "maybe", "DIGIT"], "invalid choice: 'maybe'"),
    "index too large": (["--index", "359"], "use 0 to 358"),
    "index below zero": (["--index", "-1"], "use 0 to 358"),
    "index that is no number": (["--index", "first"], "--index"),
    "unknown device": (["DIGIT", "--device", "toaster"], "--device cpu"),
    "top-k that is no number": (["DIGIT", "--top-k", "abc"], "--top-k"),
    "top-k of zero": (["DIGIT", "--top-k", "0"], "use 1 or more"),
    "unknown option": (["DIGIT", "--color"], "--color"),
    "option without its value": (["DIGIT", "--ckpt"], "--ckpt"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(run, digit, tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README").write_text("I am not an image")
    (tmp_path / "EMPTY").mkdir()
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "OTHER")
    args, expected = MISTAKES[mistake]
    ended = run(*[digit if arg == "DIGIT" else arg for arg in args])
    assert ended.out == "" and expected in ended.error


def test_the_program_itself(digits_run, digit):
    done = started(
        "classify.py", digit, "--ckpt", digits_run, "--device", "cpu", PYTHONIOENCODING="ascii"
    )
    assert (
        done.code == 0 and "Traceback" not in done.err and done.out.startswith(digit)
    )  # the bars are not ASCII
    failed = started("classify.py", "nowhere.png", "--ckpt", digits_run)
    assert failed == (2, "", "error: nowhere.png: there is no such file; check the path\n")


def test_a_choice_of_invert_is_one_even_where_a_file_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no").touch()
    for args, chosen in ((["--invert", "no", "a.png"], "no"), (["--invert", "a.png"], "yes")):
        options = classify.parse(args)
        assert (options.invert, options.images) == (chosen, ["a.png"])
