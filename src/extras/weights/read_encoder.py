"""Read a trained encoder safely: from torchvision, a weights file, or one of our checkpoints."""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from src.config import SIZES
from src.errors import InputError, one_line
from src.extras.weights.names import TIMM, TORCHVISION, to_ours
from src.models.stem import ConvStem, Whiten
from src.models.vit import VisionTransformer
from src.runs.checkpoint import Checkpoint
from src.runs.directory import TORCHVISION_PREFIX
from src.runs.weights_file import is_weights_file

LIBRARIES = {"torchvision": TORCHVISION, "timm": TIMM}
# The number of heads cannot be inferred from weight shapes. These are from published models.
HEADS = {(size["width"], size["depth"]): size["heads"] for size in SIZES.values()}
HEADS[1280, 32] = 16  # ViT-H


class Encoder(NamedTuple):
    """A trained encoder under our parameter names.

    Attributes:
        kind: kind of source, for the report.
        state: tensors of the encoder, without the head.
        options: known settings of the network.
    """

    kind: str
    state: dict[str, Tensor]
    options: dict[str, Any]


def read_encoder(source: str) -> Encoder:
    """Read the encoder from a source; see `load_encoder`.

    Raises:
        InputError: the source cannot be read safely, or does not contain the encoder of a ViT.
    """
    if source.endswith(".ckpt") or is_weights_file(Path(source).expanduser()):
        return _from_checkpoint(source)
    if source.startswith(TORCHVISION_PREFIX):
        content = _download(source)
    else:
        content = _open(source)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    _check_state(source, content)
    for library, names in LIBRARIES.items():
        embedding = names["embed."] + "weight"
        if embedding in content or names["positions"] in content:
            state = to_ours(_without_head(content), names, source)
            options = _infer_options(state, content.get(embedding))
            return Encoder(f"{library} names", state, options)
    raise InputError(
        f"{source}: {next(iter(content))} is not a parameter of a torchvision or timm ViT; use the "
        "weights of one"
    )


def options_of(network: VisionTransformer) -> dict[str, Any]:
    """Return the settings that determine which weights fit the network."""
    first: Any = network.blocks[0]
    embed: Any = network.embed
    patch_size: Any = network.patch_size
    width = network.norm.weight.numel()
    stem_layers = len(embed.stages) if isinstance(embed, ConvStem) else 0
    return {
        "depth": len(network.blocks),
        "width": width,
        "heads": first.attention.heads,
        "mlp_ratio": round(first.mlp[0].out_features / width, 4),
        "pool": network.pool,
        "stem_layers": stem_layers,
        "whiten": stem_layers > 0 and isinstance(embed.whiten, Whiten),
        "patch_size": patch_size,
        "channels": embed.channels if stem_layers else embed.in_features // patch_size**2,
    }


def _from_checkpoint(source: str) -> Encoder:
    checkpoint = Checkpoint.open(Path(source).expanduser())
    network = checkpoint.build_network()
    if not isinstance(network, VisionTransformer):
        raise InputError(f"{source}: use a checkpoint of a single ViT, not of an ensemble or a CNN")
    kind = "averaged" if checkpoint.averaged else "trained"
    state = _without_head(network.state_dict())
    return Encoder(f"{kind} weights of a checkpoint", state, options_of(network))


def _infer_options(state: dict[str, Tensor], convolution: Tensor | None) -> dict[str, Any]:
    """Infer the settings of a plain ViT from the shapes of its weights."""
    options: dict[str, Any] = {
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "pool": "cls" if "class_token" in state else "mean",
        "stem_layers": 0,
    }
    if "norm.weight" in state and (width := state["norm.weight"].numel()):
        options["width"] = width
        size = (width, options["depth"])
        if size in HEADS:
            options["heads"] = HEADS[size]
        if "blocks.0.mlp.0.bias" in state:
            options["mlp_ratio"] = round(state["blocks.0.mlp.0.bias"].numel() / width, 4)
    if convolution is not None:
        options["channels"], options["patch_size"] = convolution.shape[1:3]
    return options


def _without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    heads = ("head.", "heads.", "pre_logits.")
    return {key: value for key, value in state.items() if not key.startswith(heads)}


def _check_state(source: str, content: Any) -> None:
    """Reject anything but a dict of named, dense, finite tensors no larger than their storage.

    A tensor with stride 0 takes up a few bytes but can declare any size. Copying it would exhaust
    memory.
    """
    is_named = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    if not is_named or not content:
        raise InputError(
            f"{source}: expected named tensors, got a {type(content).__name__}; pass a state dict"
        )
    for key, value in content.items():
        problem = ""
        is_tensor = isinstance(value, Tensor) and value.is_floating_point()
        if not is_tensor or value.layout != torch.strided or value.is_meta:
            problem = "is not a dense floating-point tensor"
        elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
            problem = f"{list(value.shape)} is larger than its storage"
        elif not value.float().isfinite().all():
            problem = "has infinite or NaN values"
        if problem:
            raise InputError(f"{source}: {key} {problem}; use the state dict of a trained ViT")


def _download(source: str) -> Any:
    from torchvision import models  # imported late: it takes half a second

    name = source.removeprefix(TORCHVISION_PREFIX)
    known = models.list_models(include="vit_*")
    if name not in known:
        raise InputError(f"{source}: unknown model; choose one of {', '.join(known)}")
    weights = models.get_model_weights(name).DEFAULT
    try:
        return weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # no network, a full disk, a hash mismatch, a truncated file
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        raise InputError(
            f"{source}: download failed ({one_line(error)}); download {weights.url} manually and "
            f"save it as {file}"
        ) from error


def _open(source: str) -> Any:
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(
            f"{source}: no such file; pass a .pth, .safetensors or .ckpt file, or "
            "torchvision:vit_b_16"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _reject_compressed(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise any exception
        raise InputError(
            f"{source}: cannot be loaded as plain tensors, because it is damaged or contains code "
            f"({type(error).__name__}); save its state dict again"
        ) from error


def _reject_compressed(path: Path) -> None:
    """Reject zip compression: a small file can expand to any size, and `torch.save` never uses it.

    Raises:
        ValueError: a part of the file is compressed.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type for part in archive.infolist()):
                raise ValueError("compressed")
