"""Test weights files in half precision, and the ones that come with the repository."""

import pytest
import torch
from safetensors.torch import save_file
from vits import checkpoint, ours

from src.errors import InputError
from src.runs.checkpoint import Checkpoint
from src.runs.directory import find_checkpoint, find_pretrained
from src.runs.weights_file import BUNDLED, is_weights_file, pack


def packed(folder, **network):
    """Write a checkpoint and a weights file of the same small network; return both paths."""
    state = {f"net.{key}": value for key, value in ours(**network).state_dict().items()}
    path = checkpoint(folder, state, **network)
    opened = Checkpoint.open(path)
    file = folder / "weights.safetensors"
    description = {
        "format": opened.content["format"],
        "hyper_parameters": opened.content["hyper_parameters"],
    }
    file.write_bytes(pack(opened.weights, description))
    return path, file


def test_a_weights_file_is_the_rounded_checkpoint(tmp_path):
    path, file = packed(tmp_path, positions="sincos")
    before, after = Checkpoint.open(path), Checkpoint.open(file)
    assert after.dataset == before.dataset
    assert after.network == before.network
    rounded = after.build_network().state_dict()
    for key, value in before.build_network().state_dict().items():
        assert rounded[key].dtype == value.dtype
        assert torch.equal(rounded[key], value.half().float()), key


def test_a_damaged_or_foreign_file_is_an_error(tmp_path):
    _, file = packed(tmp_path)
    assert is_weights_file(file)
    content = file.read_bytes()
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(content[:-100])
    altered = tmp_path / "altered.safetensors"
    altered.write_bytes(content.replace(rb"\"width\": 32", rb"\"width\": 64"))
    assert altered.read_bytes() != content
    for path, message in (
        (foreign, "not a checkpoint of this program"),
        (cut, "damaged"),
        (altered, "its weights do not match its hyperparameters"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            Checkpoint.open(path).build_network()
        assert "\n" not in str(caught.value)
    assert not is_weights_file(foreign)
    assert not is_weights_file(cut)


@pytest.mark.parametrize(("name", "classes"), [("mnist", 10), ("cifar100", 100)])
def test_bundled_weights_have_names(tmp_path, monkeypatch, name, classes):
    monkeypatch.chdir(tmp_path)
    path = find_checkpoint(name)
    assert find_pretrained(name) == str(path)
    opened = Checkpoint.open(path)
    assert opened.dataset.name == name
    assert len(opened.dataset.classes) == classes
    opened.build_network()


def test_without_runs_the_digits_network_is_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(None) == BUNDLED["mnist"]
