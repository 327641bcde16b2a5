"""Test that every config is complete, has comments, parses, and builds a model for its data."""

import dataclasses
import re

import pytest
import torch
import yaml
from batches import random_images, trainer
from photos import class_folders
from program import ROOT, train

from src.cli.parser import parse
from src.data.datasets import DATASETS
from src.runs.results import read_results
from src.runs.weights_file import BUNDLED
from src.transforms.augment import Augmentation

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
NETWORK = {"pool", "width", "depth", "heads", "mlp_ratio"}
OPTIMIZER = {"optimizer", "lr", "min_lr", "weight_decay", "beta2"}
DATA = {"patch_size", "batch_size", "val_fraction", "augment"}
TRAINER = {"max_epochs", "gradient_clip_val"}
MEASURED = ("Test accuracy 0.", "Not measured yet.", "Accuracy and time")


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda path: path.stem)
def config(request):
    return request.param


@pytest.fixture(scope="module")
def text(config):
    return config.read_text()


@pytest.fixture(scope="module")
def tree(text):
    return yaml.safe_load(text)


@pytest.fixture(scope="module")
def settings(config, tree, tmp_path_factory):
    """Parsed config, with ViT-B reduced to one block and without weights that need training."""
    root = tmp_path_factory.mktemp("data")
    flags = f"--config {config} --data.root {root} --model.compile false".split()
    if tree["data"]["class_path"] == "FolderDataModule":
        class_folders(root, ("cat", "dog", "owl"), (32, 32), train=0)
    model = tree["model"]["init_args"]
    if "init_from" in model and model["init_from"] not in BUNDLED:
        flags += ["--model.init_from", "null"]
    if "size" in model:
        flags += ["--model.depth", "1"]
    return parse(flags)


def test_header_says_what_it_is_how_to_run_it_and_what_it_reaches(config, text):
    header = re.match(r"(#.*\n)+", text)
    assert header, "a config must start with a comment"
    lines = [line.lstrip("# ") for line in header[0].splitlines()]
    command = f"python train.py --config configs/{config.name}"
    assert len(lines[0]) > 20
    assert any(line.startswith(command) for line in lines)
    assert any(line.startswith(MEASURED) for line in lines)


def test_every_key_has_a_comment(text):
    values = re.findall(r"^ +(?!class_path)\w+: *[^#\s].*", text, re.MULTILINE)
    assert values
    assert not [line for line in values if " # " not in line]


def test_no_key_stands_twice(text, tree):
    """If a key is repeated, YAML silently keeps the last value."""
    assert len(re.findall(r"^ *\w+:", text, re.MULTILINE)) == count(tree)


def count(tree) -> int:
    if not isinstance(tree, dict):
        return 0
    return sum(1 + count(value) for value in tree.values())


def test_recipe_does_not_depend_on_defaults(tree, settings):
    """A config must define the same training run even if a default changes later."""
    model = tree["model"]["init_args"]
    data = tree["data"]["init_args"]
    assert OPTIMIZER <= model.keys()
    assert "warmup_epochs" in model or "warmup_steps" in model
    takes_shape = "size" in model or model.get("init_from") in BUNDLED
    if tree["model"]["class_path"] == "ViT" and not takes_shape:
        assert NETWORK <= model.keys()
    assert DATA <= data.keys()
    assert TRAINER <= tree["trainer"].keys()
    for field in dataclasses.fields(Augmentation):
        value = getattr(settings.data.augmentation, field.name)
        assert value == field.default or field.name in data["augment"], field.name


def test_model_takes_a_batch_of_the_data(config, settings):
    data = settings.data
    net = settings.model.net.eval()
    side = data.info.image_size
    images = random_images(2, data.info.channels, side, side)
    labels = torch.tensor([0, 1])
    data.trainer = trainer()
    inputs, _ = data.on_after_batch_transfer((images, labels), 0)
    with torch.inference_mode():
        logits = net(inputs)
    assert logits.shape == (2, len(data.info.classes))
    assert logits.isfinite().all()
    written = [path.name for path in data.root.iterdir()]
    assert written in ([], ["train"])
    if config.stem in ("cifar10", "cifar10_best", "cifar10_fast", "cifar10_cpu"):
        parameters = [p.numel() for p in net.parameters()]
        assert sum(parameters) <= 10_000_000


@pytest.mark.parametrize("name", ["cifar10", "cifar10_cpu"])
def test_cifar10_recipe_trains_and_tests(name, tmp_path):
    """Train a single block for a short epoch with small batches; otherwise as in the recipe."""
    classes = DATASETS["cifar10"].classes
    class_folders(tmp_path / "cifar10", classes, (32, 32), train=2, test=1)
    runs = tmp_path / "runs"
    flags = f"""
        --config configs/{name}.yaml --data.root {tmp_path} --runs {runs} --trainer.max_epochs 1
        --data.batch_size 5 --data.val_fraction 0.5 --model.compile false --trainer.accelerator cpu
        --model.depth 1 --pictures false
    """
    ended = train(*flags.split())
    assert ended.code == 0, ended
    results = read_results(runs / name / "version_0")
    assert results["images_seen"] == 10
    assert results["test_images"] == 10
    assert 0 < results["test_loss"] < 10
