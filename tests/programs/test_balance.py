"""Test how train.py handles and reports class imbalance."""

import csv
import json
from functools import partial

import pytest
from photos import class_folders
from program import train, validate_as

from src.runs.checkpoint import load

FLAGS = """
--config configs/folder.yaml
--pictures false
--trainer.accelerator cpu
--trainer.max_epochs 2
--data.image_size 16
--data.batch_size 8
--data.val_fraction 0.25
--data.augment.translate 1
--model.stem_layers 2
--model.width 8
--model.depth 1
--model.heads 1
--model.warmup_steps 1
""".split()
FALLING = (partial(validate_as, every=1), 0.6, 0.8)  # balanced accuracy is 0.4, then 0.2


def run(tmp_path, dogs: int, *flags, prepare=(), **test):
    """Train on 12 cats and some dogs, of which a quarter are held out; return output and run."""
    root = class_folders(tmp_path / "images", ("cat",), (16, 16), train=12, **test)
    class_folders(root, ("dog",), (16, 16), train=dogs, **test)
    ended = train(*FLAGS, "--data.root", root, "--runs", tmp_path, *flags, prepare=prepare)
    assert ended.code == 0, ended
    return ended.out, tmp_path / "folder" / "version_0"


def test_balanced_accuracy_selects_the_best_with_class_imbalance(tmp_path):
    out, folder = run(tmp_path, 4, prepare=FALLING)
    assert "note: class imbalance (training images: cat 9, dog 3); best.ckpt is selected by" in out
    assert "--data.balance " in out
    assert "val_balanced_accuracy 0.4000" in out
    assert load(folder / "checkpoints" / "best.ckpt")["epoch"] == 0


def test_accuracy_selects_the_best_up_to_a_factor_of_two(tmp_path):
    out, folder = run(tmp_path, 7, prepare=FALLING)  # 9 cats and 5 dogs for training
    assert "imbalance" not in out
    assert "balanced" not in out
    assert load(folder / "checkpoints" / "best.ckpt")["epoch"] == 1


@pytest.mark.parametrize("balance", ["sampler", "loss_sqrt"])
def test_scores_of_each_class(balance, tmp_path):
    out, folder = run(tmp_path, 4, "--data.balance", balance, test=3)
    assert f"data.balance is {balance}" in out
    results = json.loads((folder / "results.json").read_text())
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for found in results["classes"]:
        images = [row for row in rows if row["true"] == found["class"]]
        hits = [row for row in images if row["predicted"] == row["true"]]
        assert found["images"] == len(images) == 3
        assert found["recall"] == pytest.approx(len(hits) / 3, abs=1e-6)
        assert f"{found['class']}  recall {found['recall']:.4f}" in out
    recalls = [found["recall"] for found in results["classes"]]
    assert results["test_balanced_accuracy"] == pytest.approx(sum(recalls) / 2, abs=1e-6)
    assert rows[0]["image"] == str(tmp_path / "images" / "test" / "cat" / "0.png")


def test_without_test_images_the_scores_are_those_of_the_best_validation(tmp_path):
    _, folder = run(tmp_path, 4)
    results = json.loads((folder / "results.json").read_text())
    assert [row["images"] for row in results["classes"]] == [3, 1]
    recalls = [row["recall"] for row in results["classes"]]
    assert results["val_balanced_accuracy"] == pytest.approx(sum(recalls) / 2, abs=1e-6)
    assert not (folder / "predictions.csv").exists()
