"""A mistake in what the user gave train.py: one clear line on standard error, exit code 2, and nothing left behind."""

import re

import pytest
from program import ROOT, call, started

from train import main

PLAIN = "--model.stem_layers 0"  # patches, where the digits have a stem
MISTAKES = {
    # keys that do not exist
    "--model.widht 3": "model.widht: unknown key, did you mean model.width?",
    "--data.batchsize 3": "data.batchsize: unknown key, did you mean data.batch_size?",
    "--model CNN --data.patch_size null --model.freeze encoder": "model.freeze: CNN has no such key",
    "--modle.depth 3": "modle.depth: unknown key, did you mean model.depth?",
    "--trainer.max_epoch 3": "trainer.max_epoch: unknown key, did you mean trainer.max_epochs?",
    "--data.augment.rotat 3": "data.augment.rotat: unknown key, did you mean data.augment.rotate?",
    "--resum": "resum: unknown key, did you mean resume?",
    "--nonsense": "nonsense: unknown key",
    "nonsense": "unrecognized arguments: nonsense",
    # values of the wrong type, or that do not exist
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
    "--model Perceptron": "model: Perceptron is unknown; choose one of ViT, CNN",
    "--model src.nothing.Net": "model: src.nothing.Net is unknown; choose one of ViT, CNN",
    "--data Birds": "data: Birds is unknown; choose one of DigitsDataModule, MNISTDataModule",
    "--config nowhere.yaml": "nowhere.yaml: there is no such config; choose one of configs/",
    # values that are out of range, or do not fit each other
    f"{PLAIN} --data.patch_size 3": "patch_size 3 does not divide the image size 8x8; choose one of 1, 2, 4, 8",
    "--model.stem_layers 0": "patch_size null and stem_layers 0",
    "--data.patch_size 2": "patch_size 2 and stem_layers 1: .*--data.patch_size null",
    "--model.heads 3": "heads 3 does not divide width 64",
    "--model.lr -1": "model.lr -1.0",
    "--model.min_lr 1": "model.min_lr 1.0",
    "--model.label_smoothing 1": "model.label_smoothing 1.0",
    "--model CNN --data.patch_size 2": "a CNN reads whole images",
    "--model CNN --model.dropout 2": "dropout",
    "--data.val_fraction 1": "data.val_fraction 1.0",
    "--data.batch_size 0": "data.batch_size 0",
    "--data.augment.translate -1": "data.augment.translate must be between",
    "--data.augment.translate 8": "data.augment.translate 8: images of 8 pixels can be moved by 7 at most; use less",
    "--data.augment strong": "data.augment.*strong",
    "--data.augment.policy=": "data.augment.policy: .*'none', 'randaugment', 'trivialaugment'",
    "--data.augment null": "data.augment null: give a value, or leave it out; see python train.py --help",
    "--model.weight_decay -1": "error: model.weight_decay -1.0: use 0 or more",
    "--model.weight_decay 1e30": "model.lr 0.01 times model.weight_decay 1e.30 must stay below 1",
    "--model.depth 100000000": "width 64, depth 100000000 and mlp_ratio 4 make 4.9e.12 parameters; use smaller ones",
    "--model.width 1000000": "width 1000000, depth ",
    "--model.mlp_ratio 1e9": "mlp_ratio 1e.09 make ",
    "--model.mlp_ratio nan": "model.mlp_ratio: .*float.* nan",
    "--model.mlp_ratio inf": "model.mlp_ratio: .*float.* inf",
    "--model.mlp_ratio .nan": "mlp_ratio nan gives no number of hidden units",
    "--model.mlp_ratio .inf": "mlp_ratio inf gives no number of hidden units",
    "--model.ensemble 1000000000": "model.ensemble 1000000000: 2.",
    "--model.ensemble null": "error: model.ensemble null: give a value",
    "--model.dropout null": "error: model.dropout null: give a value",
    "--data.batch_size null": "error: data.batch_size null: give a value",
    "--model.ensemble 3 --data.batch_size 2": "model.ensemble 3: data.batch_size 2 has no image for every network; use",
    "--model.ensemble 0": "model.ensemble 0: use 1",
    "--model.stem_width 8": "stem_width 8: is for two layers or more",
    "--model.stem_layers 0 --model.whiten true": "whiten true: is for a convolutional stem",
    "--model.stem_layers 2 --model.stem_width 65": "stem_width 65: .*from 1 to the width 64",
    "--model.warmup_steps -1": "model.warmup_steps -1: use 0 or more",
    "--model.stem_layers -1 --data.patch_size null": "stem_layers -1: use 0",
    "--trainer.max_epochs 0": "trainer.max_epochs 0: use a number, 1 or more",
    "--trainer.limit_train_batches 0": "trainer.limit_train_batches 0: trains nothing; use 1 or more, or leave it out",
    "--trainer.accumulate_grad_batches 0": "trainer.accumulate_grad_batches 0",
    "--trainer.check_val_every_n_epoch 0": "trainer.check_val_every_n_epoch 0",
    "--trainer.gradient_clip_val -1": "trainer.gradient_clip_val -1",
    "--patience -1": "patience -1",
    "--patience 2 --data.val_fraction 0": "patience 2: there are no validation images",
    "--resume configs/digits.yaml": "configs/digits.yaml: not a checkpoint; give --resume a run",
    "--checkpoint_every_n_steps 0": "checkpoint_every_n_steps 0",
    "--seed_everything -1": "seed_everything -1",
    "--seed_everything true": "seed_everything.* True",
    "--data.seed 5": "data.seed: follows from the seed of all that is random; use --seed_everything",
    "--name a/b": "--name a/b: a name is one folder",
    "--name=": "--name : a name is one folder",
    "--resume=": "--resume '': not a valid path; leave it out for the newest run of the name",
    "--name": "--name: expected one argument",
    # datasets, weights and runs that are not there
    "--data MNISTDataModule --data.root NOWHERE": "nowhere/MNIST/raw/ nor in ",
    "--data CIFAR10DataModule --data.root NOWHERE": "configs/digits.yaml, which needs no download",
    "--data FolderDataModule --data.root NOWHERE": "nowhere/train: there is no such folder",
    "--model.init_from nowhere.pth": "nowhere.pth: no such file",
    "--resume": "no run named 'digits' has a checkpoint",
    "--resume NOWHERE": "there is no such checkpoint to resume from",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(tmp_path, offline, monkeypatch, mistake):
    monkeypatch.chdir(ROOT)
    config = [] if "--config" in mistake else ["--config", "configs/digits.yaml"]
    args = mistake.replace("NOWHERE", str(tmp_path / "nowhere")).split()
    ended = call(main, *config, "--runs", tmp_path / "runs", "--trainer.accelerator", "cpu", *args)
    assert ended.out == "" and re.search(MISTAKES[mistake], ended.error), ended
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["model: [", "- a list", "just text", "model:\n  widht: 3", "\0"])
def test_a_config_that_is_none_is_one_line(tmp_path, text):
    (tmp_path / "broken.yaml").write_text(text)
    ended = call(main, "--config", tmp_path / "broken.yaml", "--runs", tmp_path / "runs")
    assert ended.out == "" and ended.error
    assert [path.name for path in tmp_path.iterdir()] == ["broken.yaml"]


def test_a_resumed_run_keeps_its_config_when_the_new_settings_are_wrong(digits_run):
    before = {path: path.read_bytes() for path in digits_run.rglob("*") if path.is_file()}
    for wrong in (
        ["--trainer.accelerator", "toaster"],
        ["--model.depth", "3"],
        ["--trainer.devices", "0"],
    ):
        assert wrong[1] in call(main, "--resume", digits_run, *wrong).error
    assert {path: path.read_bytes() for path in digits_run.rglob("*") if path.is_file()} == before


def test_the_program_itself_ends_with_code_2_and_one_line(tmp_path):
    flags = [*PLAIN.split(), "--data.patch_size", 3, "--runs", tmp_path]
    ended = started("train.py", "--config", "configs/digits.yaml", *flags)
    assert ended == (
        2,
        "",
        "error: patch_size 3 does not divide the image size 8x8; choose one of 1, 2, 4, 8\n",
    )
    assert not list(tmp_path.iterdir())
