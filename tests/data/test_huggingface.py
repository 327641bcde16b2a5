"""Test Hugging Face datasets that are stored on disk, and a simulated download from the Hub."""

import sys

import pytest
import torch
from PIL import Image

from src.data import huggingface
from src.data.modules import FolderDataModule
from src.data.splits import open_split
from src.errors import InputError

datasets = pytest.importorskip("datasets", reason="needs requirements-huggingface.txt")

NAMES = ["owl", "cat/dog"]  # not sorted, and not a folder name


def make(count=6, split="train", label="label", names=NAMES):
    """Return a dataset of `count` images, whose red channel is 10 times the row number."""
    images = [Image.new("RGB", (20, 20), (10 * n, 0, int(split == "test"))) for n in range(count)]
    kind = datasets.ClassLabel(names=names) if names else datasets.Value("string")
    labels = [n % 2 if names else f"kind {n % 2}" for n in range(count)]
    return datasets.Dataset.from_dict(
        {"image": images, label: labels},
        datasets.Features({"image": datasets.Image(), label: kind}),
        split=split,
    )


def module_of(root, **options):
    data = FolderDataModule(str(root), **{"image_size": 16, "val_fraction": 0} | options)
    data.prepare_data()
    return data


def assert_holds(data, split="train", count=6):
    """Check all images and labels of a split, in training and as opened for a checkpoint."""
    assert data.info.classes == ("cat/dog", "owl")
    for images in (data.sets[split], open_split(data.info, split)):
        pixels, labels = images.__getitems__(torch.arange(len(images)))
        assert pixels[:, 0, 5, 5].tolist() == [10 * n for n in range(count)]
        assert pixels[:, 2].max() == int(split == "test")
        assert labels.tolist() == [1 - n % 2 for n in range(count)]


def test_parquet_files(tmp_path):
    make().to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    make(4, "test").to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    data = module_of(tmp_path)
    assert_holds(data)
    assert_holds(data, "test", 4)
    assert data.sets["val"] is None
    assert data.info.name == tmp_path.name


def test_a_copy_is_made_once_and_again_when_the_files_change(tmp_path, monkeypatch):
    file = tmp_path / "train.parquet"
    newer = tmp_path / "newer"
    make().to_parquet(file)
    make(8).to_parquet(newer)
    module_of(tmp_path)
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "datasets", None)
        assert_holds(module_of(tmp_path))
        newer.replace(file)
        with pytest.raises(InputError, match="pip install -r requirements-huggingface.txt"):
            module_of(tmp_path)
    assert_holds(module_of(tmp_path), count=8)


@pytest.mark.parametrize("splits", [False, True], ids=["Dataset", "DatasetDict"])
def test_save_to_disk(tmp_path, splits, capsys):
    saved = make()
    if splits:
        saved = datasets.DatasetDict(
            train=saved, validation=make(2), test=make(4, "test"), extra=make(2)
        )
    saved.save_to_disk(tmp_path / "saved")
    data = module_of(tmp_path / "saved")
    assert_holds(data)
    if splits:
        assert_holds(data, "val", 2)
        assert_holds(data, "test", 4)
        assert "split extra is not used" in capsys.readouterr().out


def test_splits_with_the_same_meaning_are_joined(tmp_path):
    parts = {"train": make(), "validation": make(2), "dev": make(4, "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    images = module_of(tmp_path / "saved").sets["val"]
    pixels, labels = images.__getitems__(torch.arange(6))
    assert sorted(pixels[:, 0, 5, 5].tolist()) == [0, 0, 10, 10, 20, 30]
    assert pixels[:, 2].sum((1, 2)).count_nonzero() == 4
    assert labels.sum() == 3


def test_labels_can_be_text_and_columns_can_be_named_differently(tmp_path):
    make(label="fine_label", names=None).to_parquet(tmp_path / "train.parquet")
    assert module_of(tmp_path).info.classes == ("kind 0", "kind 1")


def test_a_dataset_by_name(tmp_path, monkeypatch):
    asked = []

    def load(*args):
        asked.append(args)
        return datasets.DatasetDict(train=make())

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface, "COPIES", tmp_path)
    for _ in range(2):
        data = module_of("hf:someone/../pets:small")
        assert_holds(data)
    assert asked == [("someone/../pets", "small")]
    assert {path.name for path in tmp_path.iterdir()} >= {"someone--..--pets--small.csv"}


def test_checkpoints_do_not_make_the_program_load_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "COPIES", tmp_path / "elsewhere")
    make().to_parquet(tmp_path / "train.parquet")
    info = module_of(tmp_path).info
    with pytest.raises(InputError, match="hf:pets: the images have not been copied yet"):
        open_split(info, "test", root="hf:pets")


def test_rows_without_a_label_are_counted(tmp_path, capsys):
    unlabeled = make(4, "test").map(lambda row: {"label": -1})
    datasets.DatasetDict(train=make(), test=unlabeled).save_to_disk(tmp_path / "saved")
    assert module_of(tmp_path / "saved").sets["test"] is None
    assert "4 test rows without a label or image are not used" in capsys.readouterr().out


def test_unusable_datasets_are_refused(tmp_path):
    file = tmp_path / "train.parquet"
    make(200).to_parquet(file)
    content = bytearray(file.read_bytes())
    content[4:2000] = bytes(1996)
    for damaged in (content, b"damaged"):
        file.write_bytes(damaged)
        with pytest.raises(
            InputError, match="cannot be copied to .*; check the name, the"
        ) as error:
            module_of(tmp_path)
        assert "\n" not in str(error.value)
    make().remove_columns("image").to_parquet(file)
    with pytest.raises(InputError, match="an image column and a label column are needed, found"):
        module_of(tmp_path)
