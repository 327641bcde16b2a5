"""Test the descriptions of named datasets and the readers for their original files."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from src.data.datasets import DATASETS, TORCHVISION, read_digits, read_torchvision
from src.data.splits import open_split
from src.errors import InputError

FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}
CLASS_SIZES = {
    "mnist": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    "cifar10": [1000] * 10,
}


def assert_statistics_of_the_table(name, images):
    info = DATASETS[name]
    pixels = images / 255
    mean = torch.tensor(info.mean)
    std = torch.tensor(info.std)
    torch.testing.assert_close(pixels.mean((0, 2, 3)), mean, atol=5e-3, rtol=0)
    torch.testing.assert_close(pixels.std((0, 2, 3)), std, atol=5e-3, rtol=0)


def test_digits_equal_those_of_scikit_learn():
    images, labels = read_digits("test")
    expected = load_digits()
    pixels = np.round(expected.images * 255 / 16)
    assert np.array_equal(images[:, 0], pixels[1438:])
    assert np.array_equal(labels, expected.target[1438:])
    assert_statistics_of_the_table("digits", read_digits("train")[0])


@pytest.mark.parametrize("name", TORCHVISION)
def test_error_for_a_missing_dataset_names_every_place_searched(name, tmp_path, offline):
    with pytest.raises(InputError) as caught:
        read_torchvision(name, tmp_path, "train")
    message = str(caught.value)
    assert f"{tmp_path / FOLDERS[name]}/" in message
    assert f"{tmp_path / name}/{{train,test}}/<class>/" in message
    for part in ("http", "no network", "configs/digits.yaml"):
        assert part in message
    assert "\n" not in message


@pytest.mark.real_data
@pytest.mark.parametrize("name", CLASS_SIZES)
def test_real_datasets_are_complete(request, name):
    root = request.config.rootpath / "data"
    if not (root / FOLDERS[name]).is_dir() and not (root / name).is_dir():
        pytest.skip(f"{name} not found in {root}")
    test = open_split(DATASETS[name], "test", root=root)
    assert test.labels.bincount().tolist() == CLASS_SIZES[name]
    train = open_split(DATASETS[name], "train", root=root)
    images, _ = train.__getitems__(torch.arange(0, len(train), 7))
    assert_statistics_of_the_table(name, images)
