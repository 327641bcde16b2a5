"""Load checkpoints safely (`weights_only=True`), and build the network they hold."""

import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from src.config import (
    NETWORK_CONFIGS,
    DatasetInfo,
    NetworkConfig,
    TrainingConfig,
    from_primitives,
    to_primitives,
)
from src.errors import InputError, is_out_of_memory, one_line
from src.models.build import build_network

# Increased by a change after which one version of the program cannot read the other's checkpoints.
FORMAT = 2

MAX_SIDE = 8192  # pixels; a checkpoint that declares larger images attacks the memory
MAX_VALUES = 2**29  # of one layer's output for one image: 2 GiB in float32


def describe(
    dataset: DatasetInfo, network: NetworkConfig, training: TrainingConfig
) -> dict[str, dict[str, Any]]:
    """Return the hyperparameters of a checkpoint: the three descriptions as plain values."""
    kind = NETWORK_CONFIGS[network.kind]
    return {
        "dataset": to_primitives(dataset),
        "network": {"kind": network.kind} | to_primitives(network, kind),
        "training": to_primitives(training, TrainingConfig),
    }


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        path: its file.
        content: everything in the file, under Lightning's keys.
        dataset: the images it was trained for.
        network: the architecture.
        training: the training settings.
    """

    path: Path
    content: dict[str, Any]
    dataset: DatasetInfo
    network: NetworkConfig
    training: TrainingConfig

    @classmethod
    def open(cls, path: str | Path) -> "Checkpoint":
        """Open a checkpoint without running any code in it.

        Raises:
            InputError: the file is missing, damaged (a single flipped bit is noticed), not one of
                ours, of another format, or describes a network that its weights do not fit.
        """
        path = Path(path)
        content = load(path)
        try:
            hparams = content["hyper_parameters"]
            network = dict(hparams["network"])
            kind = NETWORK_CONFIGS[network.pop("kind")]
            return cls(
                path,
                content,
                from_primitives(DatasetInfo, hparams["dataset"]),
                from_primitives(kind, network),
                from_primitives(TrainingConfig, hparams["training"]),
            )
        except Exception as error:  # altered hyperparameters can fail in any way
            raise _unfit(path, error) from None

    @property
    def epoch(self) -> int:
        """The epoch, from 0, in which it was written."""
        return self.content["epoch"]

    @property
    def global_step(self) -> int:
        """Number of optimizer steps before it was written."""
        return self.content["global_step"]

    @property
    def averaged(self) -> bool:
        """Whether it has an exponential moving average of the weights."""
        return any(key.startswith("ema.") for key in self.content["state_dict"])

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to predict with, under the network's own names: the averaged ones if any."""
        prefix = "ema." if self.averaged else "net."
        state = self.content["state_dict"]
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    def build_network(self) -> nn.Module:
        """Return the network with its weights.

        It is built on the meta device and given the file's tensors only if they fit, so that a few
        bytes cannot declare a network that fills the memory.

        Raises:
            InputError: the description does not fit the weights.
        """
        try:
            weights = self.weights
            self._check_sizes(weights)
            with torch.device("meta"):
                network = build_network(self.network, self.dataset, self.training.ensemble)
            network.load_state_dict(weights, assign=True)
            return network.float()
        except Exception as error:  # altered hyperparameters can fail in any way
            raise _unfit(self.path, error) from None

    def _check_sizes(self, weights: dict[str, Tensor]) -> None:
        """Refuse a description whose construction or first image would take too much."""
        ensemble, size = self.training.ensemble, self.dataset.image_size
        if not 1 <= ensemble <= len(weights):
            raise InputError(f"an ensemble of {ensemble} networks")
        tensors = len(weights) // ensemble
        for name in ("depth", "stem_layers"):
            if getattr(self.network, name, 0) > tensors:
                raise InputError(f"{name} {getattr(self.network, name)} for {tensors} tensors")
        if size > MAX_SIDE:
            raise InputError(f"images of {size} pixels; the limit is {MAX_SIDE}")
        widest = max(max(value.shape, default=1) for value in weights.values())
        outputs = []
        for key, value in weights.items():
            if key.endswith("positions"):
                outputs.append(value.shape[1] * widest)
            elif stage := re.search(r"embed\.stages\.(\d{1,2})\.conv1\.weight$", key):
                channels = max(value.shape[:2], default=0)
                outputs.append(channels * (size >> int(stage[1])) ** 2)
        if max(outputs, default=0) > MAX_VALUES:
            raise InputError(f"a layer would compute {max(outputs):,} values for one image")


def load(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint of ours; see `Checkpoint.open`.

    Every tensor in it is dense, on the CPU, and no larger than its part of the file.
    """
    if path.is_dir():
        example = path / "checkpoints" / "best.ckpt"
        raise InputError(f"{path} is a directory; name a checkpoint in it, for example {example}")
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; check the path, or train first")
    try:
        with open(path, "rb") as file:
            _check_zip(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
        if not {"hyper_parameters", "state_dict"} <= content.keys():
            raise InputError(
                f"{path}: not a checkpoint of this program; name a .ckpt that train.py wrote"
            )
        _check_format(path, content.get("format"))
        _check_tensors(content)
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from None
    except Exception:  # the unpickler can fail in any way on a damaged or hostile file
        raise InputError(
            f"{path}: damaged, or not a checkpoint of this program (only weights are opened, never "
            "code); name a .ckpt that train.py wrote"
        ) from None
    return content


def _unfit(path: Path, error: Exception) -> InputError:
    if is_out_of_memory(error):
        return InputError(f"{path}: out of memory ({one_line(error)}); close other programs")
    return InputError(
        f"{path}: its weights and hyperparameters do not fit each other ({one_line(error)}); train "
        "again"
    )


def _check_format(path: Path, found: object) -> None:
    if type(found) is int and found == FORMAT:
        return
    version = f"format {found}" if type(found) is int else "no format number"
    raise InputError(
        f"{path}: written by another version of this program ({version}; this one reads format "
        f"{FORMAT}); use that version, or train again"
    )


def _check_zip(file: BinaryIO) -> None:
    """Verify the checksum of every part, which PyTorch does not; refuse compressed parts."""
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        compressed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        size = file.seek(0, os.SEEK_END)
        if compressed or sum(part.file_size for part in parts) > size or archive.testzip():
            raise ValueError("damaged")
    file.seek(0)


def _check_tensors(tree: Any) -> None:
    if isinstance(tree, Tensor):
        if tree.layout != torch.strided or tree.device.type != "cpu" or tree.is_quantized:
            raise ValueError("a tensor of another kind than ours")
        if tree.numel() * tree.element_size() > tree.untyped_storage().nbytes():
            raise ValueError("a tensor larger than its storage")
    elif isinstance(tree, dict):
        _check_tensors(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for part in tree:
            _check_tensors(part)
