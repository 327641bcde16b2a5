"""Test opening the dataset that a checkpoint describes."""

from dataclasses import replace

import pytest
import torch
from photos import class_folders

from src.config import DatasetInfo
from src.data import modules
from src.data.datasets import DATASETS, read_digits
from src.data.images import read_image
from src.data.modules import CIFAR10DataModule
from src.data.splits import open_split
from src.errors import InputError

CLASSES = ("cat", "dog")


def own_images(root) -> DatasetInfo:
    return DatasetInfo(
        classes=CLASSES,
        image_size=16,
        channels=3,
        module="FolderDataModule",
        root=str(root),
    )


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_module_says_which_one_it_is(name):
    info = DATASETS[name]
    kind = getattr(modules, info.module)
    module = kind(root="somewhere", patch_size=4)
    assert module.info == replace(info, root="somewhere", patch_size=4)


def test_digits():
    images, labels = read_digits("test")
    opened = open_split(DATASETS["digits"], "test", root="nowhere")
    assert opened.images.equal(images)
    assert opened.labels.equal(labels)
    assert open_split(DATASETS["digits"], "val") is None


def test_class_folders_are_listed_but_not_decoded(tmp_path):
    class_folders(tmp_path, CLASSES, (20, 20), test=2)
    folder = tmp_path / "test" / "dog"
    (folder / "1.png").write_text("damaged")
    opened = open_split(own_images(tmp_path), "test")
    assert opened.labels.tolist() == [0, 0, 1, 1]
    assert len(opened.images) == 0
    images, labels = opened.__getitems__([2])
    assert images[0].equal(read_image(folder / "0.png", 16, 3))
    assert labels.tolist() == [1]
    with pytest.raises(InputError, match="dog/1.png: cannot be read"):
        opened.__getitems__([3])


def test_labels_are_those_of_the_checkpoint(tmp_path):
    class_folders(tmp_path, ("dog",), (20, 20), test=1)
    assert open_split(own_images(tmp_path), "test").labels.tolist() == [1]
    class_folders(tmp_path, ("fox",), (20, 20), test=1)
    with pytest.raises(InputError, match=r"test: classes without training images \(1: fox\); add"):
        open_split(own_images(tmp_path), "test")


def test_named_datasets_can_be_class_folders(tmp_path, offline):
    info = DATASETS["cifar10"]
    class_folders(tmp_path / "cifar10", info.classes, (32, 32), train=2, test=1)
    opened = open_split(info, "test", root=tmp_path)
    images, labels = opened.__getitems__(torch.arange(10))
    assert labels.tolist() == list(range(10))
    assert images[:, 0, 5, 7].tolist() == list(range(0, 200, 20))

    data = CIFAR10DataModule(root=str(tmp_path), val_fraction=0.5)
    data.prepare_data()
    assert len(data.sets["train"]) == len(data.sets["val"]) == 10
    assert data.sets["test"].images.equal(images)


def test_nothing_is_downloaded_unless_asked(tmp_path, offline):
    with pytest.raises(InputError, match="mnist could not be read from .* .Dataset not found"):
        open_split(DATASETS["mnist"], "test", root=tmp_path)
    with pytest.raises(InputError, match="could not be downloaded from .*no network"):
        open_split(DATASETS["mnist"], "test", root=tmp_path, download=True)


@pytest.mark.parametrize(
    "altered",
    [
        {"module": None},
        {"image_size": 14},
        {"classes": ("a", "b")},
    ],
    ids=str,
)
def test_unknown_datasets_are_refused(altered):
    with pytest.raises(InputError, match="no images are available for .*; pass image files"):
        open_split(replace(DATASETS["mnist"], **altered), "test")


def test_a_name_in_a_checkpoint_is_no_path(tmp_path, offline):
    class_folders(tmp_path / "other", DATASETS["cifar10"].classes, (32, 32), test=1)
    dataset = replace(DATASETS["cifar10"], name="../other")
    with pytest.raises(InputError, match="could not be read from"):
        open_split(dataset, "test", root=tmp_path / "data")
