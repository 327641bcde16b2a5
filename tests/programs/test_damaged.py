"""Damaged datasets and full disks: said in one line that names the file and what to do; nothing good is lost."""

import contextlib
import errno
import hashlib
import os
import pickle
import resource
import shutil
import struct
import subprocess

import pytest
import torch
from photos import class_folders
from program import as_another_user, at_step, run, tiny, train
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10

from src.data.datasets import read_torchvision
from src.data.folders import ImageSet
from src.errors import InputError, exit_on_input_error
from src.runs.atomic import open_atomically
from src.runs.checkpoint import load_checkpoint
from src.runs.results import read_metrics

# Dataset files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def idx(tmp_path):
    """The IDX files of MNIST's test images, all of them zero, as holes that take no room."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    parts = {
        "images-idx3": struct.pack(">IIII", 2051, 10_000, 28, 28),
        "labels-idx1": struct.pack(">II", 2049, 10_000),
    }
    for part, header in parts.items():
        for split, factor in (("t10k", 1), ("train", 6)):
            with open(folder / f"{split}-{part}-ubyte", "wb") as file:
                header = header[:4] + struct.pack(">I", factor * 10_000) + header[8:]
                file.write(header)
                file.truncate(len(header) + factor * 10_000 * (784 if "images" in part else 1))
    return folder


def refusal(root, name="mnist") -> str:
    with pytest.raises(InputError) as caught:
        read_torchvision(name, root, "test")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_whole_idx_files_are_read(idx, tmp_path):
    images, labels = read_torchvision("mnist", tmp_path, "test")
    assert images.shape == (10_000, 1, 28, 28) and labels.shape == (10_000,)


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_truncated_idx_file_is_refused(idx, tmp_path, name):
    os.truncate(idx / name, 5000)
    assert f"{idx / name}: damaged, 5000 bytes in place of" in refusal(tmp_path)
    assert "delete it to download it again" in refusal(tmp_path)


def test_an_idx_file_with_another_header_is_refused(idx, tmp_path):
    with open(idx / "t10k-images-idx3-ubyte", "r+b") as file:
        file.write(struct.pack(">IIII", 2051, 19_600, 20, 20))
    assert f"{idx / 't10k-images-idx3-ubyte'}: damaged, it does not begin as it should" in refusal(
        tmp_path
    )


def test_labels_out_of_range_are_refused(idx, tmp_path):
    with open(idx / "t10k-labels-idx1-ubyte", "r+b") as file:
        file.seek(500)
        file.write(b"\xc8")
    message = refusal(tmp_path)
    assert (
        "labels from 0 to 200, where labels 0 to 9 belong" in message
        and "delete the folder" in message
    )


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("name", ["test_batch", "batches.meta"])
def test_an_altered_cifar_batch_is_refused_and_not_opened(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder, content = (
        tmp_path / CIFAR10.base_folder,
        pickle.dumps({"data": [], "labels": [], "label_names": []}),
    )
    folder.mkdir()
    parts = [part for part, _ in CIFAR10.train_list + CIFAR10.test_list] + [
        CIFAR10.meta["filename"]
    ]
    for part in parts:
        (folder / part).write_bytes(content)
    good = hashlib.md5(content).hexdigest()  # for this test, these are the originals
    monkeypatch.setattr(CIFAR10, "train_list", [[part, good] for part in parts[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[parts[5], good]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": good})
    (folder / name).write_bytes(pickle.dumps(Evil()))
    assert f"{folder / name}: damaged, its MD5 checksum is wrong; delete it" in refusal(
        tmp_path, "cifar10"
    )
    assert not (tmp_path / "ran").exists()


# Class folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    return class_folders(tmp_path / "photos", ("cat", "dog", "eel"), (25, 20), train=12, test=3)


def train_on(photos, *more, prepare=()):
    data = (
        "--data",
        "FolderDataModule",
        "--data.root",
        photos,
        "--data.image_size",
        "8",
        "--data.patch_size",
        "4",
    )
    model = "--model.stem_layers 0 --model.width 8 --model.depth 1 --model.heads 1".split()
    config = (
        "--config",
        "configs/digits.yaml",
        "--runs",
        photos.parent / "runs",
        "--trainer.accelerator",
        "cpu",
    )
    few = ("--trainer.max_epochs", "1", "--data.batch_size", "8", "--data.augment.mixup", "0")
    return train(*config, *data, *model, *few, *more, prepare=prepare)


def spoil(photos) -> list:
    """Damage four images, each in another way."""
    names = [
        photos / "train" / name for name in ("cat/3.png", "dog/0.png", "dog/7.png", "eel/5.png")
    ]
    names[0].write_bytes(names[0].read_bytes()[:40])
    names[1].write_bytes(b"")
    names[2].unlink()
    names[2].symlink_to("nowhere.png")
    names[3].unlink()
    names[3].mkdir()
    return names


def test_all_damaged_images_are_named_at_once(photos):
    names = spoil(photos)
    error = train_on(photos).error
    assert (
        f"{photos / 'train'}: 4 image(s) cannot be read" in error
        and "--data.skip_broken true" in error
    )
    assert all(str(name) in error for name in names)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_damaged_images_are_left_out_on_demand(photos, workers):
    spoil(photos)
    for _ in range(2):  # from the files, and from the cache
        ended = train_on(photos, "--data.skip_broken", "true", "--data.workers", workers)
        assert ended.code == 0, ended
        assert (
            "train: 4 damaged image(s) left out" in ended.text
            and "29 train, 3 val, 9 test images" in ended.text
        )


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("name", ["train", "train/dog", "."])
def test_a_folder_without_permission_is_named(photos, name):
    prepare = as_another_user(photos)
    (photos / name).chmod(0)
    assert (
        str(photos / name) in (error := train_on(photos, prepare=prepare).error)
        and "permissions" in error
    )
    (photos / name).chmod(0o755)


def change(photos, what: str) -> None:
    """Make a mistake that people make."""
    if what == "empty class":
        shutil.rmtree(photos / "train" / "dog")
        (photos / "train" / "dog").mkdir()
    if what == "nothing readable":
        for path in (photos / "train" / "dog").iterdir():
            path.write_bytes(b"\x89PNG")
    if what == "one class":
        shutil.rmtree(photos / "train" / "dog")
        shutil.rmtree(photos / "train" / "eel")
    if what == "no classes":
        shutil.rmtree(photos / "train")
    if what == "other classes":
        (photos / "test" / "dog").rename(photos / "test" / "fox")


@pytest.mark.parametrize(
    ("what", "said", "remedy"),
    [("empty class", "train/dog: the class has no image", "add images, or remove the folder"),
     ("nothing readable", "no image can be read in class dog", "add images, or remove the folder"),
     ("one class", "only the class 'cat' was found", "it takes two classes"),
     ("no classes", "train: there is no such folder", "put the images in"),
     ("other classes", "only here: fox; missing here: dog", "make the class folders the same")],
)  # fmt: skip
def test_folders_that_make_no_dataset(photos, what, said, remedy):
    change(photos, what)
    error = train_on(photos, "--data.skip_broken", "true").error
    assert said in error and remedy in error
    assert not (photos.parent / "runs").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_during_the_training_is_one_line(photos, workers):
    images = ImageSet(
        torch.empty(0, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(1).long(),
        [str(photos / "gone.png")],
    )
    loader = DataLoader(
        images,
        batch_sampler=[torch.tensor([0])],
        collate_fn=lambda batch: batch,
        num_workers=workers,
    )
    with pytest.raises(InputError) as caught:
        list(loader)
    assert str(caught.value) == f"{photos / 'gone.png'}: there is no such file; check the path"


# A full disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [20_000, 3_000]
)  # too little for a checkpoint; for TensorBoard's events, too
def test_no_room_for_a_checkpoint(tmp_path, size):
    """No file may grow larger than this from step 14 on; as on a full disk, writing fails half way."""
    limit = (at_step, 14, resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    ended = train(*tiny(tmp_path), prepare=limit)
    run = tmp_path / "digits" / "version_0"
    assert (
        str(run) in ended.error and "make room, then" in ended.error and "--resume" in ended.error
    )
    if size == 20_000:
        assert "the disk has" in ended.error and "the one before it is intact" in ended.error
    assert load_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 10
    assert not list(run.rglob("*.tmp"))
    assert train("--resume", run).code == 0 and len(read_metrics(run)) == 3


def test_no_room_for_a_large_tensor(tmp_path):
    """Where torch.save hides what the disk said behind a RuntimeError of its own."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with (
            pytest.raises(InputError, match="File too large.*make room"),
            open_atomically(tmp_path / "x") as file,
        ):
            torch.save(torch.zeros(30_000), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_no_room_for_anything(tmp_path):
    error = train(
        *tiny(tmp_path), prepare=(resource.setrlimit, resource.RLIMIT_FSIZE, (1000, 1000))
    ).error
    assert (
        f"{tmp_path / 'digits' / 'version_0' / 'config.yaml'}: could not be written (File too large)"
        in error
    )


def test_no_room_for_the_decoded_images(photos):
    """They are kept for the next start alone: the training goes on."""
    limit = (resource.setrlimit, resource.RLIMIT_FSIZE, (200_000, 200_000))
    ended = train_on(photos, "--data.image_size", "64", "--data.patch_size", "16", prepare=limit)
    assert (
        ended.code == 0 and "the decoded images could not be kept for the next run" in ended.text
    ), ended
    assert not list(photos.rglob("*.tmp"))


def test_what_came_first_is_what_is_said(capsys):
    """A library that cannot close its file on a full disk must not hide the reason."""
    with pytest.raises(SystemExit) as end, exit_on_input_error():
        try:
            raise InputError("last.ckpt: no room; make some")
        finally:
            raise OSError(errno.ENOSPC, "No space left on device")
    assert (
        end.value.code == 2 and capsys.readouterr().err == "error: last.ckpt: no room; make some\n"
    )


@contextlib.contextmanager
def small_disk(folder, kilobytes: int):
    """A file system of its own, in memory; only root can make one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if (
        os.geteuid()
        or not shutil.which("mount")
        or subprocess.run(command, capture_output=True).returncode
    ):
        pytest.skip("it takes root, and the right to mount, to make a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", 400) as runs:
        made, filler = run(runs, epochs=1), runs / "filler"
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(filler, filler.stat().st_size - 60_000)  # room for all but a checkpoint
        before = load_checkpoint(made / "checkpoints" / "last.ckpt")
        error = train("--resume", made, "--trainer.max_epochs", "3").error
        assert (
            "best.ckpt: could not be written (No space left on device): the disk has 0.0" in error
        )
        assert (
            load_checkpoint(made / "checkpoints" / "last.ckpt")["global_step"]
            == before["global_step"]
        )
        filler.unlink()
        assert (
            train("--resume", made, "--trainer.max_epochs", "3").code == 0
            and len(read_metrics(made)) == 3
        )
