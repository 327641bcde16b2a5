"""Weights files: a network in half precision, with its hyperparameters in the header.

The weights that come with the repository are in `src/weights/`. Unlike checkpoints, these files
have no training state and no checksums.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

BUNDLED = {file.stem: file for file in Path(__file__).parents[1].glob("weights/*.safetensors")}
KEY = "small-vit"  # header key of the hyperparameters


def pack(weights: dict[str, Tensor], description: dict[str, Any]) -> bytes:
    """Return the content of a weights file; floating-point weights are rounded to float16.

    Args:
        weights: the weights to predict with, keyed by parameter name.
        description: `format` and `hyper_parameters` of a checkpoint.
    """
    halved = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    return save(
        {key: value.contiguous() for key, value in halved.items()}, {KEY: json.dumps(description)}
    )


def unpack(path: Path) -> dict[str, Any]:
    """Return the content of a weights file as that of a checkpoint, with float32 weights.

    Raises:
        Exception: the file is damaged, or was not written by `pack`.
    """
    state = {}
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()[KEY])
        for key in file.keys():
            value = file.get_tensor(key)
            state[f"net.{key}"] = value.float() if value.dtype == torch.float16 else value
    return {**content, "state_dict": state}


def is_weights_file(path: Path) -> bool:
    """Return whether `pack` wrote the file, in contrast to weights from other libraries."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            return KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False
