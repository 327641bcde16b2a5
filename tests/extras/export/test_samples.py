"""Test that sample images come from the local copy of the dataset, and nothing is downloaded."""

from dataclasses import replace

import torch
from photos import class_folders

from src.config import DatasetInfo
from src.data.datasets import DATASETS
from src.extras.export.samples import sample_images


def photos(root):
    """Return the dataset description of two class folders with photos."""
    return DatasetInfo(
        module="FolderDataModule",
        name="photos",
        root=str(root),
        image_size=16,
        channels=3,
        classes=("cat", "dog"),
    )


def test_evenly_spaced_test_images(tmp_path):
    class_folders(tmp_path, ("cat", "dog"), (16, 16), test=3, train=5)
    images, source = sample_images(photos(tmp_path), 3)
    assert source == "test images of photos"
    label, index, is_test = images[..., 0, 0].T.tolist()
    assert label == [0, 0, 20]
    assert index == [0, 40, 40]
    assert is_test == [1, 1, 1]


def test_all_training_images_without_a_test_split(tmp_path):
    class_folders(tmp_path, ("cat", "dog"), (20, 20), train=3)
    images, source = sample_images(photos("nowhere"), 100, root=str(tmp_path))
    assert len(images) == 6
    assert source == "train images of photos"


def test_images_are_generated_without_the_dataset(tmp_path, offline):
    dataset = replace(DATASETS["cifar10"], root=str(tmp_path))
    images, source = sample_images(dataset, 50)
    assert images.shape == (50, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert len(images.unique(dim=0)) == 50
    assert f"generated images (the dataset cifar10 could not be read from {tmp_path}" in source
    assert sample_images(dataset, 50)[0].equal(images)
