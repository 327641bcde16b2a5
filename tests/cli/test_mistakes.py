"""Test that train.py rejects invalid input in one line, with exit code 2, and writes no files."""

import re

import pytest
from program import ROOT, call, train

from train import main

PATCHES = "--model.stem_layers 0"  # a plain ViT instead of the stem in configs/digits.yaml
MISTAKES = {
    # Unknown keys
    "--model.widht 3": "model.widht: unknown key, did you mean model.width?",
    "--data.batchsize 3": "data.batchsize: unknown key, did you mean data.batch_size?",
    "--model CNN --data.patch_size null --model.freeze encoder": "model.freeze: CNN has no",
    "--modle.depth 3": "modle.depth: unknown key, did you mean model.depth?",
    "--trainer.max_epoch 3": "trainer.max_epoch: unknown key, did you mean trainer.max_epochs?",
    "--data.augment.rotat 3": "data.augment.rotat: unknown key, did you mean data.augment.rotate?",
    "--resum": "resum: unknown key, did you mean resume?",
    "--nonsense": "nonsense: unknown key",
    "nonsense": "unrecognized arguments: nonsense",
    # Values of the wrong type and unknown choices
    "--model.depth two": "model.depth: .*int.* two",
    "--model.lr fast": "model.lr: .*float.* fast",
    "--trainer.max_epochs many": "trainer.max_epochs: .*int.* many",
    "--data.augment.rotate far": "data.augment.rotate: .*float.* far",
    "--model.pool max": "model.pool: .*'cls', 'mean', 'sequence'.* max",
    "--trainer.precision half": "trainer.precision: .*bf16-mixed.* half",
    "--trainer.accelerator toaster": "toaster",
    "--trainer.strategy nonsense": "nonsense",
    "--trainer.callbacks nonsense": "trainer.callbacks",
    "--trainer.max_time soon": "soon",
    "--model Perceptron": "model: unknown class Perceptron; choose one of ViT, CNN",
    "--model src.nothing.Net": "model: unknown class src.nothing.Net; choose one of ViT, CNN",
    "--data Birds": "data: unknown class Birds; choose one of DigitsDataModule, MNISTDataModule",
    "--config nowhere.yaml": "nowhere.yaml: no such config; choose one of configs/",
    "--data.augment strong": "data.augment.*strong",
    "--data.augment.policy=": "data.augment.policy: .*'none', 'randaugment', 'trivialaugment'",
    "--model.mlp_ratio nan": "model.mlp_ratio: .*float.* nan",
    "--model.mlp_ratio inf": "model.mlp_ratio: .*float.* inf",
    "--seed_everything true": "seed_everything.* True",
    "--name": "--name: expected one argument",
    # Null values
    "--data.augment null": "data.augment must not be null; set a value or omit it; see --help",
    "--model.ensemble null": "error: model.ensemble must not be null; set a value",
    "--model.dropout null": "error: model.dropout must not be null; set a value",
    "--data.batch_size null": "error: data.batch_size must not be null; set a value",
    # Out-of-range values
    "--model.lr -1": "model.lr must be above 0, got -1.0",
    "--model.min_lr 1": "model.min_lr must be from 0 to lr 0.01, got 1.0",
    "--model.label_smoothing 1": "model.label_smoothing must be at least 0 and below 1, got 1.0",
    "--model CNN --model.dropout 2": "model.dropout must be at least 0 and below 1, got 2.0",
    "--model.weight_decay -1": "model.weight_decay must be at least 0, got -1.0",
    "--model.mlp_ratio .nan": "mlp_ratio nan gives no hidden units; use a value above 0",
    "--model.mlp_ratio .inf": "mlp_ratio inf gives no hidden units; use a value above 0",
    "--model.depth 100000000": "model.depth 100000000 and .* give 4.9e.12 parameters; the limit is",
    "--model.width 1000000": "model.width 1000000, .* give 4.8e.13 parameters",
    "--model.mlp_ratio 1e9": "model.mlp_ratio 1e.09 give 3.3e.13 parameters",
    "--model.ensemble 1000000000": "model.ensemble 1000000000 would have 2.4e.14 parameters",
    "--model.ensemble 0": "model.ensemble must be at least 1, got 0",
    "--model.warmup_steps -1": "model.warmup_steps must be at least 0, got -1",
    "--model.stem_layers -1 --data.patch_size null": "model.stem_layers must be at least 0, got -1",
    "--data.val_fraction 1": "data.val_fraction must be at least 0 and below 1, got 1.0",
    "--data.batch_size 0": "data.batch_size must be at least 1, got 0",
    "--data.augment.translate -1": "data.augment.translate must be between",
    "--trainer.max_epochs 0": "trainer.max_epochs must be a number >= 1, got 0",
    "--trainer.limit_train_batches 0": "trainer.limit_train_batches must be above 0, got 0",
    "--trainer.accumulate_grad_batches 0": "accumulate_grad_batches must be a number >= 1, got 0",
    "--trainer.check_val_every_n_epoch 0": "check_val_every_n_epoch must be a number >= 1, got 0",
    "--trainer.gradient_clip_val -1": "gradient_clip_val must be a number >= 0, got -1",
    "--trainer.max_steps 5": "max_steps is not supported, .* use trainer.max_epochs",
    "--patience -1": "patience must be a number >= 1, got -1",
    "--checkpoint_every_n_steps 0": "checkpoint_every_n_steps must be a number >= 1, got 0",
    "--seed_everything -1": "seed_everything must be a number >= 0, got -1",
    "--data.seed 5": "data.seed is set from the run's seed; use --seed_everything",
    "--name a/b": "--name a/b: not a valid folder name",
    "--name=": "--name : not a valid folder name",
    "--resume=": "--resume '': empty path; omit it to resume the newest run",
    # Values that contradict each other
    f"{PATCHES} --data.patch_size 3": "patch_size 3 does not divide the image size 8x8; choose one",
    PATCHES: "data.patch_size null and model.stem_layers 0: a plain ViT reads patches",
    "--data.patch_size 2": "patch_size 2 and model.stem_layers 1: .*--data.patch_size null",
    "--model.heads 3": "model.heads 3 does not divide model.width 64",
    "--model CNN --data.patch_size 2": "a CNN reads whole images",
    "--data.augment.translate 8": "data.augment.translate must be below the image size 8, got 8",
    "--model.weight_decay 1e30": "model.lr 0.01 times model.weight_decay 1e.30 must be below 1",
    "--model.ensemble 3 --data.batch_size 2": "at least one image per network, but data.batch_size",
    "--model.ensemble 2 --model.freeze encoder": "init_from and model.freeze need a single",
    "--model.ensemble 2 --model.init_from x.pth": "init_from and model.freeze need a single",
    "--model.stem_width 8": "model.stem_width 8 needs at least two stem_layers",
    f"{PATCHES} --model.whiten true": "model.whiten needs a convolutional stem",
    "--model.stem_layers 2 --model.stem_width 65": "stem_width 65 .* from 1 to the width 64",
    "--patience 2 --data.val_fraction 0": "patience 2: early stopping needs validation images",
    # Missing datasets, weights and runs
    "--data MNISTDataModule --data.root NOWHERE": "nowhere/MNIST/raw/ or ",
    "--data CIFAR10DataModule --data.root NOWHERE": "configs/digits.yaml, which needs no download",
    "--data FolderDataModule --data.root NOWHERE": "nowhere/train: no such folder",
    "--model.init_from nowhere.pth": "nowhere.pth: no such file",
    "--resume": "no run named 'digits' has a checkpoint",
    "--resume NOWHERE": "nowhere: no such checkpoint; check the path given to --resume",
    "--resume configs/digits.yaml": "configs/digits.yaml: not a checkpoint; pass a run directory",
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


@pytest.mark.parametrize("text", ["model: [", "- a list", "just text", "model:\n  widht: 3", "\0"])
def test_a_broken_config_is_one_line(tmp_path, text):
    config = tmp_path / "broken.yaml"
    config.write_text(text)
    ended = call(main, "--config", config, "--runs", tmp_path / "runs")
    assert ended.out == ""
    assert ended.error
    assert list(tmp_path.iterdir()) == [config]


def test_a_resumed_run_keeps_its_files_when_the_new_settings_are_wrong(digits_run):
    before = contents(digits_run)
    for flag, value in (
        ("--trainer.accelerator", "toaster"),
        ("--model.depth", "3"),
        ("--trainer.devices", "0"),
    ):
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
