"""Test class folders: image sizes and modes, splits, the cache and the memory budget."""

import os

import numpy as np
import pytest
import torch
from batches import trainer
from photos import class_folders
from PIL import Image
from torch.utils.data import DataLoader

from src.data import folders, image_set
from src.data.images import read_image
from src.data.modules import FolderDataModule
from src.data.sampling import TrainBatches
from src.data.splits import open_split
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
TOO_SMALL = 23.5 * 16 * 16 * 3 / 2**30  # GiB; less than 24 decoded images need


def save(folder, name, mode, extension, number):
    """Save a textured image that depends on `number`."""
    size = (20 + 7 * number, 60 - 5 * number)
    image = Image.linear_gradient("L").resize(size).rotate(40 * number)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    else:
        image = image.convert("RGB").convert(mode)
    image.save(folder / f"{name}.{extension}")


@pytest.fixture
def photos(tmp_path):
    """A folder that contains only train/: 3 classes, each with 8 images of different modes."""
    for number, name in enumerate(CLASSES):
        folder = tmp_path / "photos" / "train" / name
        folder.mkdir(parents=True)
        for index, (mode, extension) in enumerate(MODES.items()):
            save(folder, index, mode, extension, (index + 3 * number) % 8)
    return tmp_path / "photos"


def module_of(root, image_size=16, val_fraction=0, **options):
    return FolderDataModule(str(root), image_size, val_fraction=val_fraction, **options)


def read(root, **options):
    """Return the splits of an image folder; by default, no images are held out."""
    module = module_of(root, **options)
    module.prepare_data()
    return module.sets


def everything(images):
    return images.__getitems__(torch.arange(len(images)))


def assert_same(batch, expected):
    for tensor, expected_tensor in zip(batch, expected, strict=True):
        assert tensor.equal(expected_tensor)


@pytest.fixture
def decoded(monkeypatch):
    """Return a list that records the path of every decoded file."""
    paths = []

    def record(path, *args):
        paths.append(path)
        return read_image(path, *args)

    for module in (folders, image_set):
        monkeypatch.setattr(module, "read_image", record)
    return paths


def test_images_of_every_size_and_mode_are_read(photos):
    images, labels = everything(read(photos)["train"])
    paths = sorted((photos / "train").glob("*/*"))
    expected = torch.stack([read_image(path, 16, 3) for path in paths])
    assert images.equal(expected)
    assert labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert read(photos)["train"].paths == [str(path) for path in paths]  # now from the cache
    assert all(image.float().std() > 10 for image in images)


def test_training_images_are_held_out_where_there_is_no_val_folder(photos):
    sets = read(photos, val_fraction=0.25)
    assert sets["val"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(sets["train"]) == 18
    assert sets["test"] is None


def test_a_class_with_one_image_is_named(photos, capsys):
    for path in (photos / "train" / "owl").glob("[1-7].*"):
        path.unlink()
    sets = read(photos, val_fraction=0.1)
    assert sets["val"].labels.tolist() == [0, 1]
    printed = capsys.readouterr().out
    assert "note: classes with one image, not validated (1: owl)" in printed


def test_val_and_test_folders_are_used_whole(photos):
    class_folders(photos, CLASSES, (20, 20), val=3, test=2)
    sets = read(photos, val_fraction=0.25)
    assert len(sets["train"]) == 24
    assert len(sets["val"]) == 9
    expected = read_image(photos / "test" / "owl" / "1.png", 16, 3)
    assert sets["test"].images[-1].equal(expected)


# Cache


def test_a_second_start_decodes_nothing(photos, decoded):
    first = everything(read(photos)["train"])
    assert len(decoded) == 24
    assert_same(everything(read(photos)["train"]), first)
    assert len(decoded) == 24


def test_the_cache_is_written_again_when_a_file_changes(photos, decoded):
    read(photos)
    os.utime(photos / "train" / "cat" / "0.png", (1, 1))
    read(photos)
    assert len(decoded) == 48
    save(photos / "train" / "dog", "new", "RGB", "png", 1)
    assert len(read(photos)["train"]) == 25
    assert len(decoded) == 73


def test_a_damaged_cache_is_written_again(photos):
    whole = everything(read(photos)["train"])
    (cache,) = (photos / ".cache").iterdir()
    cache.write_bytes(cache.read_bytes()[:1000])
    assert_same(everything(read(photos)["train"]), whole)


def test_the_cache_opens_without_running_code(photos):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(photos / "harm"),)

    read(photos)
    (cache,) = (photos / ".cache").iterdir()
    torch.save(Hostile(), cache)
    read(photos)
    assert not (photos / "harm").exists()


def test_fit_is_kept_by_the_cache_streams_and_lists(photos):
    for fit, budget in (("crop", 4), ("pad", TOO_SMALL), ("stretch", 4)):
        module = module_of(photos, fit=fit, memory_budget=budget)
        module.prepare_data()
        paths = sorted((photos / "train").glob("*/*"))
        expected = torch.stack([read_image(path, 16, 3, fit) for path in paths])
        assert everything(module.sets["train"])[0].equal(expected)
        assert everything(open_split(module.info, "train"))[0].equal(expected)


def test_a_line_says_how_much_cropping_removes(photos, capsys):
    wide = class_folders(photos / "wide", CLASSES, (60, 20), train=3)
    usual = class_folders(photos / "usual", CLASSES, (40, 30), train=3)
    line = "cropping to the center square cuts off 67% of an average image"
    for root, fit, count in ((wide, "crop", 1), (wide, "pad", 0), (usual, "crop", 0)):
        read(root, fit=fit)
        out = capsys.readouterr().out
        assert (out.count(line), out.count("center square")) == (count, count)


# Memory budget


@pytest.mark.parametrize("workers", [0, 2])
def test_images_beyond_the_memory_budget_are_streamed(photos, decoded, workers):
    whole = read(photos)["train"]
    module = module_of(photos, batch_size=5, memory_budget=TOO_SMALL, workers=workers)
    module.trainer = trainer()
    for expected in (24, 0):  # the second start decodes nothing
        decoded.clear()
        module.prepare_data()
        assert len(decoded) == expected
        module.sets.clear()
    module.setup("fit")
    loader = module.train_dataloader()
    assert type(loader) is DataLoader
    order = TrainBatches(24, 5, 0, trainer())
    for batch, indices in zip(loader, order, strict=True):
        assert_same(batch, whole.__getitems__(indices))


# Folder contents


def test_other_files_and_hidden_folders_are_ignored(photos):
    (photos / "train" / "cat" / "notes.txt").write_text("hello")
    (photos / "train" / "cat" / ".hidden.png").write_text("hello")
    (photos / "train" / ".git").mkdir()
    assert len(read(photos)["train"]) == 24


def test_damaged_images_are_named_or_left_out(photos, capsys):
    damaged = photos / "train" / "cat" / "0.png"
    damaged.unlink()
    damaged.symlink_to("nowhere.png")
    refusal = f"1 image.* cannot be read: {damaged}; .*--data.skip_broken true"
    with pytest.raises(InputError, match=refusal):
        read(photos)
    images = read(photos, skip_broken=True)["train"]
    assert images.labels.bincount().tolist() == [7, 8, 8]
    assert "skipped 1 damaged image(s)" in capsys.readouterr().out
    with pytest.raises(InputError, match=refusal):  # the cache does not hide the error
        read(photos)
