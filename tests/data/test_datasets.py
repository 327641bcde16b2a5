"""The named datasets: what the table says of them, and where they are looked for."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from src.data.datasets import DATASETS, TORCHVISION, read_digits, read_torchvision
from src.data.modules import CIFAR10DataModule, MNISTDataModule
from src.errors import InputError

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize("name", DATASETS)
def test_the_table_is_consistent(name):
    info = DATASETS[name]
    assert info.name == name and len(set(info.classes)) == len(info.classes) == (
        100 if name == "cifar100" else 10
    )
    assert len(info.mean) == len(info.std) == info.channels == (3 if "cifar" in name else 1)
    if "cifar" in name:
        assert list(info.classes) == sorted(info.classes), (
            "labels number them as class folders are sorted"
        )


def assert_statistics_of_the_table(name, images):
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel, mean, std in zip(
        images.unbind(1), DATASETS[name].mean, DATASETS[name].std, strict=True
    ):
        share = channel.flatten().bincount(minlength=256).double() / channel.numel()
        assert float(share @ values) == pytest.approx(mean, abs=1e-3)
        assert float(share @ (values - share @ values) ** 2) ** 0.5 == pytest.approx(std, abs=1e-3)


def test_digits_are_those_of_scikit_learn_and_match_the_table():
    images, labels = read_digits("test")
    theirs = load_digits()
    assert np.array_equal(images[:, 0], np.round(theirs.images[1438:] * 255 / 16))
    assert labels.tolist() == theirs.target[1438:].tolist()
    assert_statistics_of_the_table("digits", read_digits("train")[0])


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_missing_dataset_names_every_place_and_the_way_out(name, tmp_path, offline):
    with pytest.raises(InputError) as caught:
        read_torchvision(name, tmp_path, "train")
    message = str(caught.value)
    folder = {
        "mnist": "MNIST/raw",
        "fashion_mnist": "FashionMNIST/raw",
        "cifar10": "cifar-10-batches-py",
    }
    assert str(tmp_path / folder.get(name, "cifar-100-python")) in message
    assert f"{tmp_path / name}/{{train,test}}/<class>/" in message
    assert "http" in message and "no network" in message and "by hand" in message
    assert "configs/digits.yaml" in message and "--data.root" in message and "\n" not in message
    assert not list(tmp_path.iterdir()), "no empty folder is left behind"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("kind", "shape", "train_counts", "test_counts"),
    [
        (MNISTDataModule, (1, 28, 28), MNIST_TRAIN, MNIST_TEST),
        (CIFAR10DataModule, (3, 32, 32), [5000] * 10, [1000] * 10),
    ],
)
def test_the_real_ones_are_whole_and_match_the_table(
    offline, request, kind, shape, train_counts, test_counts
):
    module = kind(root=str(request.config.rootpath / "data"), val_fraction=0)
    try:
        module.prepare_data()
    except InputError as error:
        if "was not found" not in str(error):
            raise
        pytest.skip(str(error))
    for split, counts in (("train", train_counts), ("test", test_counts)):
        images, labels = module.sets[split].images, module.sets[split].labels
        assert images.shape == (sum(counts), *shape) and labels.bincount().tolist() == counts
    assert_statistics_of_the_table(module.info.name, module.sets["train"].images)
