"""Checkpoints as files: how they are opened, and where in them the weights are that count."""

import os
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from src.errors import InputError

# Of a checkpoint's content. Counted up by a change after which one version of the program cannot read the other's.
FORMAT = 1


def load_checkpoint(path: str | Path) -> dict:
    """Open one of our checkpoints without running anything it may hold (`weights_only=True`).

    Every tensor it holds is dense, on the CPU, and no larger than the file: none is a small storage seen as a huge one.

    Raises:
        InputError: the file is missing, damaged (a changed bit of its contents is noticed), not one of ours, or of
            another format than this program's.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path}: is a directory; name a checkpoint in it, for example {path}/checkpoints/best.ckpt"
        )
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint; check the path, or train it first")
    try:
        with open(path, "rb") as file:
            _check_zip(file)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        hparams = checkpoint["hyper_parameters"]
        hparams["dataset"]["classes"], checkpoint["state_dict"].keys()
        _check_format(path, checkpoint)
        hparams["network"]["kind"]
        if not all(isinstance(value, Tensor) for value in checkpoint["state_dict"].values()):
            raise TypeError
        _check_tensors(checkpoint)
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror or error}; check its permissions"
        ) from None
    except (KeyError, TypeError, AttributeError, IndexError):
        raise InputError(
            f"{path}: not a checkpoint of this program; name a .ckpt that train.py wrote"
        ) from None
    except Exception:  # a damaged or hostile file can fail anywhere in the unpickler
        raise InputError(
            f"{path}: damaged, or not a checkpoint of this program (only plain weights are opened, never code); "
            "name a .ckpt that train.py wrote"
        ) from None
    return checkpoint


def _check_format(path: Path, checkpoint: dict) -> None:
    found = checkpoint.get("format")
    if type(found) is not int or found != FORMAT:
        what = f"format {found}" if type(found) is int else "no format number"
        raise InputError(
            f"{path}: was written by another version of this program (a checkpoint with {what}, where this version "
            f"reads format {FORMAT}); use that version, or train again"
        )


def _check_zip(file) -> None:
    """Compare every part with its checksum, which PyTorch leaves out; parts are stored as they are, never packed."""
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if (
            packed
            or sum(part.file_size for part in parts) > file.seek(0, os.SEEK_END)
            or archive.testzip()
        ):
            raise ValueError("damaged")
    file.seek(0)


def _check_tensors(tree) -> None:
    if isinstance(tree, Tensor):
        if tree.layout != torch.strided or tree.device.type != "cpu" or tree.is_quantized:
            raise ValueError("a tensor of another kind than those we write")
        if tree.numel() * tree.element_size() > tree.untyped_storage().nbytes():
            raise ValueError("a tensor larger than its storage")
    elif isinstance(tree, dict | list | tuple):
        for part in tree.values() if isinstance(tree, dict) else tree:
            _check_tensors(part)


def network_weights(checkpoint: dict) -> tuple[dict[str, Tensor], bool]:
    """The weights to predict with, under the network's own names, and whether they are the averaged ones (`ema`).

    A `Classifier` keeps the trained network as `net` and, where it has one, the averaged one as `ema`.
    """
    state = checkpoint["state_dict"]
    averaged = any(key.startswith("ema.") for key in state)
    prefix = "ema." if averaged else "net."
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }, averaged
