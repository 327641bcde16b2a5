"""Test the output and error messages of the benchmarks that train networks from start to finish."""

import json
import re
import shutil

import pytest
import torch
from markdown import rows
from photos import class_folders
from program import ROOT

from benchmarks import kill_harness, same_numbers, seeds
from src.cli.parser import parse
from src.errors import InputError

TWO_STEPS = """
--trainer.max_epochs 1
--trainer.limit_train_batches 2
--trainer.limit_val_batches 1
"""
DIGITS = f"--config configs/digits.yaml {TWO_STEPS}"
FOLDER = """
--config configs/folder.yaml
--classes cat dog
--compare "--model.depth 2"
--trainer.max_epochs 1
--model.width 16
--model.depth 1
--model.heads 2
--data.batch_size 2
--data.val_fraction 0.5
"""


# Seeds --------------------------------------------------------------------------------------------


def test_seeds(bench, tmp_path):
    flags = f"{DIGITS} --seeds 0 1 --runs {tmp_path}"
    out = bench("seeds", flags)
    accuracies = [
        json.loads(path.read_text())["test_accuracy"]
        for path in sorted(tmp_path.glob("*/*/results.json"))
    ]
    first, second = accuracies
    mean, deviation = rows(out)["digits"][:2]
    assert float(mean) == pytest.approx((first + second) / 2, abs=1e-4)
    assert float(deviation) == pytest.approx(abs(first - second) / 2**0.5, abs=1e-4)
    assert bench("seeds", flags) == out, "finished runs are not trained again"
    with pytest.raises(InputError, match="digits_seed0.version_0: has a different config or"):
        bench("seeds", f"{flags} --model.depth 2")
    with pytest.raises(InputError, match="--seed_everything is set from --config and --seeds"):
        bench("seeds", f"{flags} --seed_everything=3")


def test_seeds_compares_numbers_of_images(bench, tmp_path):
    source = class_folders(tmp_path / "source", ("cat", "dog"), (32, 32), train=6, test=3)
    flags = f"{FOLDER} --seeds 0 --runs {tmp_path} --source {source}"
    table = rows(bench("seeds", f"{flags} --images 2 5"))
    assert list(table) == [
        "folder, 2 images per class",
        "folder, 2 images per class, --model.depth 2",
        "folder, 5 images per class",
        "folder, 5 images per class, --model.depth 2",
    ]
    images_seen = [cells[4] for cells in table.values()]
    assert images_seen[0] == images_seen[1] != images_seen[2]
    with pytest.raises(InputError, match="train/cat: only 6 images; change --classes"):
        bench("seeds", f"{flags} --images 7")
    with pytest.raises(InputError, match="--images has 3 numbers, but --classes has 2 names"):
        bench("seeds", f"{flags} --images 1,2,3")


def test_seeds_with_a_number_of_images_for_each_class(tmp_path):
    source = class_folders(tmp_path / "source", ("cat", "dog"), (32, 32), train=6, test=3)
    seeds.link(source, tmp_path / "images", ["cat", "dog"], [5, 2])
    counts = [len(list((tmp_path / "images").glob(f"*/{name}/*"))) for name in ("cat", "dog")]
    assert counts == [5 + 3, 2 + 3]
    images = sorted(path.name for path in (source / "train/dog").iterdir())
    chosen = sorted(path.name for path in (tmp_path / "images/train/dog").iterdir())
    assert chosen == [images[0], images[3]]  # evenly spaced


def test_seeds_cross_validates(bench, tmp_path):
    out = bench("seeds", f"{DIGITS} --folds 3 --seeds 0 --runs {tmp_path}")
    results = [
        json.loads((tmp_path / f"digits_fold{fold}_seed0/version_0/results.json").read_text())
        for fold in range(3)
    ]
    accuracies = [result["val_accuracy"] for result in results]
    assert len(set(accuracies)) > 1
    mean, deviation, each = rows(out)["digits"][:3]
    assert "mean val accuracy" in out
    assert each == ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
    assert float(mean) == pytest.approx(sum(accuracies) / 3, abs=1e-4)
    assert float(deviation) > 0


# Identical numbers --------------------------------------------------------------------------------


def test_same_numbers_of_one_checkout(bench):
    table = rows(bench("same_numbers", f"{ROOT} {ROOT} {TWO_STEPS} --only sgd"))
    assert int(table["sgd"][0]) > 100
    assert table["sgd"][1] == "yes"


def test_same_numbers_notices_another_config(bench, tmp_path, capsys):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "train.py", tmp_path)
    config = tmp_path / "configs" / "digits.yaml"
    config.write_text(config.read_text().replace("rotate: 10 ", "rotate: 11 "))
    with pytest.raises(SystemExit) as end:
        bench("same_numbers", f"{ROOT} {tmp_path} {TWO_STEPS} --only sgd")
    assert end.value.code == 1
    assert rows(capsys.readouterr().out)["sgd"][1].startswith("no: ")


@pytest.mark.parametrize("name", same_numbers.TRAININGS)
def test_same_numbers_has_valid_flags(name):
    parse(same_numbers.TRAININGS[name].split())


def test_same_numbers_compares_bits():
    same, zero, nan = same_numbers.same_bits, torch.zeros(2), torch.full((2,), torch.nan)
    assert same(nan, nan.clone())
    assert same(1, 1)
    assert not same(zero, -zero)
    assert not same(zero, zero.double())
    assert not same(zero, zero[:1])
    assert not same(1, 1.0)
    old = {"a": {"b": [zero, zero]}, "c": 1}
    new = {"a": {"b": [zero, nan]}, "d": 1}
    leaves = [dict(same_numbers.leaves(tree)) for tree in (old, new)]
    assert same_numbers.differences(*leaves) == ["a.b.1", "c", "d"]


@pytest.fixture
def quick(monkeypatch):
    """Let the kill harness train a tiny network for four steps, without pictures."""
    more = "--model.width 16 --trainer.limit_train_batches 4 --pictures false"
    monkeypatch.setattr(kill_harness, "FLAGS", [*kill_harness.FLAGS, *more.split()])


def test_kill_harness(bench, quick):
    out = bench("kill_harness", "--kills 1 --epochs 1")
    assert re.match(r"1 runs, 1 kills \(1 .*\): all equal to the undisturbed run", out)


def test_kill_harness_fails_if_the_resumed_run_differs(bench, monkeypatch):
    outcomes = iter([{"weight": 0}, {"weight": 1}])
    monkeypatch.setattr(kill_harness.Program, "run", lambda *_, **options: 0)
    monkeypatch.setattr(kill_harness.Program, "log", lambda program: "")
    monkeypatch.setattr(kill_harness.Program, "outcome", lambda program: next(outcomes))
    with pytest.raises(SystemExit, match="differs from the undisturbed run in .'weight'"):
        bench("kill_harness", "--kills 1 --epochs 1")
