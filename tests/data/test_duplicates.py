"""Test the detection of images that are duplicated across splits or classes."""

import csv
import shutil

import pytest
from photos import class_folders
from PIL import Image

from src.data.duplicates import write_duplicates
from src.data.modules import FolderDataModule

CLASSES = ("cat", "dog")


@pytest.fixture
def photos(tmp_path):
    """Class folders without identical images: two of each class for training, one for testing."""
    return class_folders(tmp_path / "photos", CLASSES, (20, 20), train=2, test=1)


def search(photos, **options):
    """Return the sentence for the user and the rows of duplicates.csv."""
    options = {"image_size": 16, "val_fraction": 0} | options
    data = FolderDataModule(str(photos), **options)
    data.prepare_data()
    file = photos / "duplicates.csv"
    sentence = write_duplicates(data.sets, data.info.classes, file)
    if not file.exists():
        return sentence, []
    with open(file, newline="") as opened:
        return sentence, list(csv.reader(opened))[1:]


def test_different_images_and_copies_within_a_class_are_not_listed(photos):
    assert search(photos) == ("", [])
    shutil.copy(photos / "train" / "cat" / "0.png", photos / "train" / "cat" / "9.png")
    assert search(photos) == ("", [])


@pytest.mark.parametrize("budget", [4, 0], ids=["in memory", "streamed"])
def test_copies_in_other_splits_and_classes_are_listed(photos, budget):
    train = photos / "train"
    test = photos / "test"
    Image.open(train / "cat" / "0.png").save(test / "cat" / "other.bmp")
    shutil.copy(train / "cat" / "1.png", train / "dog" / "1.png")
    for _ in ("decoded", "from the cache"):
        sentence, rows = search(photos, memory_budget=budget)
        assert sentence.startswith(
            "identical images: 1 in several splits, 1 under several classes, for example "
            f"{train}/cat/"
        )
        assert sorted(row[1:] for row in rows) == [
            ["test", "cat", str(test / "cat" / "other.bmp")],
            ["train", "cat", str(train / "cat" / "0.png")],
            ["train", "cat", str(train / "cat" / "1.png")],
            ["train", "dog", str(train / "dog" / "1.png")],
        ]
        assert [row[0] for row in rows] == ["0", "0", "1", "1"]


def test_class_names_cannot_be_formulas(tmp_path):
    photos = class_folders(tmp_path / "photos", ("=cat", "dog"), (20, 20), train=2, test=1)
    shutil.copy(photos / "train" / "=cat" / "0.png", photos / "test" / "=cat" / "0.png")
    _, rows = search(photos)
    assert [row[2] for row in rows] == ["'=cat", "'=cat"]


def test_copies_in_held_out_images_are_listed(photos):
    shutil.copy(photos / "train" / "cat" / "0.png", photos / "train" / "cat" / "1.png")
    sentence, rows = search(photos, val_fraction=0.5)
    assert "1 in several splits, 0 under several classes" in sentence
    assert sorted(row[1] for row in rows) == ["train", "val"]
    assert len({row[3] for row in rows}) == 2
