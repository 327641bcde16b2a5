"""Digits, small models and a quiet Lightning Trainer, for tests that do not use `train.py`."""

import pytorch_lightning as pl
from torch.utils.data import DataLoader, TensorDataset

from src.data.datasets import read_digits
from src.training.classifier import CNN, ViT

DIGITS = {"classes": 10, "image_size": 8, "channels": 1}
PATCHES = DIGITS | {"patch_size": 2}
SMALL = {"width": 16, "depth": 2, "heads": 2, "lr": 1e-2}
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def small(**changes) -> ViT:
    return ViT(PATCHES, **SMALL | changes)


def cnn() -> CNN:
    return CNN(DIGITS)


def trainer(max_epochs: int = 2, **settings) -> pl.Trainer:
    return pl.Trainer(max_epochs=max_epochs, **QUIET | settings)


def digits(split: str = "train", count: int = 256, inputs=None, targets=None) -> DataLoader:
    """Return a data loader for the first digits of a split, with a batch size of 64.

    Args:
        split: "train" or "test".
        count: number of digits.
        inputs: function to apply to all images, uint8 [N, 1, 8, 8].
        targets: function to apply to all labels, int64 [N].
    """
    images, labels = read_digits(split)
    images = images[:count]
    labels = labels[:count]
    if inputs:
        images = inputs(images)
    if targets:
        labels = targets(labels)
    return DataLoader(TensorDataset(images, labels), 64)
