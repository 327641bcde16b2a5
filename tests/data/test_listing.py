"""Test listing class folders: spellings, subfolders, Unicode names, and what is not used."""

import unicodedata

import pytest
from photos import class_folders

from src.data.listing import describe_other_folders, find_split, list_classes, list_images
from src.errors import InputError

CLASSES = ("cat", "dog")


@pytest.fixture
def root(tmp_path):
    """A folder with two training images of each class."""
    return class_folders(tmp_path / "photos", CLASSES, (4, 4), train=2)


def listed(root, split="train", classes=CLASSES):
    return list_images(find_split(root, split), classes, split)


def paths(listing):
    return [path for path, _, _ in listing.files]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Training", "train"),
        ("Validation", "val"),
        ("TEST", "test"),
    ],
)
def test_common_spellings_of_the_splits(tmp_path, name, split):
    class_folders(tmp_path, CLASSES, (4, 4), **{name: 1})
    assert len(listed(tmp_path, split).files) == 2
    assert describe_other_folders(tmp_path) == ""


def test_images_in_subfolders_are_read(root):
    inner = root / "train" / "cat" / "2024" / "may"
    inner.mkdir(parents=True)
    (root / "train" / "cat" / "1.png").rename(inner / "1.png")
    found = listed(root)
    assert paths(found) == ["cat/0.png", "cat/2024/may/1.png", "dog/0.png", "dog/1.png"]
    assert found.labels == [0, 0, 1, 1]
    assert found.note == ""


def test_what_is_not_used_is_counted_and_named(root):
    train = root / "train"
    (train / "owl").symlink_to("nowhere")
    (train / "stray.png").touch()
    (train / "cat" / "again").symlink_to("..")
    for name in ("cat/a.heic", "cat/b.HEIC", "dog/notes"):
        (train / name).touch()
    for name in (".hidden.png", "Thumbs.db", "desktop.ini", "@eaDir"):
        (train / "cat" / name).mkdir()
    found = listed(root)
    assert len(found.files) == 4
    assert found.note == (
        f"{train}: not used: .heic files (2: cat/a.heic, cat/b.HEIC), .png files (1: stray.png), "
        "broken links (1: owl), files without an extension (1: dog/notes), "
        "symlinked folders (1: cat/again)"
    )


def test_what_belongs_to_no_split_is_named(root):
    (root / "unsorted").mkdir()
    (root / "valid").symlink_to("nowhere")
    assert "not used: broken links (1: valid), folders (1: unsorted)" in describe_other_folders(
        root
    )


def test_splits_for_evaluation_may_lack_classes(root):
    (root / "test" / "dog").mkdir(parents=True)
    with pytest.raises(InputError, match="test: no images found; add images, or remove the folder"):
        listed(root, "test")
    class_folders(root, ["cat"], (4, 4), test=1)
    found = listed(root, "test")
    assert found.labels == [0]
    assert found.note == f"{root / 'test'}: missing classes (1: dog)"
    (root / "test" / "fox").mkdir()
    assert listed(root, "test").labels == [0]


def test_unicode_forms_of_a_name_are_one_class(tmp_path):
    composed, decomposed = "Bär", unicodedata.normalize("NFD", "Bär")
    class_folders(tmp_path, [decomposed, "Zebra"], (4, 4), train=1)
    class_folders(tmp_path, [composed], (4, 4), train=2, test=1)
    classes = tuple(list_classes(tmp_path / "train"))
    assert classes == (composed, "Zebra")
    assert listed(tmp_path, "train", classes).labels == [0, 0, 0, 1]
    assert listed(tmp_path, "test", classes).labels == [0]
