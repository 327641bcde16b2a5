"""Folders of the user's own images: any size and mode, splits, the cache, and images beyond the memory budget."""

import os
from pathlib import Path

import pytest
import torch
from batches import trainer
from PIL import Image

from src.data import folders
from src.data.images import read_image
from src.data.modules import FolderDataModule
from src.data.sampling import TrainBatches
from src.errors import InputError

CLASSES = ["cat", "dog", "owl"]
MODES = {
    "RGB": "png",
    "L": "jpg",
    "RGBA": "webp",
    "P": "gif",
    "1": "bmp",
    "I;16": "tif",
    "LA": "png",
    "CMYK": "jpg",
}
PIXELS = 16 * 16 * 3  # bytes of one image in memory
BUDGET = 10.5 * PIXELS / 2**30  # holds 10 images of 24


def save(folder, name, mode, extension, number):
    """A picture with some texture; every number gives another one."""
    image = (
        Image.linear_gradient("L").resize((20 + 7 * number, 60 - 5 * number)).rotate(40 * number)
    )
    image = (
        image.convert("L").convert("I;16") if mode == "I;16" else image.convert("RGB").convert(mode)
    )
    path = folder / f"{name}.{extension}"
    image.save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """train/ with 3 classes of 8 images, one of each mode; no val/, no test/."""
    for number, name in enumerate(CLASSES):
        folder = tmp_path / "photos" / "train" / name
        folder.mkdir(parents=True)
        for index, (mode, extension) in enumerate(MODES.items()):
            save(folder, f"{index}", mode, extension, (index + 3 * number) % 8)
    return tmp_path / "photos"


def add_split(photos, split, count):
    for name in CLASSES:
        (photos / split / name).mkdir(parents=True)
        for index in range(count):
            save(photos / split / name, f"{index}", "RGB", "png", index)


def read(root, image_size=16, **options):
    """The sets of the folder; without `val/`, by default, all images are trained on."""
    module = FolderDataModule(
        root=str(root), image_size=image_size, patch_size=4, **{"val_fraction": 0} | options
    )
    module.prepare_data()
    return module.sets


def everything(images):
    return images.__getitems__(torch.arange(len(images)))


def assert_same(ours, theirs):
    """Two batches of images and labels."""
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@pytest.fixture
def decoded(monkeypatch):
    """The files that are decoded from now on."""
    paths = []
    monkeypatch.setattr(
        folders, "read_image", lambda path, *args: paths.append(path) or read_image(path, *args)
    )
    return paths


def test_images_of_every_size_and_mode_are_read(photos):
    images, labels = everything(read(photos)["train"])
    assert images.shape == (24, 3, 16, 16) and images.dtype == torch.uint8
    assert labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert all(image.float().std() > 10 for image in images)
    paths = [
        photos / "train" / name / f"{i}.{e}"
        for name in CLASSES
        for i, e in enumerate(MODES.values())
    ]
    assert torch.equal(images, torch.stack([read_image(path, 16, 3) for path in paths]))


def test_without_val_a_part_of_the_training_images_is_held_out(photos):
    sets = read(photos, val_fraction=0.25)
    assert sets["val"].labels.tolist() == [0, 0, 1, 1, 2, 2] and len(sets["train"]) == 18
    assert sets["test"] is None


def test_own_val_and_test_folders_are_used_whole(photos):
    add_split(photos, "val", 3)
    add_split(photos, "test", 2)
    sets = read(photos, val_fraction=0.25)
    assert {split: len(images) for split, images in sets.items()} == {
        "train": 24,
        "val": 9,
        "test": 6,
    }
    assert torch.equal(sets["test"].images[3], read_image(photos / "test" / "dog" / "1.png", 16, 3))


def test_a_second_start_decodes_nothing(photos, decoded):
    first, count = everything(read(photos)["train"]), len(decoded)
    assert_same(everything(read(photos)["train"]), first)
    assert len(decoded) == count == 24


