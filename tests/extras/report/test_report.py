"""The report of a run is one complete page, true to what was tested; a comparison shows what differs."""

import base64
import html
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from photos import FOUR, class_folders, written
from PIL import Image
from program import ROOT, VIT, call, train
from program import run as trained

from src.data import modules
from src.data.folders import ImageSet
from src.extras.report.evaluation import Answers, Evaluation
from src.extras.report import report

SECTIONS = ["Curves", "Confusion matrix", "Accuracy of each class", "Worst mistakes", "Calibration"]
SECTIONS += ["Load, resume, use", "Results", "Config"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run with its report. Leave it as it is."""
    return trained(tmp_path_factory.mktemp("report") / "runs", "--pictures", "true")


def page(path):
    return (path / "report.html").read_text()


def main(*args):
    return call(report.main, *args)


class Links(HTMLParser):
    """Everything that a page names for the browser to fetch, and tags that were left open."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [
            value for key, value in attributes if key in ("src", "href", "srcset", "data", "action")
        ]
        if tag not in ("meta", "img", "tr", "td", "th", "i"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag


def test_one_file_with_everything_in_it(run):
    text = page(run)
    links = Links(text)
    assert re.findall("<h2>(.*?)</h2>", text) == SECTIONS and not links.open
    assert len(links.found) == 7 and all(
        link.startswith("data:image/png;base64,") for link in links.found
    )
    assert "url(" not in text and "@import" not in text and "<script" not in text
    assert len(text) < 3e6
    for link in links.found:
        Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))).verify()
    for name in ("curves.png", "confusion.png"):
        assert min(Image.open(run / name).size) > 300


def test_it_says_what_was_measured(run):
    text, results = html.unescape(page(run)), json.loads((run / "results.json").read_text())
    assert f"{results['test_accuracy']:.4f}" in text and f"{results['test_loss']:.4f}" in text
    assert (run / "config.yaml").read_text() in text
    found = report.evaluate(run)
    assert float(found.right.double().mean()) == pytest.approx(results["test_accuracy"], abs=1e-6)
    assert f"expected calibration error is {found.calibration_error():.4f}" in text
    counts = found.confusion()
    for label, name in enumerate(found.classes):
        n = int(counts[label].sum())
        share = f'<tr><td>{name}</td><td class="n">{int(counts[label, label]) / n:.4f}</td>'
        assert share in text and f'<td class="n">{n}</td>' in text
    accuracies = [float(a) for a in re.findall(r'<tr><td>\d</td><td class="n">([\d.]+)', text)]
    assert accuracies == sorted(accuracies) and len(accuracies) == 10


