"""Every config parses, says what its keys mean and how to run it, and gives a model that takes a batch of its data."""

import json
import re

import pytest
import torch
import yaml
from batches import random_images, trainer
from photos import class_folders
from program import ROOT, train

from src.cli.parser import parse
from src.data.datasets import DATASETS
from src.models.vit import SIZES

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
GROUPS = ("model", "data", "trainer")


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request):
    return request.param


def test_there_are_the_configs_that_were_promised():
    promised = {"digits", "mnist", "mnist_best", "fashion_mnist", "cifar100", "folder"}
    promised |= {"cifar10", "cifar10_cpu", "cifar10_best", "cifar10_fast"}
    assert promised <= {path.stem for path in CONFIGS}


def test_its_header_says_what_it_is_and_how_to_run_it(config):
    header = re.match(r"(#.*\n)+", config.read_text())
    assert header, "a config begins with a comment"
    lines = [line.lstrip("# ") for line in header[0].splitlines()]
    assert len(lines[0]) > 20
    commands = [line for line in lines if line.startswith("python train.py --config")]
    assert commands and all(line.split()[3] == f"configs/{config.name}" for line in commands)


def test_every_key_has_a_comment_on_its_line(config):
    bare = [
        line
        for line in config.read_text().splitlines()
        if (key := re.match(r"\s+([\w.]+): *[^# ]", line))
        and key[1] != "class_path"
        and " # " not in line
    ]
    assert not bare, f"{config.name}: {bare}"


def test_it_has_no_key_twice_and_nothing_but_the_known_groups(config):
    keys = yaml.safe_load(config.read_text())
    assert (
        set(GROUPS)
        <= set(keys)
        <= {*GROUPS, "patience", "seed_everything", "checkpoint_every_n_steps"}
    )
    path, seen = [], set()
    for line in config.read_text().splitlines():
        if match := re.match(r"( *)([\w.]+):", line):
            path = path[: len(match[1]) // 2] + [match[2]]
            assert tuple(path) not in seen, f"{config.name}: {'.'.join(path)} is there twice"
            seen.add(tuple(path))


def test_its_model_takes_a_batch_of_its_data(config, tmp_path):
    keys = yaml.safe_load(config.read_text())
    flags = ["--config", str(config), "--data.root", str(tmp_path), "--model.compile", "false"]
    if keys["data"]["class_path"] == "FolderDataModule":
        class_folders(tmp_path, ("cat", "dog", "owl"), (32, 32), train=0)
    model = keys["model"]["init_args"]
    if "init_from" in model:
        flags += ["--model.init_from", "null"]
    if SIZES.get(model.get("size"), {"width": 0})["width"] > 512:
        flags += ["--model.depth", "1"]  # all blocks of a ViT-B would take half a gigabyte
    settings = parse(flags)
    data, net, info = settings.data, settings.model.net.eval(), settings.data.info
    data.trainer = trainer()
    images = random_images(2, info.channels, info.image_size, info.image_size)
    inputs, _ = data.on_after_batch_transfer((images, torch.tensor([0, 1])), 0)
    with torch.inference_mode():
        logits = net(inputs)
    assert logits.shape == (2, len(info.classes)) and logits.isfinite().all()
    assert settings.model.hparams["dataset"] == data.description
    assert settings.name == config.stem
    if config.stem in ("cifar10", "cifar10_best", "cifar10_fast", "cifar10_cpu"):
        assert sum(p.numel() for p in net.parameters()) <= 10_000_000
    assert not [path for path in tmp_path.iterdir() if path.name != "train"]


@pytest.mark.parametrize("name", ["cifar10", "cifar10_cpu"])
def test_cifar10_recipes_take_a_few_steps(name, tmp_path):
    """Whole and unchanged but for the length, the batch and the compilation, from images to classified tests."""
    class_folders(tmp_path / "cifar10", DATASETS["cifar10"].classes, (32, 32), train=2, test=1)
    flags = [
        "--data.root",
        tmp_path,
        "--runs",
        tmp_path / "runs",
        "--trainer.max_epochs",
        1,
        "--data.batch_size",
        5,
    ]
    flags += [
        "--model.compile",
        "false",
        "--trainer.accelerator",
        "cpu",
        "--data.val_fraction",
        0.5,
    ]
    ended = train("--config", f"configs/{name}.yaml", *flags)
    assert ended.code == 0, ended
    results = json.loads((tmp_path / "runs" / name / "version_0" / "results.json").read_text())
    assert (
        results["images_seen"] == 10
        and results["test_images"] == 10
        and 0 < results["test_loss"] < 10
    )
