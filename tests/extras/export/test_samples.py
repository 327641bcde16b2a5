"""Sample images are the dataset's own where it is, test images first, and never cost a download."""

import pytest
import torch
from photos import class_folders
from program import ROOT

from src.data.datasets import DATASETS, read_digits
from src.extras.export.samples import sample_images


def dataset(name, root, module="NamedDataModule"):
    return {"module": module, "root": str(root), **DATASETS[name].as_primitives()}


def photos(root):
    """What a FolderDataModule says of photos in two classes."""
    sizes = {"image_size": 16, "channels": 3, "classes": ["cat", "dog"]}
    return {"module": "FolderDataModule", "name": "digits", "root": str(root), **sizes}


def test_test_images_of_digits():
    images, source = sample_images(dataset("digits", "nowhere"), 100)
    assert images.equal(read_digits("test")[0][:100]) and source == "test images of digits"


def test_class_folders_by_turns_and_the_test_split_first(tmp_path):
    class_folders(tmp_path, ("cat", "dog"), (16, 16), test=3, train=5)
    images, source = sample_images(photos(tmp_path), 4)
    assert images.shape == (4, 3, 16, 16) and source == f"images of {tmp_path / 'test'}"
    assert images[:, 0, 0, 0].tolist() == [0, 20, 0, 20]  # the class
    assert images[:, 1, 0, 0].tolist() == [0, 0, 20, 20]  # the image in it
    assert images[:, 2, 0, 0].tolist() == [1, 1, 1, 1]  # of the test


def test_training_images_where_there_is_no_test(tmp_path):
    class_folders(tmp_path, ("cat", "dog"), (20, 20), train=3)
    images, source = sample_images(photos(tmp_path), 100)
    assert len(images) == 6 and source == f"images of {tmp_path / 'train'}"


def test_damaged_files_are_left_out(tmp_path):
    class_folders(tmp_path, ("cat", "dog"), (20, 20), test=2)
    (tmp_path / "test" / "cat" / "0.png").write_text("damaged")
    (tmp_path / "test" / "cat" / "notes.txt").write_text("not an image")
    assert len(sample_images(photos(tmp_path), 100)[0]) == 3


def test_another_root_than_in_training(tmp_path):
    class_folders(tmp_path / "cifar10", DATASETS["cifar10"].classes, (32, 32), test=1)
    images, source = sample_images(dataset("cifar10", "nowhere"), 100, root=str(tmp_path))
    assert len(images) == 10 and source == f"images of {tmp_path / 'cifar10' / 'test'}"


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_images_are_generated_where_the_dataset_is_not(tmp_path, offline, name):
    images, source = sample_images(dataset(name, tmp_path), 50)
    assert images.shape == (50, DATASETS[name].channels, *[DATASETS[name].image_size] * 2)
    assert (
        images.dtype == torch.uint8
        and images.float().std() > 30
        and len(images.unique(dim=0)) == 50
    )
    assert source == f"generated images, because {name} is not in {tmp_path},"
    assert sample_images(dataset(name, tmp_path), 50)[0].equal(images)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "there"), [("mnist", "MNIST/raw/t10k-images-idx3-ubyte"), ("cifar10", "cifar10/test")]
)
def test_the_real_datasets(name, there):
    if not (ROOT / "data" / there).exists():
        pytest.skip(f"needs the real {name} under data/")
    images, source = sample_images(dataset(name, ROOT / "data"), 256)
    assert len(images) == 256 and "generated" not in source
    assert (images / 255.0).mean() == pytest.approx(
        sum(DATASETS[name].mean) / DATASETS[name].channels, abs=0.05
    )
