"""Fixture that saves checkpoints of small networks with random weights."""

from dataclasses import replace

import pytest
from vits import TEMPERATURE, randomize, save_module

from src.data.datasets import DATASETS
from src.training.classifier import CNN, ViT


@pytest.fixture
def save_checkpoint(tmp_path):
    """Return a function that writes best.ckpt and returns its path and the network.

    The temperature is `TEMPERATURE`.

    Args of the returned function:
        options: ViT settings; None for a CNN.
        dataset: dataset of the checkpoint. For a plain ViT, its images are split into a 4x4 grid.
    """

    def save(options=None, dataset=DATASETS["digits"]):
        if options is None:
            module = CNN(dataset)
        else:
            if "stem_layers" not in options:
                dataset = replace(dataset, patch_size=dataset.image_size // 4)
            module = ViT(dataset, width=16, depth=1, heads=2, **options)
        randomize(module).eval()
        module.temperature = TEMPERATURE
        return save_module(tmp_path / "best.ckpt", module), module.net

    return save
