"""Test that damaged datasets and full disks cause one-line errors and do not harm intact files."""

import errno
import hashlib
import os
import pickle
import re
import resource
import shutil
import struct

import numpy as np
import pytest
import torch
from photos import class_folders
from program import as_another_user, at_step, tiny, train
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10

from src.data.datasets import read_torchvision
from src.data.image_set import ImageSet
from src.errors import InputError, exit_on_input_error
from src.runs.atomic import open_atomically
from src.runs.checkpoint import Checkpoint
from src.runs.results import read_metrics

# Dataset files ------------------------------------------------------------------------------------


def test_a_truncated_idx_file_is_refused(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, shape in (("images-idx3", (28, 28)), ("labels-idx1", ())):
        header = struct.pack(f">{2 + len(shape)}I", 2049 + len(shape), 10_000, *shape)
        for split in ("t10k", "train"):
            (folder / f"{split}-{part}-ubyte").write_bytes(header + bytes(5000))
    with pytest.raises(InputError, match=f"{folder}/.*; .* delete damaged files"):
        read_torchvision("mnist", tmp_path, "test")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_an_altered_cifar_batch_is_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    intact = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0]})
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", hashlib.md5(intact).hexdigest()]])
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    (folder / "test_batch").write_bytes(intact)
    (folder / "batches.meta").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="not found or corrupted"):
        read_torchvision("cifar10", tmp_path, "test", download=False)
    assert not (tmp_path / "ran").exists()


# Class folders ------------------------------------------------------------------------------------

FOLDER = """
--config configs/digits.yaml
--trainer.accelerator cpu
--trainer.max_epochs 1
--pictures false
--model.stem_layers 0
--model.width 8
--model.depth 1
--model.heads 1
--data FolderDataModule
--data.image_size 8
--data.patch_size 4
--data.batch_size 8
--data.augment.mixup 0
""".split()


@pytest.fixture
def photos(tmp_path):
    classes = ("cat", "dog", "eel")
    return class_folders(tmp_path / "photos", classes, (25, 20), train=12, test=3)


def train_on(photos, *more, prepare=()):
    runs = photos.parent / "runs"
    return train(*FOLDER, "--data.root", photos, "--runs", runs, *more, prepare=prepare)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("name", ["train/dog", "."])
def test_a_folder_without_permission_is_named(photos, name):
    prepare = as_another_user(photos)
    folder = photos / name
    folder.chmod(0)
    error = train_on(photos, prepare=prepare).error
    folder.chmod(0o755)
    assert str(folder) in error
    assert "permissions" in error


def empty_a_class(photos):
    shutil.rmtree(photos / "train" / "dog")
    (photos / "train" / "dog").mkdir()


def leave_one_class(photos):
    for name in ("dog", "eel"):
        shutil.rmtree(photos / "train" / name)


def rename_a_test_class(photos):
    (photos / "test" / "dog").rename(photos / "test" / "fox")


MISTAKES = {
    empty_a_class: "train/dog: no images found; add images, or remove the folder",
    leave_one_class: r"at least two class folders are needed, found 1 \(cat\); put images in",
    rename_a_test_class: r"test: classes without training images \(1: fox\); add",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_folders_that_are_not_a_dataset(photos, mistake):
    mistake(photos)
    error = train_on(photos, "--data.skip_broken", "true").error
    assert re.search(MISTAKES[mistake], error), error
    assert not (photos.parent / "runs").exists()


def test_an_image_that_vanishes_during_training_is_one_line(tmp_path):
    path, none = tmp_path / "gone.png", torch.empty(0, 3, 8, 8, dtype=torch.uint8)
    images = ImageSet(none, torch.zeros(1).long(), [str(path)])
    batches = [torch.tensor([0])]
    loader = DataLoader(images, batch_sampler=batches, collate_fn=list, num_workers=1)
    with pytest.raises(InputError) as caught:
        list(loader)
    assert str(caught.value) == f"{path}: no such file; check the path"


# A full disk --------------------------------------------------------------------------------------


def limit_files(size: int) -> tuple:
    """Return a `prepare` that limits file sizes, so that writes fail as they do on a full disk."""
    return resource.setrlimit, resource.RLIMIT_FSIZE, (size, size)


def last_step(run) -> int:
    return Checkpoint.open(run / "checkpoints" / "last.ckpt").global_step


@pytest.mark.parametrize("size", [20_000, 3_000], ids=["checkpoints", "TensorBoard's events"])
def test_no_room_for_a_checkpoint(tmp_path, size):
    ended = train(*tiny(tmp_path), prepare=(at_step, 14, *limit_files(size)))
    run = tmp_path / "digits" / "version_0"
    assert str(run) in ended.error
    assert "intact" in ended.error
    assert "free disk space" in ended.error
    assert "--resume" in ended.error
    assert last_step(run) == 10
    assert not list(run.rglob("*.tmp"))
    assert train("--resume", run).code == 0
    assert len(read_metrics(run)) == 3


def test_no_room_for_a_large_tensor(tmp_path):
    """For large tensors, `torch.save` raises RuntimeError instead of OSError."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match="File too large.*free disk space"):
            with open_atomically(tmp_path / "x") as file:
                torch.save(torch.zeros(30_000), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_without_room_for_decoded_images_training_goes_on(photos):
    """The cache only makes the next run start faster, so training must continue without it."""
    flags = ["--data.image_size", "64", "--data.patch_size", "16"]
    ended = train_on(photos, *flags, prepare=limit_files(200_000))
    assert ended.code == 0, ended
    assert "the decoded images could not be cached for the next run" in ended.text
    assert not list(photos.rglob("*.tmp"))


def test_an_error_while_closing_a_file_does_not_mask_the_first(capsys):
    """On a full disk, a library can raise a second error when it closes the file."""
    with pytest.raises(SystemExit) as end, exit_on_input_error():
        try:
            raise InputError("last.ckpt: no room; make some")
        finally:
            raise OSError(errno.ENOSPC, "No space left on device")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: last.ckpt: no room; make some\n"
