"""Test that tutorial configs match the published architectures, and test fine-tuning."""

from dataclasses import replace

import pytest
import torch
import yaml
from program import ROOT, run
from vits import dataset

from src.data.datasets import DATASETS
from src.runs.checkpoint import Checkpoint
from src.training.classifier import CNN, ViT

IMAGENET = dataset(image_size=224, patch_size=16, classes=1000)


def settings(config: str) -> dict:
    return yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text())


def network(config: str):
    """Build the network that a config describes, on the meta device."""
    tree = settings(config)
    model = tree["model"]
    data = tree["data"]
    name = data["class_path"].removesuffix("DataModule").lower()
    patch_size = data["init_args"]["patch_size"]
    images = replace(DATASETS[name], patch_size=patch_size) if name in DATASETS else IMAGENET
    arguments = model["init_args"] | {"compile": False}
    arguments.pop("init_from", None)
    with torch.device("meta"):
        return {"ViT": ViT, "CNN": CNN}[model["class_path"]](images, **arguments).net


@pytest.mark.parametrize(
    ("config", "depth", "width", "heads", "hidden"),
    [
        ("mnist_patch7", 4, 96, 4, 384),
        ("mnist_tiny", 3, 64, 4, 2048),
        ("cifar10_tutorial", 6, 512, 8, 2048),
        ("cifar10_tutorial_cpu", 4, 512, 8, 2048),
        ("cifar100", 6, 256, 8, 512),
        ("vit_b16", 12, 768, 12, 3072),
    ],
)
def test_vits(config, depth, width, heads, hidden):
    vit = network(config)
    assert len(vit.blocks) == depth
    assert vit.head.in_features == width
    assert vit.blocks[0].attention.heads == heads
    assert vit.blocks[0].mlp[0].out_features == hidden


def test_finetuning_starts_from_a_run_and_can_freeze_the_encoder(digits_run, tmp_path):
    start = ["--model.init_from", digits_run, "--model.freeze", "encoder"]
    tuned = run(tmp_path, *start, "--model.ema_decay", 0)
    before = Checkpoint.open(digits_run / "checkpoints" / "best.ckpt")
    after = Checkpoint.open(tuned / "checkpoints" / "last.ckpt")
    assert before.averaged
    for key, value in after.weights.items():
        assert torch.equal(value, before.weights[key]) != key.startswith("head."), key
