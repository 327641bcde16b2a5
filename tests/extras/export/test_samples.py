"""Test that sample images come from the local copy of the dataset, and nothing is downloaded."""

from dataclasses import replace

import pytest
import torch
from photos import class_folders
from program import ROOT

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


def test_classes_of_the_test_split_are_interleaved(tmp_path):
    class_folders(tmp_path, ("cat", "dog"), (16, 16), test=3, train=5)
    images, source = sample_images(photos(tmp_path), 4)
    assert source == "test images of photos"
    label, index, is_test = images[..., 0, 0].T.tolist()
    assert label == [0, 20, 0, 20]
    assert index == [0, 0, 20, 20]
    assert is_test == [1, 1, 1, 1]


def test_training_images_without_damaged_files(tmp_path):
    class_folders(tmp_path, ("cat", "dog"), (20, 20), train=3)
    (tmp_path / "train" / "cat" / "0.png").write_text("damaged")
    images, source = sample_images(photos("nowhere"), 100, root=str(tmp_path))
    assert len(images) == 5
    assert source == "train images of photos"


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_images_are_generated_without_the_dataset(tmp_path, offline, name):
    dataset = replace(DATASETS[name], root=str(tmp_path))
    images, source = sample_images(dataset, 50)
    size = dataset.image_size
    assert images.shape == (50, dataset.channels, size, size)
    assert images.dtype == torch.uint8
    assert len(images.unique(dim=0)) == 50
    assert f"generated images (the dataset {name} was not found in {tmp_path}" in source
    assert sample_images(dataset, 50)[0].equal(images)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/t10k-images-idx3-ubyte"),
        ("cifar10", "cifar10/test"),
    ],
)
def test_real_datasets(name, file):
    if not (ROOT / "data" / file).exists():
        pytest.skip(f"needs {name} under data/")
    dataset = DATASETS[name]
    images, source = sample_images(dataset, 256, root=str(ROOT / "data"))
    assert source == f"test images of {name}"
    mean = sum(dataset.mean) / dataset.channels
    assert (images / 255.0).mean() == pytest.approx(mean, abs=0.05)
