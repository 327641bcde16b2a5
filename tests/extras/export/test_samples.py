"""Sample images come from the dataset where it is on this machine, and never cost a download."""

from dataclasses import replace

import pytest
import torch
from photos import class_folders
from program import ROOT

from src.config import DatasetInfo
from src.data.datasets import DATASETS, read_digits
from src.extras.export.samples import sample_images


def photos(root):
    """Return the description of photos in two class folders."""
    return DatasetInfo(
        module="FolderDataModule",
        name="digits",  # an altered checkpoint may say anything
        root=str(root),
        image_size=16,
        channels=3,
        classes=("cat", "dog"),
    )


def test_digits_are_spread_over_the_classes():
    images, source = sample_images(DATASETS["digits"], 30)
    assert source == "test images of digits"
    pixels, labels = read_digits("test")
    for label in range(10):
        first = pixels[labels == label][:3]
        assert images[label::10].equal(first)


def test_class_folders_by_turns_and_the_test_split_first(tmp_path):
    class_folders(tmp_path, ("cat", "dog"), (16, 16), test=3, train=5)
    images, source = sample_images(photos(tmp_path), 4)
    assert images.shape == (4, 3, 16, 16) and source == "test images of digits"
    assert images[:, 0, 0, 0].tolist() == [0, 20, 0, 20]  # the class
    assert images[:, 1, 0, 0].tolist() == [0, 0, 20, 20]  # the image in it
    assert images[:, 2, 0, 0].tolist() == [1, 1, 1, 1]  # the test split


def test_training_images_without_a_test_split(tmp_path):
    class_folders(tmp_path, ("cat", "dog"), (20, 20), train=3)
    images, source = sample_images(photos(tmp_path), 100)
    assert len(images) == 6 and source == "train images of digits"


def test_damaged_files_are_left_out(tmp_path):
    class_folders(tmp_path, ("cat", "dog"), (20, 20), test=2)
    (tmp_path / "test" / "cat" / "0.png").write_text("damaged")
    assert len(sample_images(photos(tmp_path), 100)[0]) == 3


def test_another_root_than_in_training(tmp_path):
    class_folders(tmp_path / "cifar10", DATASETS["cifar10"].classes, (32, 32), test=1)
    dataset = replace(DATASETS["cifar10"], root="nowhere")
    images, source = sample_images(dataset, 100, root=str(tmp_path))
    assert len(images) == 10 and source == "test images of cifar10"


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_images_are_generated_without_the_dataset(tmp_path, offline, name):
    dataset = replace(DATASETS[name], root=str(tmp_path))
    images, source = sample_images(dataset, 50)
    size = dataset.image_size
    assert images.shape == (50, dataset.channels, size, size) and images.dtype == torch.uint8
    assert images.float().std() > 30 and len(images.unique(dim=0)) == 50
    assert f"generated images (the dataset {name} was not found in {tmp_path}" in source
    assert sample_images(dataset, 50)[0].equal(images)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "file"), [("mnist", "MNIST/raw/t10k-images-idx3-ubyte"), ("cifar10", "cifar10/test")]
)
def test_real_datasets(name, file):
    if not (ROOT / "data" / file).exists():
        pytest.skip(f"needs the real {name} under data/")
    dataset = DATASETS[name]
    images, source = sample_images(dataset, 256, root=str(ROOT / "data"))
    assert len(images) == 256 and "generated" not in source
    mean = sum(dataset.mean) / dataset.channels
    assert (images / 255.0).mean() == pytest.approx(mean, abs=0.05)
