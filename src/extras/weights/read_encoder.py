"""Read a trained encoder safely: from torchvision, a file of weights, or one of our checkpoints."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.config import SIZES, ViTConfig
from src.errors import InputError, one_line
from src.extras.weights.names import TIMM, TORCHVISION, from_timm, from_torchvision, rename
from src.models.stem import doubling_widths
from src.runs.checkpoint import Checkpoint

TORCHVISION_PREFIX = "torchvision:"
# Heads do not show in the shapes of the weights. These are the published sizes; the last is ViT-H.
HEADS = {(size["width"], size["depth"]): size["heads"] for size in SIZES.values()}
HEADS[1280, 32] = 16


@dataclass(frozen=True)
class Encoder:
    """A trained encoder under our names.

    Attributes:
        source: where it was read from.
        style: what kind of source that is.
        state: its tensors, without the head.
        head: weight of the head, [K, D].
        names: table from our names to those of the source.
        options: the settings of its network, as far as they are known.
    """

    source: str
    style: str
    state: dict[str, Tensor]
    head: Tensor | None
    options: dict[str, Any]
    names: dict[str, str] = field(default_factory=dict)

    def describe(self, key: str) -> str:
        """Return the name of one of our tensors in the source, and its shape if it has one."""
        name = rename(key, self.names) or key
        return f"{name} {list(self.state[key].shape)}" if key in self.state else name


def read_encoder(source: str) -> Encoder:
    """Read the encoder from a source; see `load_encoder`.

    Raises:
        InputError: it cannot be read safely, or is not the encoder of a ViT.
    """
    if source.endswith(".ckpt"):
        return _from_checkpoint(source)
    if source.startswith(TORCHVISION_PREFIX):
        content = _download(source)
    else:
        content = _open(source)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    _check_state(source, content)
    return _from_library(source, content)


def infer_options(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the settings of a `VisionTransformer` that the shapes in its state dict tell."""
    stages = [
        value.shape[0] if value.ndim else 0
        for key, value in state.items()
        if key.endswith(".conv1.weight")
    ]
    doubles = not stages or stages[:-1] == doubling_widths(stages[-1], len(stages))
    pool = "mean"
    if "class_token" in state:
        pool = "cls"
    elif "sequence_pool.score.weight" in state:
        pool = "sequence"
    options: dict[str, Any] = {
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "stem_layers": len(stages),
        "stem_width": None if doubles else stages[0],
        "whiten": any(key.startswith("embed.whiten.") for key in state),
        "pool": pool,
    }
    if "norm.weight" in state and (width := state["norm.weight"].numel()):
        options["width"] = width
        if "blocks.0.mlp.0.bias" in state:
            options["mlp_ratio"] = round(state["blocks.0.mlp.0.bias"].numel() / width, 4)
    return options


def _from_checkpoint(source: str) -> Encoder:
    checkpoint = Checkpoint.open(Path(source).expanduser())
    config, dataset = checkpoint.network, checkpoint.dataset
    if (ensemble := checkpoint.training.ensemble) > 1:
        raise InputError(
            f"{source}: an ensemble of {ensemble} networks; give a run of a single network"
        )
    if not isinstance(config, ViTConfig):
        raise InputError(f"{source}: holds a {config.kind}, not a ViT; give weights of a ViT")
    known = {
        "patch_size": dataset.patch_size,
        "channels": dataset.channels,
        "heads": config.heads,
    }
    kind = "averaged" if checkpoint.averaged else "trained"
    state = _without_head(checkpoint.weights)
    return Encoder(
        source,
        f"{kind} weights of a checkpoint",
        state,
        checkpoint.weights.get("head.weight"),
        infer_options(state) | known,
    )


def _from_library(source: str, weights: dict[str, Tensor]) -> Encoder:
    state = _without_head(weights)
    if "conv_proj.weight" in weights or "encoder.pos_embedding" in weights:
        style, names = "torchvision names", TORCHVISION
        state = from_torchvision(state, source)
    elif "patch_embed.proj.weight" in weights or "pos_embed" in weights:
        style, names = "timm names", TIMM
        state = from_timm(state, source)
    else:
        raise InputError(
            f"{source}: {next(iter(weights))} is not a name of a ViT of torchvision or timm; give "
            "weights of one of these"
        )
    options = infer_options(state)
    if "embed.weight" in state:
        convolution = weights[names["embed."] + "weight"]
        options["channels"], options["patch_size"] = convolution.shape[1:3]
    size = (options.get("width"), options["depth"])
    if size in HEADS:
        options["heads"] = HEADS[size]
    head = weights.get(names["head."] + "weight")
    return Encoder(source, style, state, head, options, names)


def _without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    heads = ("head.", "heads.", "pre_logits.")
    return {key: value for key, value in state.items() if not key.startswith(heads)}


def _check_state(source: str, content: Any) -> None:
    """Refuse anything but a dict of named tensors that are no larger than their part of the file.

    A tensor with a stride of 0 is a few bytes long and claims any size; a copy fills the memory.
    """
    is_named = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    if not is_named or not content:
        raise InputError(
            f"{source}: holds no named tensors but a {type(content).__name__}; give a state dict"
        )
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{source}: {key} is a {type(value).__name__}, not a tensor; give a state dict"
            )
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise InputError(
                f"{source}: {key} is sparse, quantized or without values; save it as a dense tensor"
            )
        size = value.numel() * value.element_size()
        if size > value.untyped_storage().nbytes():
            raise InputError(
                f"{source}: {key} {list(value.shape)} claims more values than the file has for it; "
                "save a contiguous copy of it"
            )


def _download(source: str) -> Any:
    from torchvision import models  # imported late: it takes half a second

    name = source.removeprefix(TORCHVISION_PREFIX)
    known = [model for model in models.list_models() if model.startswith("vit_")]
    if name not in known:
        choices = ", ".join(TORCHVISION_PREFIX + model for model in known)
        raise InputError(f"{source} is unknown; choose one of {choices}")
    weights = models.get_model_weights(name).DEFAULT
    try:
        return weights.get_state_dict(
            progress=True, check_hash=True, map_location="cpu", weights_only=True
        )
    except Exception as error:  # no network, a full disk, a wrong hash, half a file
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        raise InputError(
            f"{source}: could not be downloaded ({one_line(error)}); get {weights.url} by hand and "
            f"save it as {file}"
        ) from error


def _open(source: str) -> Any:
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(
            f"{source}: no such file; give a .pth, .safetensors or .ckpt file, or "
            "torchvision:vit_b_16"
        )
    is_safetensors = path.suffix == ".safetensors"
    try:
        if is_safetensors:
            from safetensors.torch import load_file

            return load_file(path)
        _refuse_compressed(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise InputError(
            f"{source}: the package safetensors is missing; pip install safetensors"
        ) from None
    except Exception as error:  # a damaged file can raise anything
        writer = "safetensors" if is_safetensors else "torch.save"
        raise InputError(
            f"{source}: not a file of tensors that opens without running code "
            f"({type(error).__name__}); save a state dict again, with {writer}"
        ) from error


def _refuse_compressed(path: Path) -> None:
    """Refuse what `torch.save` never writes: a small file that unpacks to any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("compressed")
