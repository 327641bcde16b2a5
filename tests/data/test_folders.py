"""Folders of the user's own images: any size and mode, splits, the cache, and images beyond the memory budget."""

import io
import os
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from src.data.images import read_image

from src import folders
from src.data.modules import FolderDataModule
from src.errors import InputError

CLASSES = ["cat", "dog", "owl"]
MODES = {"RGB": "png", "L": "jpg", "RGBA": "webp", "P": "gif", "1": "bmp", "I;16": "tif", "LA": "png", "CMYK": "jpg"}
PIXELS = 16 * 16 * 3  # bytes of one image in memory


def save(folder, name, mode, extension, number):
    """A picture with some texture; every number gives another one."""
    image = Image.linear_gradient("L").resize((20 + 7 * number, 60 - 5 * number)).rotate(40 * number)
    image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert("RGB").convert(mode)
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


def read(root, **options):
    module = FolderDataModule(root=str(root), image_size=16, patch_size=4, **options)
    module.prepare_data()
    return module


def everything(images):
    return images.__getitems__(torch.arange(len(images)))


def explode(*args):
    raise AssertionError("decoded again")


def batches_of(module):
    """One epoch of training batches."""
    epochs = SimpleNamespace(current=SimpleNamespace(processed=0, ready=0))
    done = SimpleNamespace(current=SimpleNamespace(processed=0, ready=0))
    loop = SimpleNamespace(epoch_progress=epochs, epoch_loop=SimpleNamespace(batch_progress=done))
    module.trainer = SimpleNamespace(world_size=1, global_rank=0, training=True, fit_loop=loop)
    return list(module.train_dataloader())


def test_images_of_every_size_and_mode_are_read(photos):
    module = read(photos, val_fraction=0)
    images, labels = everything(module.sets["train"])
    assert images.shape == (24, 3, 16, 16) and images.dtype == torch.uint8
    assert labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8 and module.classes == CLASSES
    assert all(image.float().std() > 10 for image in images)
    paths = [photos / "train" / name / f"{i}.{e}" for name in CLASSES for i, e in enumerate(MODES.values())]
    assert torch.equal(images, torch.stack([read_image(path, 16, 3) for path in paths]))


def test_an_image_is_cropped_to_its_center_square(tmp_path):
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    image.save(tmp_path / "wide.png")
    inner = read_image(tmp_path / "wide.png", 10, 3)[:, :, 1:-1]
    assert inner.flatten(1).unique(dim=1).flatten().tolist() == [0, 0, 255]


def test_without_val_a_part_of_the_training_images_is_held_out(photos):
    sets = read(photos, val_fraction=0.25).sets
    assert sets["val"].labels.tolist() == [0, 0, 1, 1, 2, 2] and len(sets["train"]) == 18
    assert sets["test"] is None


def test_without_test_nothing_is_tested(photos):
    assert read(photos).test_dataloader() == []


def test_own_val_and_test_folders_are_used_whole(photos):
    add_split(photos, "val", 3)
    add_split(photos, "test", 2)
    sets = read(photos, val_fraction=0.25).sets
    assert {split: len(images) for split, images in sets.items()} == {"train": 24, "val": 9, "test": 6}
    expected = read_image(photos / "test" / "dog" / "1.png", 16, 3)
    assert torch.equal(sets["test"].images[3], expected)


def test_gray_images(photos):
    module = read(photos, channels=1)
    assert module.sets["train"].images.shape[1:] == (1, 16, 16)
    assert module.description["channels"] == len(module.mean) == len(module.std) == 1


def test_a_second_start_decodes_nothing(photos, monkeypatch):
    first = everything(read(photos, val_fraction=0).sets["train"])
    monkeypatch.setattr(folders, "read_image", explode)
    second = everything(read(photos, val_fraction=0).sets["train"])
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def changed_file(photos):
    save(photos / "train" / "cat", "0", "RGB", "png", 5)


def same_size_but_newer(photos):
    os.utime(photos / "train" / "cat" / "0.png", (1, 1))


def added_file(photos):
    save(photos / "train" / "dog", "new", "RGB", "png", 1)


def removed_file(photos):
    (photos / "train" / "owl" / "0.png").unlink()


@pytest.mark.parametrize("change", [changed_file, same_size_but_newer, added_file, removed_file])
def test_the_cache_is_made_anew_when_a_file_changes(photos, change, monkeypatch):
    read(photos)
    change(photos)
    fresh = everything(read(photos, val_fraction=0).sets["train"])
    count = sum(1 for path in (photos / "train").glob("*/*"))
    assert len(fresh[1]) == count
    assert torch.equal(fresh[0][0], read_image(photos / "train" / "cat" / "0.png", 16, 3))
    change(photos) if change is changed_file else os.utime(photos / "train" / "dog" / "1.jpg", (2, 2))
    monkeypatch.setattr(folders, "read_image", explode)
    with pytest.raises(AssertionError, match="decoded again"):
        read(photos)


