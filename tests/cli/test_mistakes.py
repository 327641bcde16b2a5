"""Test that train.py rejects invalid input in one line, with exit code 2, and writes no files."""

import re
import shutil

import pytest
from program import ROOT, call, train

from src.cli.parser import parse
from train import main

PATCHES = "--model.stem_layers 0"  # a plain ViT instead of the stem in configs/digits.yaml
MISTAKES = {
    # Unknown keys
    "--model.widht 3": "model.widht: unknown key, did you mean model.width?",
    "--model CNN --data.patch_size null --model.freeze encoder": "model.freeze: not a key",
    "--trainer.max_epoch 3": "trainer.max_epoch: unknown key, did you mean trainer.max_epochs?",
    "--data.augment.rotat 3": "data.augment.rotat: unknown key, did you mean data.augment.rotate?",
    "--lr 1": "lr: unknown key, did you mean model.lr?",
    "--modle.class_path ViT": "modle.class_path: unknown key, did you mean model.class_path?",
    "--trainer.patience 3": "trainer.patience: unknown key, did you mean patience?",
    "--nonsense": "nonsense: unknown key",
    "nonsense": "unrecognized arguments: nonsense",
    # Values of the wrong type and unknown choices
    "--model.depth two": "model.depth: .*int.* two",
    "--trainer.max_epochs many": "trainer.max_epochs: .*int.* many",
    "--model.pool first": "model.pool: .*'cls', 'mean', 'max', 'sequence'.* first",
    "--trainer.precision half": "trainer.precision: .*bf16-mixed.* half",
    "--trainer.accelerator toaster": "toaster",
    "--trainer.callbacks nonsense": "trainer.callbacks",
    "--trainer.max_time soon": "soon",
    "--model Perceptron": "model: unknown class Perceptron; choose one of ViT, CNN",
    "--data Birds": "data: unknown class Birds; choose one of DigitsDataModule, MNISTDataModule",
    "--config nowhere.yaml": "nowhere.yaml: no such config; choose one of configs/",
    "--data.augment strong": "data.augment.*strong",
    "--seed_everything true": "seed_everything.* True",
    "--name": "--name: expected one argument",
    # Null values
    "--data.augment null": "data.augment must not be null; set a value or omit it; see --help",
    "--model.dropout null": "error: model.dropout must not be null; set a value",
    # Out-of-range values
    "--model.lr -1": "model.lr must be above 0 and finite, got -1.0",
    "--model.min_lr 1": "model.min_lr must be from 0 to lr 0.01, got 1.0",
    "--model.label_smoothing 1": "model.label_smoothing must be at least 0 and below 1, got 1.0",
    "--model.mlp_ratio .nan": "mlp_ratio nan must be finite and give",
    "--model.depth 100000000": "model.depth 100000000 and .* give 4.9e.12 parameters; the limit is",
    "--model.ensemble 1000000000": "model.ensemble 1000000000 would have 2.4e.14 parameters",
    "--model.ensemble 0": "model.ensemble must be at least 1, got 0",
    "--model.stem_layers -1 --data.patch_size null": "model.stem_layers must be at least 0, got -1",
    "--data.val_fraction 1": "data.val_fraction must be at least 0 and below 1, got 1.0",
    "--data.batch_size 0": "data.batch_size must be at least 1, got 0",
    "--data.augment.translate -1": "data.augment.translate must be between",
    "--data.augment.border white": "data.augment.border: .*black.*symmetric",
    "--model.lr_decay step": "model.lr_decay: .*cosine.*linear",
    "--trainer.max_epochs 0": "trainer.max_epochs must be a number >= 1, got 0",
    "--trainer.max_epochs null": "trainer.max_epochs must be a number >= 1, got None",
    "--model.depth abc": "model.depth: expected int, null, got abc",
    "--trainer.limit_train_batches 0": "trainer.limit_train_batches must be above 0, got 0",
    "--seed_everything -1": "seed_everything must be a number >= 0, got -1",
    "--seed_everything 4294967296": "seed_everything must be below 2..32, got 4294967296",
    "--name a/b": "a/b: not a valid run name; set --name to",
    "--name checkpoints": "checkpoints: reserved for the files of a run",
    "--name a.ckpt": "a.ckpt: reserved for the files of a run",
    # Values that contradict each other
    f"{PATCHES} --data.patch_size 3": "patch_size 3 does not divide the image size 8x8; choose one",
    PATCHES: "data.patch_size null and model.stem_layers 0: a plain ViT reads patches",
    "--data.patch_size 2": "patch_size 2 and model.stem_layers 1: .*--data.patch_size null",
    "--model.heads 3": "model.heads 3 does not divide model.width 64; choose one",
    "--model CNN --data.patch_size 2": "a CNN reads whole images",
    "--data.augment.translate 8": "data.augment.translate must be below the image size 8, got 8",
    "--model.ensemble 3 --data.batch_size 2": "at least one image per network, but data.batch_size",
    "--model.ensemble 2 --model.freeze encoder": "init_from and model.freeze need a single",
    "--model.stem_width 8": "model.stem_width 8 needs at least two stem_layers",
    f"{PATCHES} --model.whiten true": "model.whiten needs a convolutional stem",
    f"{PATCHES} --model.whiten_pad false": "has no effect without model.whiten",
    f"{PATCHES} --model.constant_norm true": "model.constant_norm needs a convolutional stem",
    "--model.constant_norm true --model.optimizer adamw": "set model.optimizer muon",
    "--model CNN --model.optimizer muon --model.constant_norm true": "the stem of a ViT",
    "--patience 2 --data.val_fraction 0": "patience 2: early stopping needs validation images",
    # Missing datasets, weights and runs
    "--data CIFAR10DataModule --data.root NOWHERE": "configs/digits.yaml, which needs no download",
    "--data FolderDataModule --data.root NOWHERE": "nowhere/train: no such folder",
    "--model.init_from nowhere.pth": "nowhere.pth: no such file",
    "--resume": "/digits: no run with a checkpoint found; start one without --resume",
    "--resume NOWHERE": "nowhere: no run with a checkpoint found",
    "--resume configs/digits.yaml": "configs/digits.yaml: no run with a checkpoint found",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_files(tmp_path, offline, monkeypatch, mistake):
    monkeypatch.chdir(ROOT)
    args = mistake.replace("NOWHERE", str(tmp_path / "nowhere")).split()
    if "--config" not in args:
        args += ["--config", "configs/digits.yaml"]
    runs = tmp_path / "runs"
    ended = call(main, "--trainer.accelerator", "cpu", "--runs", runs, *args)
    assert ended.out == ""
    assert re.search(MISTAKES[mistake], ended.error), ended
    assert not runs.exists()


@pytest.mark.parametrize("text", ["model: [", "- a list", "model:\n  widht: 3", "\0", "name: 5"])
def test_a_broken_config_is_one_line(tmp_path, text):
    config = tmp_path / "broken.yaml"
    config.write_text(text)
    ended = call(main, "--config", config, "--runs", tmp_path / "runs")
    assert ended.out == ""
    assert ended.error
    assert list(tmp_path.iterdir()) == [config]


def test_a_config_that_is_missing_on_resume_is_one_line(digits_run, tmp_path):
    copy = tmp_path / "digits" / "version_0"
    shutil.copytree(digits_run, copy)
    (copy / "config.yaml").unlink()
    ended = call(main, "--resume", copy)
    assert f"{copy}/config.yaml: cannot be read (No such file or directory)" in ended.error


def test_a_config_can_name_the_folder_of_runs(tmp_path):
    config = tmp_path / "short.yaml"
    digits = (ROOT / "configs" / "digits.yaml").read_text()
    config.write_text(f"{digits}runs: {tmp_path / 'elsewhere'}\n")
    assert parse(["--config", str(config)]).runs == tmp_path / "elsewhere"


def test_a_resumed_run_keeps_its_files_when_the_new_settings_are_wrong(digits_run):
    before = contents(digits_run)
    for flag, value in (("--trainer.accelerator", "toaster"), ("--model.depth", "3")):
        assert value in call(main, "--resume", digits_run, flag, value).error
    assert contents(digits_run) == before


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_program_exits_with_code_2_and_one_line(tmp_path):
    flags = [*PATCHES.split(), "--data.patch_size", 3, "--runs", tmp_path]
    ended = train("--config", "configs/digits.yaml", *flags)
    line = "data.patch_size 3 does not divide the image size 8x8; choose one of 1, 2, 4, 8"
    assert ended == (2, "", f"error: {line}\n")
    assert not list(tmp_path.iterdir())
