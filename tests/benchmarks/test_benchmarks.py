"""Every benchmark runs to its end with settings that make it short, and prints what it promises."""

import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import program
import pytest
import torch
from markdown import rows
from photos import ZERO, class_folders, written
from PIL import Image
from program import ROOT

from benchmarks import ablation, kill_harness, large_folder, photos, same_numbers, shared_cache
from src.cli.parser import parse
from src.data.datasets import DATASETS
from src.data.modules import MNISTDataModule
from src.errors import InputError
from src.extras.paper.photo import develop
from src.runs.checkpoint import FORMAT, load_checkpoint
from src.training.classifier import ViT

NAMES = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if "def main" in path.read_text()
)
TWO_STEPS = (
    "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1".split()
)
MNIST = ROOT / "data" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"


@pytest.fixture
def mnist():
    if not MNIST.is_file():
        pytest.skip("needs the real MNIST under data/")


def test_every_benchmark_has_a_test():
    tests = "\n".join(
        path.read_text() for path in (ROOT / "tests" / "benchmarks").glob("test_*.py")
    )
    assert len(NAMES) >= 10 and not [name for name in NAMES if f"def test_{name}" not in tests]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_program_whose_help_tells_how_to_run_it(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with (
        pytest.raises(SystemExit) as end,
        warnings.catch_warnings(action="ignore"),
    ):  # another test has imported it
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert end.value.code == 0 and f"python -m benchmarks.{name}" in capsys.readouterr().out


# Trainings side by side -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ablation.CHANGES)
def test_ablation_changes_what_train_py_knows(config):
    flags = " ".join(ablation.CHANGES[config].values()).split()
    parse(["--config", f"configs/{config}.yaml", *flags])


@pytest.mark.real_data
def test_ablation(bench, mnist, monkeypatch):
    changes = {"the recipe": "", "no average of the weights": "--model.ema_decay 0"}
    monkeypatch.setitem(ablation.CHANGES, "mnist", changes)
    table = rows(bench("ablation", "mnist", "--seeds", 0, *TWO_STEPS))
    assert table.keys() == changes.keys()
    assert all(0 <= float(cells[0]) <= 1 and int(cells[5]) == 256 for cells in table.values())


def test_seeds(bench, tmp_path):
    flags = [
        "seeds",
        "--config",
        "configs/digits.yaml",
        "--seeds",
        0,
        1,
        "--runs",
        tmp_path,
        *TWO_STEPS,
    ]
    out = bench(*flags)
    tested = [
        json.loads(path.read_text())["test_accuracy"]
        for path in sorted(tmp_path.glob("*/*/results.json"))
    ]
    cells = rows(out)["digits"]
    assert len(tested) == 2 and float(cells[0]) == pytest.approx(sum(tested) / 2, abs=1e-4)
    assert float(cells[1]) == pytest.approx(abs(tested[0] - tested[1]) / 2**0.5, abs=1e-4)
    assert Image.open(tmp_path / "digits_seeds.png").size == (1200, 360)
    assert bench(*flags) == out, "finished runs are not trained again"
    with pytest.raises(
        InputError,
        match="digits_seed0.version_0: is of another config, or of other flags; remove it",
    ):
        bench(*flags, "--model.depth", 2)
    with pytest.raises(InputError, match="--seed_everything: follows from --config and --seeds"):
        bench(*flags, "--seed_everything=3")
    nothing = ["--data.val_fraction", 0, "--trainer.limit_test_batches", 0]
    with pytest.raises(InputError, match="no accuracy: leave --trainer.limit_test_batches out"):
        bench(*flags, *nothing, "--seeds", 2, "--runs", tmp_path / "other")


def test_ctrl_c_waits_for_the_training_and_is_no_mistake(tmp_path):
    """Its last checkpoint is whole, and the exit code that of Ctrl-C."""
    flags = [
        "--config",
        "configs/digits.yaml",
        "--seeds",
        0,
        "--runs",
        tmp_path,
        "--trainer.max_epochs",
        500,
    ]
    command = [sys.executable, "-m", "benchmarks.seeds", *map(str, flags)]
    running = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    last = tmp_path / "digits_seed0" / "version_0" / "checkpoints" / "last.ckpt"
    while not last.exists():
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(60) == 130
    assert load_checkpoint(last)["global_step"] > 0 and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.real_data
def test_vit_or_cnn(bench, mnist):
    table = rows(bench("vit_or_cnn", *TWO_STEPS, "--trainer.limit_test_batches", 1))
    parameters = {name.split(",")[0]: cells[2] for name, cells in table.items()}
    assert parameters == {"ViT": "455,050", "CNN": "1,199,882"}


@pytest.mark.real_data
def test_precision(bench, mnist):
    ((name, cells),) = rows(
        bench("precision", "--configs", "mnist", "--steps", 1, "--rounds", 1)
    ).items()
    assert name == "mnist" and float(cells[2]) == pytest.approx(float(cells[3]), abs=0.006)


def test_transfer(bench, cifar10, tmp_path):
    source = tmp_path / "runs" / "cifar100_cpu"
    with pytest.raises(
        InputError, match="train it first: python train.py --config configs/cifar100_cpu.yaml"
    ):
        bench("transfer", "--source", source)
    class_folders(tmp_path / "cifar100", DATASETS["cifar100"].classes, (32, 32), train=2, test=1)
    tiny = "--model.width 16 --model.stem_width 8 --model.depth 1 --model.heads 2 --data.batch_size 8".split()
    tiny += [
        "--data.val_fraction",
        0.5,
        "--trainer.limit_train_batches",
        2,
        "--trainer.accelerator",
        "cpu",
    ]
    places = ["--data.root", tmp_path, "--runs", source.parent]
    first = program.train(
        "--config", "configs/cifar100_cpu.yaml", *places, *tiny, "--trainer.max_epochs", 1
    )
    assert first.code == 0, first
    table = rows(bench("transfer", "--source", source, "--data.root", cifar10, *tiny))
    ways = [name.split(", ")[-1] for name in table]
    assert ways == [
        "pre-training on CIFAR-100",
        "all weights",
        "head alone",
        "1 epoch of CIFAR-10 from scratch",
    ]
    assert {cells[2] for cells in table.values()} == {"16"}


def test_own_images(bench, tmp_path):
    class_folders(tmp_path, ("cat", "dog"), (32, 32), train=6, test=3)
    flags = [
        "--root",
        tmp_path,
        "--classes",
        "cat",
        "dog",
        "--images",
        2,
        5,
        "--compare",
        "--model.depth 2",
    ]
    tiny = "--model.width 16 --model.depth 1 --model.heads 2 --data.batch_size 2 --data.val_fraction 0.5".split()
    table = rows(bench("own_images", *flags, *tiny, "--trainer.max_epochs", 1))
    assert [name.split(" images")[0] for name in table] == ["2", "2", "5", "5"]
    assert all(0 <= float(cells[0]) <= 1 and cells[5] == "1" for cells in table.values())
    with pytest.raises(InputError, match="train/cat: has 6 images; give other"):
        bench("own_images", *flags, "--images", 7)


def test_same_numbers_finds_a_checkout_equal_to_itself(bench):
    table = rows(bench("same_numbers", ROOT, ROOT, "--only", "sgd", *TWO_STEPS))
    assert int(table["sgd"][0]) > 100 and table["sgd"][1] == "yes"


def test_same_numbers_sees_that_a_recipe_has_changed(bench, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(ROOT / "configs", other / "configs")
    shutil.copy(ROOT / "train.py", other)
    config = other / "configs" / "digits.yaml"
    config.write_text(config.read_text().replace("rotate: 10 ", "rotate: 11 "))
    with pytest.raises(SystemExit) as end:
        bench("same_numbers", ROOT, other, "--only", "sgd", *TWO_STEPS)
    assert end.value.code == 1 and rows(capsys.readouterr().out)["sgd"][1].startswith("no: ")


@pytest.mark.parametrize("name", same_numbers.TRAININGS)
def test_same_numbers_asks_for_what_train_py_knows(name):
    parse(same_numbers.TRAININGS[name].split())


def test_same_numbers_compares_bits():
    zero, one, nan = torch.zeros(2), torch.ones(2), torch.full((2,), torch.nan)
    same = same_numbers.same_bits
    assert same(nan, nan.clone()) and same(1, 1) and same(torch.tensor(3), torch.tensor(3))
    assert not same(zero, -zero) and not same(zero, one) and not same(zero, zero.double())
    assert not same(zero, zero[:1]) and not same(1, 1.0)
    old, new = ({"a": {"b": [zero, one]}, "c": 1}, {"a": {"b": [zero, nan]}, "d": 1})
    assert same_numbers.differences(*(dict(same_numbers.leaves(tree)) for tree in (old, new))) == [
        "a.b.1",
        "c",
        "d",
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_kill_harness(bench, monkeypatch, processes):
    if processes == 2:  # the one that is killed alone may be killed while it draws
        monkeypatch.setattr(kill_harness, "FLAGS", [*kill_harness.FLAGS, "--pictures", "false"])
    out = bench("kill_harness", "--kills", 1, "--epochs", 1, "--processes", processes)
    assert re.match(
        r"1 runs, 1 kills: .*all runs ended equal to the undisturbed one, bit for bit", out
    )


# Runtimes ---------------------------------------------------------------------------------------------------------


def test_export(bench, digits_run):
    pytest.importorskip("onnxscript")
    threads = torch.get_num_threads()
    out = bench("export", digits_run, "--rounds", 1, "--threads", 1)
    torch.set_num_threads(threads)
    table = rows(out)
    assert list(table) == ["PyTorch", "ONNX, onnxruntime", "torch.export", "safetensors, timm"]
    assert "256 test images of digits" in out and all(
        float(cells[1]) < 1e-4 for cells in table.values()
    )


def test_flops(bench):
    """By hand: 2 flops a multiplication, in the forward pass once, in the backward pass twice, but for the pixels."""
    flags = ["--configs", "mnist", "cifar10_best", "--images", 60_000]
    table = rows(bench("flops", *flags))
    width, blocks, tokens = 96, 4, 16
    matrices = tokens * blocks * (4 * width**2 + 2 * width * 2 * width + 2 * tokens * width)
    expected = 2 * (3 * matrices + 2 * tokens * 49 * width + 3 * width * 10)
    assert float(table["mnist"][0]) == pytest.approx(expected / 1e6, abs=0.6)
    assert (
        float(table["cifar10_best"][0].replace(",", "")) > 3000
        and table["cifar10_best"][3] == "300"
    )


# Photos -----------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_photos(bench, mnist, tmp_path):
    """With a network that knows nothing; what it counts as right has to be what lies there as right."""
    model = ViT(MNISTDataModule(root=str(ROOT / "data")).description, width=8, depth=1, heads=1)
    content = {
        "format": FORMAT,
        "hyper_parameters": dict(model.hparams),
        "state_dict": model.state_dict(),
    }
    torch.save(content, tmp_path / "mnist.ckpt")
    flags = [
        "--count",
        12,
        "--seeds",
        0,
        3,
        "--kinds",
        "plain",
        "thin pen",
        "--keep",
        tmp_path / "kept",
    ]
    head, *lines = bench("photos", tmp_path / "mnist.ckpt", *flags).splitlines()
    assert head.split() == ["seed", "originals", "plain", "thin", "pen"] and len(lines) == 2
    for line, seed in zip(lines, (0, 3), strict=True):
        name, originals, *rights = line.split()
        assert name == str(seed) and int(originals.removesuffix("/12")) <= 12
        for right, kind in zip(rights, ("plain", "thin_pen"), strict=True):
            kept = [path.name for path in (tmp_path / "kept" / f"{kind}_{seed}").iterdir()]
            assert (
                len(kept) == 12
                and right == f"{sum(not name.startswith('wrong') for name in kept)}/12"
            )
            assert all(
                re.fullmatch(r"(wrong_)?\d{3}_is_\d(_read_(\d|None))?\.(png|jpg)", name)
                for name in kept
            )


@pytest.mark.parametrize("kind", photos.KINDS)
def test_photos_show_the_digit_that_they_were_made_from(kind):
    """Found in them again it is nearly the same, but for its turn, and for pens that have another width."""
    strokes = DATASETS["mnist"].strokes
    digit = develop(written(ZERO, pen=24), 28, strokes).image
    for seed in range(4):
        photo, ending = photos.photograph(digit, kind, np.random.default_rng(seed))
        again = photos.photograph(digit, kind, np.random.default_rng(seed))
        assert again == (photo, ending) and ending in ("png", "jpg")
        found = develop(Image.open(io.BytesIO(photo)), 28, strokes).image
        assert np.corrcoef(found.ravel(), digit.ravel())[0, 1] > (0.5 if "pen" in kind else 0.9)
        assert found[14, 14] == 0 and found.max() > 200


# Data and pictures ------------------------------------------------------------------------------------------------


def test_large_folder(bench, monkeypatch):
    monkeypatch.setattr(
        large_folder, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1)
    )  # costs no import
    out = bench("large_folder", "--images", 100, "--budget", 0.002)
    lines = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| 0")]
    assert [line[:2] for line in lines] == [["0.002", "2"], ["0.002", "0"], ["0.0", "2"]]
    assert all(float(line[-1].replace(",", "")) > 0 for line in lines)


def test_shared_cache(bench, monkeypatch):
    monkeypatch.setattr(shared_cache, "CONTEXT", program.forks)  # costs no import
    lines = bench("shared_cache", "--images", 800, "--processes", 3).splitlines()
    table = [line.strip("| ").split(" | ") for line in lines if line[:3] in ("| 1", "| 3")]
    memory = {(int(processes), how): int(mib.replace(",", "")) for processes, how, mib in table}
    assert memory.keys() == {(n, how) for n in (1, 3) for how in ("mapped", "copied")}
    more = {how: memory[3, how] - memory[1, how] for how in ("mapped", "copied")}
    assert more["copied"] > more["mapped"] + 20, (
        "two more copies of 38 MiB; what else a process takes varies by 20"
    )


@pytest.mark.parametrize("with_images", [True, False], ids=["images", "noise"])
def test_data_pipeline(bench, cifar10, tmp_path, with_images):
    threads = torch.get_num_threads()
    root = cifar10 if with_images else tmp_path / "none"
    out = bench("data_pipeline", "--root", root, "--images", 40, "--batch_size", 20, "--rounds", 1)
    torch.set_num_threads(threads)
    assert ("using random ones" in out) == (not with_images) and "40 images of 3x32x32" in out
    assert len(re.findall(r"^(tutorial|ours): .*\d\.\d$", out, re.MULTILINE)) == 3


@pytest.mark.parametrize("flags", ["", "--same --policy trivialaugment"])
def test_augmentation_picture(bench, cifar10, flags):
    bench(
        "augmentation_picture", "--root", cifar10, "--output", cifar10 / "out.png", *flags.split()
    )
    pixels = np.asarray(Image.open(cifar10 / "out.png"))
    assert pixels.shape == (800, 800, 3) and pixels.std() > 5


def test_picture(bench, digits_run, tmp_path):
    bench("picture", digits_run, "--output", tmp_path / "out.png")
    width, height = Image.open(tmp_path / "out.png").size
    assert width > 2 * height > 400


def test_picture_cost(bench):
    out = bench("picture_cost", "--config", "configs/digits.yaml", "--rounds", 1, "--epochs", 1)
    seconds = {name: [float(cell) for cell in cells] for name, cells in rows(out).items()}
    assert list(seconds) == ["pictures true, 1", "pictures false, 1"]
    (_, processor, drawing, norms), (_, _, none, _) = seconds.values()
    assert processor > drawing > norms > 0 == none
    share = float(
        re.search(r"^in Pictures: ([\d.]+)% of the processor time$", out, re.MULTILINE)[1]
    )
    assert share == pytest.approx(100 * drawing / processor, rel=0.01)