def test_another_size_does_not_use_the_cache_of_this_one(photos):
    read(photos)
    module = FolderDataModule(root=str(photos), image_size=8, patch_size=4)
    module.prepare_data()
    assert module.sets["train"].images.shape[1:] == (3, 8, 8)


def test_a_damaged_cache_is_made_anew(photos):
    whole = everything(read(photos, val_fraction=0).sets["train"])
    (cache,) = (photos / ".cache").iterdir()
    cache.write_bytes(cache.read_bytes()[:1000])
    assert torch.equal(everything(read(photos, val_fraction=0).sets["train"])[0], whole[0])


@pytest.mark.parametrize("held", [0, 1, 10, 23])
@pytest.mark.parametrize("val_fraction", [0, 0.25])
def test_images_beyond_the_memory_budget_are_the_same(photos, held, val_fraction):
    whole = read(photos, val_fraction=val_fraction).sets
    small = read(photos, val_fraction=val_fraction, memory_budget=(held + 0.5) * PIXELS / 2**30).sets
    for split in ("train", "val"):
        if whole[split] is None:
            continue
        pair = [everything(sets[split]) for sets in (whole, small)]
        assert torch.equal(pair[0][0], pair[1][0]) and torch.equal(pair[0][1], pair[1][1])
    in_memory = sum(len(images.images) for split, images in small.items() if images and split != "test")
    streamed = sum(len(images.paths) for split, images in small.items() if images and split != "test")
    assert (in_memory, streamed) == (held, 24 - held)
    shuffled = torch.randperm(len(whole["train"]), generator=torch.Generator().manual_seed(0))
    assert torch.equal(small["train"].__getitems__(shuffled)[0], whole["train"].images[shuffled])


def test_workers_stream_the_same_batches(photos):
    options = {"val_fraction": 0, "batch_size": 5}
    expected = batches_of(read(photos, **options))
    streaming = read(photos, **options, memory_budget=10.5 * PIXELS / 2**30, workers=2)
    served = batches_of(streaming)
    assert len(served) == len(expected) == 4
    for mine, theirs in zip(served, expected, strict=True):
        assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])


def test_streamed_images_are_cached_as_a_list(photos, monkeypatch):
    """A second start decodes no image up front, only the streamed ones as they are asked for."""
    read(photos, memory_budget=10.5 * PIXELS / 2**30)
    monkeypatch.setattr(folders, "read_image", explode)
    module = read(photos, memory_budget=10.5 * PIXELS / 2**30)
    with pytest.raises(AssertionError, match="decoded again"):
        everything(module.sets["train"])


def test_what_is_no_image_is_not_read(photos):
    (photos / "train" / "cat" / "notes.txt").write_text("hello")
    (photos / "train" / "cat" / ".hidden.png").write_text("hello")
    (photos / "train" / ".git").mkdir()
    assert len(read(photos, val_fraction=0).sets["train"]) == 24


def test_a_broken_image_is_named_or_left_out(photos, capsys):
    (photos / "train" / "cat" / "0.png").write_bytes(b"hello")
    with pytest.raises(InputError, match="1 image.* cannot be read: .*0.png; .*skip_broken"):
        read(photos)
    module = read(photos, val_fraction=0, skip_broken=True)
    assert module.sets["train"].labels.bincount().tolist() == [7, 8, 8]
    assert "1 damaged image(s) left out" in capsys.readouterr().out
    with pytest.raises(InputError, match="cannot be read"):  # the cache of the other run is not used
        read(photos)


def test_folders_that_cannot_be_trained_on_are_refused(tmp_path, photos):
    with pytest.raises(InputError, match="there is no such folder; put the images in"):
        read(tmp_path / "nowhere")
    (tmp_path / "one" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match="only the class 'cat'.*two classes"):
        read(tmp_path / "one")
    (photos / "train" / "ant").mkdir()
    with pytest.raises(InputError, match="ant: the class has no image"):
        read(photos)


def test_classes_of_the_splits_must_agree(photos):
    add_split(photos, "test", 1)
    (photos / "test" / "owl").rename(photos / "test" / "eagle")
    with pytest.raises(InputError, match=r"test: .*only here: eagle; missing here: owl"):
        read(photos)


def test_mean_and_std_must_fit_the_channels(photos):
    with pytest.raises(InputError, match="give 1 values"):
        read(photos, channels=1, mean=[0.5, 0.5, 0.5])
    with pytest.raises(InputError, match="std above 0"):
        read(photos, std=[0.0, 1.0, 1.0])


def test_a_full_disk_costs_the_cache_alone(photos, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert len(read(photos, val_fraction=0).sets["train"]) == 24
    assert "could not be kept" in capsys.readouterr().out
    assert not [path for path in (photos / ".cache").glob("*")]


def test_cache_opens_without_running_code(photos):
    """It is a file like any other: a pickle put in its place must not run."""

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(photos / "harm"),)

    read(photos)
    (cache,) = (photos / ".cache").iterdir()
    buffer = io.BytesIO()
    torch.save(Hostile(), buffer)
    cache.write_bytes(buffer.getvalue())
    assert read(photos).sets["train"] and not (photos / "harm").exists()
