"""The loading of a trained encoder for fine-tuning, from torchvision, timm or a checkpoint of ours."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.errors import InputError
from src.extras.weights.names import TIMM, TORCHVISION, TORCHVISION_OLD, convert, inverse, rename
from src.models.stem import ConvStem, doubling
from src.models.vit import SIZES, VisionTransformer, sincos_positions
from src.runs.checkpoint import load_checkpoint, network_weights
from src.runs.directory import find_trained

# Heads leave no trace in the shapes. These are the published sizes; the last is ViT-H.
HEADS = {(size["width"], size["depth"]): size["heads"] for size in SIZES.values()} | {
    (1280, 32): 16
}


def resample_positions(positions: Tensor, side: int, extra_tokens: int) -> Tensor:
    """Bicubic interpolation of position embeddings to another grid, section 3.2 of the ViT paper (arXiv:2010.11929).

    Args:
        positions: [1, extra_tokens + S * S, D].
        side: tokens along one side of the new grid.
        extra_tokens: tokens before the grid, such as the class token; they are kept as they are.

    Returns:
        [1, extra_tokens + side * side, D], in the same dtype. Smaller grids are antialiased.

    Raises:
        InputError: when the tokens after the first `extra_tokens` are not a square.
    """
    extra, grid = positions[:, :extra_tokens], positions[:, extra_tokens:]
    old = math.isqrt(grid.shape[1])
    if old == 0 or old**2 != grid.shape[1]:
        raise InputError(
            f"positions {list(positions.shape)} are not a square grid after {extra_tokens} extra tokens; "
            "only square images can be resampled"
        )
    if old == side:
        return positions
    grid = grid.float().transpose(1, 2).unflatten(2, (old, old))
    grid = F.interpolate(
        grid, size=(side, side), mode="bicubic", antialias=True, align_corners=False
    )
    return torch.cat([extra, grid.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


def load_encoder(network: VisionTransformer, source: str) -> str:
    """Load everything but the head from trained weights; position embeddings are resampled to the network's grid.

    Nothing is copied before everything is checked: after an error the network is what it was.

    Args:
        network: the network to fill. Its head stays as it is.
        source: `torchvision:vit_b_16` (or another vit_* of torchvision, downloaded by it); or a file: a state dict of
            torchvision or timm (.pth, .pt, .bin, .safetensors); or a checkpoint of this program (.ckpt), its run
            directory, or the folder of a name's runs; the averaged weights are taken where it has them.

    Returns:
        A report of a few lines: what was loaded, resampled, not used, and what is new.

    Raises:
        InputError: when the source cannot be read safely, or its encoder is not that of the network.
    """
    path = Path(source).expanduser()
    if path.is_dir() or not (
        path.suffix or source.startswith("torchvision:")
    ):  # a run, or the name of one
        source = str(find_trained(source))
    found = _read(source)
    own = network.state_dict()
    head = {key: value for key, value in own.items() if key.startswith("head.")}
    _compare(source, found, network, {key: value for key, value in own.items() if key not in head})
    positions, resampled = _fit_positions(source, found, network)
    network.load_state_dict(found.state | {"positions": positions} | head)
    heads = network.blocks[0].attention.heads
    heads = (
        f"{heads}, as in the source"
        if "heads" in found.options
        else f"{heads}, which the source does not tell"
    )
    return "\n".join(
        [
            f"encoder from {source} ({found.style})",
            f"  loaded     {len(found.state)} tensors",
            f"  resampled  {resampled}",
            f"  not used   {_head(found.head)}",
            f"  new        {_head(head.get('head.weight'))}",
            f"  heads      {heads}",
        ]
    )


class _Found(NamedTuple):
    """What a source holds: its encoder in our names, and what the tensors alone do not say."""

    style: str
    state: dict[str, Tensor]
    head: Tensor | None  # [K, D]
    names: dict[str, str]  # ours -> those of the source
    options: dict[str, int]  # patch_size, channels and heads, where they are known

    def shown(self, key: str) -> str:
        """Name and shape of one of our tensors as the source has it, for messages."""
        return f"{rename(key, self.names) or key}" + (
            f" {list(self.state[key].shape)}" if key in self.state else ""
        )


def _read(source: str) -> _Found:
    if source.endswith(".ckpt"):
        return _from_checkpoint(source, load_checkpoint(Path(source).expanduser()))
    state = _download(source) if source.startswith("torchvision:") else _open(source)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(key, str) for key in state):
        raise InputError(
            f"{source}: holds no named tensors but a {type(state).__name__}; give a state dict"
        )
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{source}: {key} is a {type(value).__name__}, not a tensor; give a state dict"
            )
    return _from_library(source, state)


def _from_checkpoint(source: str, checkpoint: dict) -> _Found:
    hparams, (state, averaged) = checkpoint["hyper_parameters"], network_weights(checkpoint)
    network = hparams["network"]
    if (members := hparams.get("ensemble", 1)) != 1:
        raise InputError(
            f"{source}: an ensemble of {members} networks; give a run of a single network"
        )
    if network["kind"] != "vit":
        raise InputError(f"{source}: holds a {network['kind']}, not a ViT; give weights of a ViT")
    heads = network.get("heads") or SIZES.get(network.get("size"), {}).get("heads")
    options = {
        "patch_size": network.get("patch_size"),
        "channels": network.get("channels"),
        "heads": heads,
    }
    style = f"{'averaged' if averaged else 'trained'} weights of a checkpoint"
    return _Found(style, _without_head(state), state.get("head.weight"), {}, options)


def _from_library(source: str, state: dict[str, Tensor]) -> _Found:
    if "conv_proj.weight" in state or "encoder.pos_embedding" in state:
        style, names, old = "torchvision names", TORCHVISION, TORCHVISION_OLD
    elif "patch_embed.proj.weight" in state or "pos_embed" in state:
        style, names, old = "timm names", TIMM, {}
    else:
        raise InputError(
            f"{source}: {next(iter(state))} is not a name of a ViT of torchvision or timm; give weights of one of these"
        )
    head, conv = (
        state.get(names["head."] + "weight"),
        state.get(names["embed."] + "weight", torch.empty(0)),
    )
    options = {"channels": conv.shape[1], "patch_size": conv.shape[-1]} if conv.ndim == 4 else {}
    state = convert(_without_head(state), inverse(names) | old, source)
    if heads := HEADS.get((_facts(state).get("width"), _facts(state)["depth"])):
        options["heads"] = heads
    return _Found(style, state, head, names, options)


def _without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: value
        for key, value in state.items()
        if not key.startswith(("head.", "heads.", "pre_logits."))
    }


def _download(source: str) -> dict:
    from torchvision import models  # half a second to import, for this source alone

    name = source.removeprefix("torchvision:")
    known = [model for model in models.list_models() if model.startswith("vit_")]
    if name not in known:
        raise InputError(
            f"{source} is unknown; choose one of {', '.join('torchvision:' + model for model in known)}"
        )
    weights = models.get_model_weights(name).DEFAULT
    try:
        return weights.get_state_dict(
            progress=True, check_hash=True, map_location="cpu", weights_only=True
        )
    except Exception as error:  # no network, a full disk, a wrong hash, half a file
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        reason = " ".join(str(error).split())[:200]
        message = (
            f"{source}: no download ({reason}); get {weights.url} by hand and save it as {file}"
        )
        raise InputError(message) from error


def _open(source: str) -> Any:
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(
            f"{source}: no such file; give a .pth, .safetensors or .ckpt file, or torchvision:vit_b_16"
        )
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise InputError(
                f"{source}: the safetensors package is missing; pip install safetensors"
            ) from None
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise InputError(
            f"{source}: not a file of tensors that opens without running code ({type(error).__name__}); "
            f"save a state dict again, with {'safetensors' if path.suffix == '.safetensors' else 'torch.save'}"
        ) from error


def _compare(
    source: str, found: _Found, network: VisionTransformer, expected: dict[str, Tensor]
) -> None:
    """Raise InputError at the first tensor that does not fit; the line names every option to change."""
    stem, patch_size = isinstance(network.embed, ConvStem), network.patch_size
    have = _facts(expected) | {"heads": network.blocks[0].attention.heads, "patch_size": patch_size}
    have["channels"] = (
        network.embed.channels if stem else network.embed.in_features // patch_size**2
    )
    wanted = _facts(found.state) | found.options
    wanted = {name: value for name, value in wanted.items() if value != have.get(name, value)}
    flags = [
        f"--{'data' if name == 'patch_size' else 'model'}.{name} {'null' if value is None else str(value).lower()}"
        for name, value in wanted.items()
        if name != "channels"
    ]
    channels = [f"use images of {wanted['channels']} channels"] if "channels" in wanted else []
    advice = ["set " + " ".join(flags)] * bool(flags) + channels
    remedy = " and ".join(advice) or "use the complete weights of a plain ViT"

    for key, value in expected.items():
        shape = found.state[key].shape if key in found.state else None
        if shape is None:
            raise InputError(
                f"{source}: {found.shown(key)} is missing, the model's is {list(value.shape)}; {remedy}"
            )
        if (
            shape[-1:] != value.shape[-1:]
            or len(shape) != value.ndim
            or (key != "positions" and shape != value.shape)
        ):
            raise InputError(
                f"{source}: {found.shown(key)} does not fit the model's {list(value.shape)}; {remedy}"
            )
    for key in found.state:
        if key not in expected:
            raise InputError(f"{source}: {found.shown(key)} has no place in the model; {remedy}")
    for name, value in wanted.items():
        raise InputError(
            f"{source}: {name} is {value} in the file but {have[name]} in the model; {remedy}"
        )


def _facts(state: dict[str, Tensor]) -> dict[str, Any]:
    """The options of `VisionTransformer` that show in a state dict."""
    width = state["norm.weight"].numel() if "norm.weight" in state else 0
    stages = [(*value.shape, 0)[0] for key, value in state.items() if key.endswith(".conv1.weight")]
    doubled = not stages or stages[:-1] == doubling(stages[-1], len(stages))
    facts = {
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "stem_layers": len(stages),
        "stem_width": None if doubled else stages[0],
        "whiten": any(key.startswith("embed.whiten.") for key in state),
        "pool": "cls"
        if "class_token" in state
        else "sequence"
        if "sequence_pool.score.weight" in state
        else "mean",
    }
    if width:
        facts["width"] = width
        if "blocks.0.mlp.0.bias" in state:
            facts["mlp_ratio"] = round(state["blocks.0.mlp.0.bias"].numel() / width, 4)
    return facts


def _head(weight: Tensor | None) -> str:
    return "nothing" if weight is None or weight.ndim == 0 else f"head ({len(weight)} classes)"


def _fit_positions(source: str, found: _Found, network: VisionTransformer) -> tuple[Tensor, str]:
    """The source's positions on the network's grid, and what was done to them."""
    positions, extra = found.state["positions"], int(network.pool == "cls")
    side = math.isqrt(max(0, positions.shape[1] - extra))
    if positions.shape[0] != 1 or side == 0 or side**2 != positions.shape[1] - extra:
        raise InputError(
            f"{source}: {found.shown('positions')} is not a square grid after {extra} class token, the model's is "
            f"{list(network.positions.shape)}; use weights trained on square images"
        )
    report = (
        f"positions from {side}x{side} to {network.side}x{network.side}"
        if side != network.side
        else "nothing"
    )
    if not isinstance(network.positions, nn.Parameter):  # a formula: it knows the other grid too
        if not torch.allclose(
            positions[0, extra:].float(), sincos_positions(side, positions.shape[2]), atol=1e-3
        ):
            raise InputError(
                f"{source}: {found.shown('positions')} is learned, the model's {list(network.positions.shape)} "
                "is fixed; set --model.positions learned"
            )
        return network.positions, report
    return resample_positions(positions, network.side, extra), report
