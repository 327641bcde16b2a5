"""Load checkpoints safely (`weights_only=True`) and build their networks."""

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
from src.runs.weights_file import unpack

# Increase this number with every incompatible change to the checkpoint format.
FORMAT = 2

MAX_SIDE = 8192  # pixels; a checkpoint that declares larger images could exhaust memory
MAX_VALUES = 2**29  # maximum size of a layer's output for one image; 2 GiB in float32


def describe(
    dataset: DatasetInfo, network: NetworkConfig, training: TrainingConfig
) -> dict[str, dict[str, Any]]:
    """Return the hyperparameters of a checkpoint: the three configs as plain values."""
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
        path: checkpoint file.
        content: entire content of the file, with Lightning's keys.
        dataset: description of the training dataset.
        network: network architecture.
        training: training hyperparameters.
        temperature: divides the logits, so that probabilities are calibrated; 1 if none was fitted.
    """

    path: Path
    content: dict[str, Any]
    dataset: DatasetInfo
    network: NetworkConfig
    training: TrainingConfig
    temperature: float

    @classmethod
    def open(cls, path: str | Path) -> "Checkpoint":
        """Open a checkpoint, or a weights file (`.safetensors`), without running any code in it.

        Raises:
            InputError: the file is missing, damaged (in a checkpoint, even a single flipped bit is
                detected), not a checkpoint of this program, or in a different format version; or
                its weights do not match its hyperparameters.
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
                float(content.get("temperature", 1.0)),
            )
        except Exception as error:  # altered hyperparameters can fail in any way
            raise _mismatch_error(path, error) from None

    @property
    def epoch(self) -> int:
        """The 0-based epoch in which the checkpoint was written."""
        return self.content["epoch"]

    @property
    def global_step(self) -> int:
        """The number of optimizer steps before the checkpoint was written."""
        return self.content["global_step"]

    @property
    def averaged(self) -> bool:
        """Whether the checkpoint contains an exponential moving average of the weights."""
        return any(key.startswith("ema.") for key in self.content["state_dict"])

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to predict with, keyed by parameter name; averaged weights if available."""
        prefix = "ema." if self.averaged else "net."
        state = self.content["state_dict"]
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    def build_network(self) -> nn.Module:
        """Build the network and load its weights.

        The network is built on the meta device and receives the tensors in the file only if they
        match, so that a few bytes cannot declare a network that exhausts memory.

        Raises:
            InputError: the hyperparameters do not match the weights.
        """
        try:
            weights = self.weights
            self._check_sizes(weights)
            with torch.device("meta"):
                network = build_network(self.network, self.dataset, self.training.ensemble)
            network.load_state_dict(weights, assign=True)
            return network.float()
        except Exception as error:  # altered hyperparameters can fail in any way
            raise _mismatch_error(self.path, error) from None

    def _check_sizes(self, weights: dict[str, Tensor]) -> None:
        """Reject hyperparameters that would take too much time or memory."""
        ensemble, size = self.training.ensemble, self.dataset.image_size
        if not 1 <= ensemble <= len(weights):
            raise InputError(f"an ensemble of {ensemble} networks")
        tensors = len(weights) // ensemble
        for name in ("depth", "stem_layers"):
            if getattr(self.network, name, 0) > tensors:
                raise InputError(f"{name} {getattr(self.network, name)}, but {tensors} tensors")
        if size > MAX_SIDE:
            raise InputError(f"images of {size} pixels; the limit is {MAX_SIDE}")
        widest = max(max(value.shape, default=1) for value in weights.values())
        outputs = [0]
        for key, value in weights.items():
            if key.endswith("positions"):
                outputs.append(value.shape[1] * widest)
            elif key.endswith("bias.table"):  # expanded to [heads, tokens, tokens]
                outputs.append(len(value) * (value.shape[-1] // 2 + 1) ** 4)
            elif stage := re.search(r"embed\.stages\.(\d{1,2})\.conv1\.weight$", key):
                outputs.append(max(value.shape[:2], default=0) * (size >> int(stage[1])) ** 2)
        if max(outputs) > MAX_VALUES:
            raise InputError(f"the output of a layer would have {max(outputs):,} values per image")


def load(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint; see `Checkpoint.open`.

    All tensors are dense, on the CPU, and no larger than their storage in the file.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such checkpoint; check the path, train first, or use the bundled mnist or "
            "cifar100"
        )
    try:
        if path.suffix == ".safetensors":
            content = unpack(path)
        else:
            with open(path, "rb") as file:
                _check_zip(file)
                content = torch.load(file, map_location="cpu", weights_only=True)
        if not {"hyper_parameters", "state_dict"} <= content.keys():
            raise InputError(
                f"{path}: not a checkpoint of this program; pass a .ckpt file written by train.py"
            )
        found = content.get("format")
        if found != FORMAT:
            raise InputError(
                f"{path}: written by a different version of this program (format "
                f"{one_line(found, 20)}; this version reads format {FORMAT}); use that version, or "
                "train again"
            )
        _check_tensors(content)
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from None
    except Exception:  # the unpickler can fail in any way on a damaged or hostile file
        raise InputError(
            f"{path}: damaged, or not a checkpoint of this program (only weights are loaded, never "
            "code); pass a .ckpt file written by train.py"
        ) from None
    return content


def _mismatch_error(path: Path, error: Exception) -> Exception:
    if is_out_of_memory(error):
        return error
    return InputError(
        f"{path}: its weights do not match its hyperparameters ({one_line(error)}); train again"
    )


def _check_zip(file: BinaryIO) -> None:
    """Verify the checksums of all parts, which PyTorch does not do; reject compressed parts."""
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
            raise ValueError("unsupported kind of tensor")
        if tree.numel() * tree.element_size() > tree.untyped_storage().nbytes():
            raise ValueError("tensor larger than its storage")
    elif isinstance(tree, dict):
        _check_tensors(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for part in tree:
            _check_tensors(part)
