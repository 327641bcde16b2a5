"""Test that reports are complete and self-contained."""

import html
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from photos import class_folders
from PIL import Image
from program import VIT, call, train
from program import run as train_tiny

from src.data import modules
from src.data.image_set import ImageSet
from src.extras.report import __main__ as program
from src.extras.report.evaluation import Evaluation, evaluate, summarize
from src.extras.report.report import write_report

SECTIONS = [
    "Curves",
    "Confusion matrix",
    "Scores of each class",
    "Most confident mistakes",
    "Calibration",
    "Use and resume",
    "Results",
    "Config",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a short run with a report. Tests must not modify it."""
    return train_tiny(tmp_path_factory.mktemp("report") / "runs", "--pictures", "true")


@pytest.fixture
def copy(run, tmp_path):
    """Return a copy of the run."""
    return shutil.copytree(run, tmp_path / "digits" / "version_0")


def page(run):
    return (run / "report.html").read_text()


def main(*args):
    return call(program.main, *args)


def test_one_file_holds_everything(run):
    text = page(run)
    assert re.findall("<h2>(.*?)</h2>", text) == SECTIONS
    links = re.findall(r'(?:src|href|srcset|action)="([^"]*)', text)
    assert len(links) == 4
    for link in links:
        assert link.startswith("data:image/png;base64,")
    for foreign in ("url(", "@import", "<script", "<link"):
        assert foreign not in text
    for name in ("curves.png", "confusion.png"):
        assert min(Image.open(run / name).size) > 300


def test_numbers_are_those_of_the_test(run):
    text, results = html.unescape(page(run)), json.loads((run / "results.json").read_text())
    assert f"{results['test_accuracy']:.4f}" in text
    assert f"{results['test_loss']:.4f}" in text
    assert (run / "config.yaml").read_text() in text
    evaluation = evaluate(run)
    accuracy = float(evaluation.correct.double().mean())
    assert accuracy == pytest.approx(results["test_accuracy"], abs=1e-6)
    after, before = (evaluation.calibration_error(calibrated) for calibrated in (True, False))
    assert f"is {after:.4f}. Without the temperature, it is {before:.4f}." in " ".join(text.split())
    assert abs(results["temperature"] - 1) > 0.05
    assert abs(after - before) > 1e-4
    for row in results["classes"]:
        cells = [row["class"], *(f"{row[key]:.4f}" for key in ("recall", "precision", "f1"))]
        assert "</td><td>".join(cells) in text
    recalls = re.findall(r"<tr><td>\d</td><td>([\d.]+)", text)
    assert len(recalls) == 10
    assert recalls == sorted(recalls)


def test_the_program_writes_the_same_report(run, copy):
    for name in ("report.html", "curves.png", "confusion.png"):
        (copy / name).unlink()
    ended = main(copy)
    assert ended.code == 0, ended
    assert ended.out.strip() == str(copy / "report.html")
    assert page(copy).replace(str(copy), "RUN") == page(run).replace(str(run), "RUN")
    assert (copy / "confusion.png").read_bytes() == (run / "confusion.png").read_bytes()


def test_an_untested_run_is_evaluated_on_validation_images(copy, monkeypatch):
    (copy / "results.json").unlink()
    original = modules.NamedDataModule.read

    def read(self, split):
        assert split != "test"
        return original(self, split)

    monkeypatch.setattr(modules.NamedDataModule, "read", read)
    assert main(copy).code == 0
    assert "144 validation images." in page(copy)


def test_only_the_tested_images_are_evaluated(copy):
    results = json.loads((copy / "results.json").read_text())
    (copy / "results.json").write_text(json.dumps(results | {"test_images": 100}))
    assert len(evaluate(copy)) == 100


def test_class_folders_with_hostile_names_without_test_images_and_then_changed(tmp_path):
    names = ["<script>alert(1)<\u2215script>", '$a_{b}$ & "c"']
    class_folders(tmp_path / "photos", names, (16, 16), train=12)
    flags = f"""
    --config configs/folder.yaml --data.root {tmp_path}/photos --data.image_size 16
    --data.val_fraction 0.3 --data.batch_size 8 --trainer.max_epochs 1 --runs {tmp_path}
    --trainer.accelerator cpu
    """
    ended = train(*flags.split(), *VIT)
    assert ended.code == 0, ended
    run = tmp_path / "folder" / "version_0"
    text = page(run)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "validation images" in text

    class_folders(tmp_path / "photos", ["eel"], (16, 16), train=12)
    assert "config.yaml: the dataset differs from the one" in main(run).error


def test_a_perfect_network_has_no_mistakes(copy):
    labels = torch.arange(10)
    images = ImageSet(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), labels)
    predictions = [summarize(torch.eye(10))]
    write_report(copy, Evaluation("test", images, tuple(map(str, range(10))), predictions))
    assert "0 of 0 mistakes" in page(copy)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("nowhere", "nowhere: not a run"),
        ("", "the following arguments are required: RUN"),
        ("RUN/config.yaml", "config.yaml: not a run"),
    ],
)
def test_mistakes_are_one_line(run, args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in main(*args.replace("RUN", str(run)).split()).error


def test_from_within_the_run(copy, monkeypatch):
    monkeypatch.chdir(copy)
    assert main(".").code == 0
    assert "<h1>digits version_0</h1>" in Path("report.html").read_text()


@pytest.mark.parametrize("config", ["a: [", "data: 5"])
def test_a_damaged_config_is_reported_in_one_line(copy, config):
    (copy / "config.yaml").write_text(config)
    assert main(copy).error


@pytest.mark.parametrize(
    "content",
    [b"\xff", b"train_loss\n1\n", b"epoch,train_loss\none,1\n", b"epoch,train_loss\n1,low\n"],
)
def test_damaged_metrics_are_named_in_one_line(copy, content):
    (copy / "metrics.csv").write_bytes(content)
    assert f"{copy / 'metrics.csv'}: damaged" in main(copy).error


@pytest.mark.parametrize("content", ["[]", 100_000 * "[", '{"test_images": "all", "epochs": []}'])
def test_a_run_with_damaged_results_counts_as_not_tested(copy, content):
    (copy / "results.json").write_text(content)
    assert main(copy).code == 0
    assert "validation images" in page(copy)
