"""Test the format number of checkpoints. Damaged and hostile files are tested in tests/programs."""

import pytest
import torch
from vits import dataset, save_module

from src.errors import InputError
from src.runs.checkpoint import FORMAT, Checkpoint, load
from src.training.classifier import CNN


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("content") / "net.ckpt"
    return load(save_module(path, CNN(dataset(patch_size=None))))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.ckpt"


def error_of(path, content) -> str:
    torch.save(content, path)
    with pytest.raises(InputError) as caught:
        load(path)
    return str(caught.value)


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_train_py_writes_the_format(digits_run, name):
    assert load(digits_run / "checkpoints" / name)["format"] == FORMAT


@pytest.mark.parametrize("found", [FORMAT + 1, None])
def test_other_formats_are_refused(path, content, found):
    assert error_of(path, content | {"format": found}) == (
        f"{path}: written by a different version of this program (format {found}; this version "
        f"reads format {FORMAT}); use that version, or train again"
    )


def test_other_files_are_refused(path, content):
    assert "not a checkpoint of this program" in error_of(path, content["state_dict"])


def test_checkpoint_without_a_temperature_has_one(path, content):
    torch.save({key: value for key, value in content.items() if key != "temperature"}, path)
    assert Checkpoint.open(path).temperature == 1
    torch.save(content | {"temperature": "warm"}, path)
    with pytest.raises(InputError, match="do not match"):
        Checkpoint.open(path)