CHANGES = {
    "another image": lambda train: save(train / "cat", "0", "RGB", "png", 5),
    "the same size but newer": lambda train: os.utime(train / "cat" / "0.png", (1, 1)),
    "one more": lambda train: save(train / "dog", "new", "RGB", "png", 1),
    "one less": lambda train: (train / "owl" / "0.png").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_cache_is_made_anew_when_a_file_changes(photos, change, decoded):
    read(photos)
    CHANGES[change](photos / "train")
    decoded.clear()
    images, labels = everything(read(photos)["train"])
    assert len(decoded) == len(labels) == len(list((photos / "train").glob("*/*")))
    assert torch.equal(images[0], read_image(photos / "train" / "cat" / "0.png", 16, 3))


def test_another_shape_does_not_use_the_cache_of_this_one(photos):
    read(photos)
    assert read(photos, image_size=8)["train"].images.shape[1:] == (3, 8, 8)
    assert read(photos, channels=1)["train"].images.shape[1:] == (1, 16, 16)


def test_a_damaged_cache_is_made_anew(photos):
    whole = everything(read(photos)["train"])
    (cache,) = (photos / ".cache").iterdir()
    cache.write_bytes(cache.read_bytes()[:1000])
    assert_same(everything(read(photos)["train"]), whole)


@pytest.mark.parametrize("held", [0, 1, 10, 23])
@pytest.mark.parametrize("splits", [{"train": 24}, {"train": 18, "val": 6}], ids=str)
def test_images_beyond_the_memory_budget_are_the_same(photos, held, splits):
    fraction = splits.get("val", 0) / 24
    whole = read(photos, val_fraction=fraction)
    small = read(photos, val_fraction=fraction, memory_budget=(held + 0.5) * PIXELS / 2**30)
    for split, size in splits.items():
        shuffled = torch.randperm(size)
        assert_same(small[split].__getitems__(shuffled), whole[split].__getitems__(shuffled))
    assert sum(len(small[split].images) for split in splits) == held
    assert all(len(small[split].paths) == 24 - held for split in splits), (
        "both parts of a split have the same files"
    )


def file_behind(images) -> str:
    """The file whose pages the images lie in; '' if they are memory of this process's own."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        area, *_, name = line.split()
        first, end = (int(address, 16) for address in area.split("-"))
        if first <= images.data_ptr() < end:
            return name if name.startswith("/") else ""


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="Linux alone says what memory is mapped from"
)
def test_the_cache_is_mapped_and_a_split_of_it_copies_nothing(photos):
    """Whether this process has decoded it or another: its pages are then in memory once for all."""
    for _ in ("decoded", "found"):
        sets = read(photos, val_fraction=0.25)
        cache = photos / ".cache" / "photos-train-16x3.pt"
        assert file_behind(sets["train"].held) == str(cache)
        assert sets["train"].held.data_ptr() == sets["val"].held.data_ptr()


def test_a_subset_of_a_subset(photos):
    whole = read(photos)["train"]
    some = whole.subset(torch.arange(0, 24, 2)).subset(torch.tensor([1, 5, 11]))
    assert_same(everything(some), whole.__getitems__(torch.tensor([2, 10, 22])))
    assert len(some) == 3 and torch.equal(some.images, whole.images[[2, 10, 22]])
    assert some.labels.tolist() == whole.labels[[2, 10, 22]].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_stream_the_same_batches(photos, workers):
    whole = read(photos)["train"]
    module = FolderDataModule(
        str(photos), 16, batch_size=5, val_fraction=0, memory_budget=BUDGET, workers=workers
    )
    module.trainer = trainer()
    module.prepare_data()
    batches = list(module.train_dataloader())
    order = list(TrainBatches(24, 5, 0, trainer()))
    assert len(batches) == len(order) == 4
    for batch, indices in zip(batches, order, strict=True):
        assert_same(batch, whole.__getitems__(indices))


def test_streamed_images_are_cached_as_a_list(photos, decoded):
    """A second start decodes no image up front, only the streamed ones as they are asked for."""
    read(photos, memory_budget=BUDGET)
    decoded.clear()
    train = read(photos, memory_budget=BUDGET)["train"]
    assert not decoded
    everything(train)
    assert len(decoded) == 14


def test_what_is_not_an_image_is_not_read(photos):
    (photos / "train" / "cat" / "notes.txt").write_text("hello")
    (photos / "train" / "cat" / ".hidden.png").write_text("hello")
    (photos / "train" / ".git").mkdir()
    assert len(read(photos)["train"]) == 24


def test_a_broken_image_is_named_or_left_out(photos, capsys):
    (photos / "train" / "cat" / "0.png").write_bytes(b"hello")
    with pytest.raises(InputError, match="1 image.* cannot be read: .*0.png; .*skip_broken"):
        read(photos)
    assert read(photos, skip_broken=True)["train"].labels.bincount().tolist() == [7, 8, 8]
    assert "1 damaged image(s) left out" in capsys.readouterr().out
    with pytest.raises(
        InputError, match="cannot be read"
    ):  # the cache of the other run is not used
        read(photos)


def test_mean_and_std_must_fit_the_channels(photos):
    with pytest.raises(InputError, match="give 1 values"):
        read(photos, channels=1, mean=[0.5, 0.5, 0.5])
    with pytest.raises(InputError, match="std above 0"):
        read(photos, std=[0.0, 1.0, 1.0])


def test_cache_opens_without_running_code(photos):
    """It is a file like any other: a pickle put in its place must not run."""

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(photos / "harm"),)

    read(photos)
    (cache,) = (photos / ".cache").iterdir()
    torch.save(Hostile(), cache)
    assert read(photos)["train"] and not (photos / "harm").exists()
