"""A checkpoint says which format it has, and one of another format is refused by one line that says so."""

import pytest
import torch

from src.data.modules import DigitsDataModule
from src.errors import InputError
from src.runs.checkpoint import FORMAT, load_checkpoint
from src.training.classifier import CNN


@pytest.fixture(scope="module")
def content():
    module = CNN(DigitsDataModule(patch_size=None).description)
    return {
        "format": FORMAT,
        "hyper_parameters": dict(module.hparams),
        "state_dict": module.state_dict(),
    }


def error_of(path, content):
    torch.save(content, path)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    return str(caught.value)


def test_train_py_writes_the_format(digits_run):
    for name in ("best", "last"):
        assert load_checkpoint(digits_run / "checkpoints" / f"{name}.ckpt")["format"] == FORMAT


def test_this_format_is_read(tmp_path, content):
    torch.save(content, tmp_path / "net.ckpt")
    assert (
        load_checkpoint(tmp_path / "net.ckpt")["state_dict"].keys() == content["state_dict"].keys()
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [(FORMAT + 1, f"format {FORMAT + 1}"), (0, "format 0"), (None, "no format number"), (True, "no format number"),
     ("1", "no format number"), (torch.ones(2), "no format number")],
)  # fmt: skip
def test_another_format_is_refused(tmp_path, content, found, said):
    line = error_of(tmp_path / "net.ckpt", content | {"format": found})
    assert line == (
        f"{tmp_path / 'net.ckpt'}: was written by another version of this program (a checkpoint with {said}, where "
        f"this version reads format {FORMAT}); use that version, or train again"
    )


def test_a_checkpoint_of_before_formats_is_refused_whatever_else_has_changed(tmp_path, content):
    old = {key: value for key, value in content.items() if key != "format"}
    old["hyper_parameters"] = {"dataset": content["hyper_parameters"]["dataset"]}
    assert "was written by another version of this program" in error_of(tmp_path / "net.ckpt", old)


def test_a_checkpoint_of_another_program_is_none_of_ours(tmp_path, content):
    other = {
        "hyper_parameters": {"lr": 0.1, "dataset": "mnist"},
        "state_dict": content["state_dict"],
    }
    assert "not a checkpoint of this program" in error_of(tmp_path / "net.ckpt", other)