def test_what_it_says_to_type_works(run, monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = [
        html.unescape(block) for block in re.findall("<pre>(.*?)</pre>", page(run), re.DOTALL)
    ]
    commands, code = blocks
    for command in commands.splitlines():
        assert str(run) in command
    written(FOUR, mode="L").save(run.parent / "photo.png")
    out = io.StringIO()
    monkeypatch.setattr("builtins.print", lambda *what: out.write(f"{what}\n"))
    exec(code.replace("photo.png", str(run.parent / "photo.png")), {})
    assert "'probability'" in out.getvalue()


def test_made_again_it_is_the_same(run, tmp_path):
    again = shutil.copytree(run, tmp_path / "digits" / "version_0")
    for name in ("report.html", "curves.png", "confusion.png"):
        (again / name).unlink()
    ended = main(again)
    assert ended.code == 0 and ended.out.strip() == str(again / "report.html")
    without_paths = [page(r).replace(str(r), "RUN") for r in (run, again)]
    assert without_paths[0] == without_paths[1]
    assert (again / "confusion.png").read_bytes() == (run / "confusion.png").read_bytes()


def test_a_run_that_was_not_tested_is_shown_by_its_validation_images(run, tmp_path, monkeypatch):
    untested = shutil.copytree(run, tmp_path / "digits" / "version_0")
    (untested / "results.json").unlink()
    asked = []
    usual = modules.NamedDataModule.read
    monkeypatch.setattr(
        modules.NamedDataModule, "read", lambda self, s: asked.append(s) or usual(self, s)
    )
    assert main(untested).code == 0
    assert "test" not in asked and "validation images: the test images have not been used" in page(
        untested
    )
    found = report.evaluate(untested)
    rows = [row for row in (untested / "metrics.csv").read_text().splitlines()[1:]]
    best = max(float(row.split(",")[5]) for row in rows)
    assert float(found.right.double().mean()) == pytest.approx(best, abs=1e-4)


def test_only_the_images_that_were_tested(run, tmp_path):
    part = shutil.copytree(run, tmp_path / "digits" / "version_0")
    results = json.loads((part / "results.json").read_text())
    (part / "results.json").write_text(json.dumps(results | {"test_images": 100}))
    assert len(report.evaluate(part)) == 100


def test_folders_of_images_without_test_and_with_hostile_names(tmp_path):
    names = ["<script>alert(1)</script>".replace("/", "\u2215"), '$a_{b}$ & "c"']
    class_folders(tmp_path / "photos", names, (16, 16), train=12)
    flags = [
        "--config",
        "configs/folder.yaml",
        "--data.root",
        tmp_path / "photos",
        "--data.image_size",
        16,
    ]
    flags += [
        "--data.val_fraction",
        0.3,
        "--data.batch_size",
        8,
        "--trainer.max_epochs",
        1,
        "--runs",
        tmp_path,
    ]
    ended = train(*flags, *VIT, "--trainer.accelerator", "cpu")
    assert ended.code == 0, ended
    text = page(tmp_path / "folder" / "version_0")
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not Links(text).open and "validation images" in text


def test_no_mistake_at_all(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "digits" / "version_0")
    labels = torch.arange(10)
    answers = Answers()
    answers.add(torch.eye(10))
    images = ImageSet(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), labels)
    report.write_report(copy, Evaluation("test", images, [str(k) for k in range(10)], answers))
    assert "<p>None.</p>" in page(copy)


def test_comparison_of_two_runs(run, tmp_path):
    other = trained(tmp_path / "a", "--model.depth", 1, "--name", "shallow", "--pictures", "true")
    path = tmp_path / "two.html"
    ended = main(run, other, "--output", path)
    assert ended.code == 0 and ended.out.strip() == str(path)
    text = html.unescape(path.read_text())
    assert not Links(text).open and len(text) < 3e6
    table = re.search("What differs(.*?)</table>", text, re.DOTALL)[1]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert {row[0] for row in rows} == {"model.depth", "name", "runs"}
    assert ["model.depth", "2", "1"] in rows and ["name", "digits", "shallow"] in rows
    for made in (run, other):
        assert f"{json.loads((made / 'results.json').read_text())['test_accuracy']:.4f}" in text
    together = main(run, run.parent)
    assert together.code == 0 and together.out.strip() == str(run / "comparison.html")
    (run / "comparison.html").unlink()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ("nowhere", "nowhere: not a run"),
        ("nowhere elsewhere --output x.html", "nowhere: not a run"),
        ("", "the following arguments are required: RUN"),
        ("RUN --output x.html", "--output: "),
        ("RUN/config.yaml", "config.yaml"),
    ],
)
def test_mistakes_are_one_line(run, args, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named in main(*args.replace("RUN", str(run)).split()).error


def test_from_within_the_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(run, tmp_path / "digits" / "version_0"))
    assert main(".").code == 0
    assert "<h1>digits version_0</h1>" in Path("report.html").read_text()


@pytest.mark.parametrize(
    "config", [None, "", "data: 5", "seed_everything: 0\ndata: {class_path: X}", "a: [", b"\xff"]
)
def test_a_damaged_config_is_one_line(run, tmp_path, config):
    broken = shutil.copytree(run, tmp_path / "digits" / "version_0")
    if config is None:
        (broken / "config.yaml").unlink()
    else:
        (broken / "config.yaml").write_bytes(
            config if isinstance(config, bytes) else config.encode()
        )
    for args in ([broken], [broken, run]):
        ended = main(*args, *(["--output", tmp_path / "x.html"] if len(args) > 1 else []))
        assert f"{broken / 'config.yaml'}: " in ended.error
