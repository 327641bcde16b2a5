"""Start a network from the encoder of a trained one (`--model.init_from`)."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.errors import InputError
from src.extras.weights.read_encoder import (
    TORCHVISION_PREFIX,
    Encoder,
    infer_options,
    read_encoder,
)
from src.models.blocks import sincos_positions
from src.models.stem import ConvStem
from src.models.vit import VisionTransformer
from src.runs.directory import find_finished

if TYPE_CHECKING:
    from src.training.classifier import ViT

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def initialize(model: "ViT") -> str:
    """Load `model.init_from` into a model, and into its averaged weights if it has any.

    Returns:
        The report of `load_encoder`.

    Raises:
        InputError: see `load_encoder`.
    """
    assert isinstance(model.net, VisionTransformer)
    report = load_encoder(model.net, str(model.init_from))
    if model.ema:
        model.ema.load_state_dict(model.net.state_dict())
    model.initialized = True
    return report


def load_encoder(network: VisionTransformer, source: str) -> str:
    """Load everything but the head from trained weights; resample positions to the network's grid.

    Everything is checked before anything is copied: after an error the network is unchanged.

    Args:
        network: the network to fill. Its head is left as it is.
        source: `torchvision:vit_b_16`, or another vit_* of torchvision; a state dict of
            torchvision or timm (.pth, .pt, .bin, .safetensors); a checkpoint of this program
            (.ckpt), its run directory, or the folder of all runs of a name. Averaged weights are
            preferred where a checkpoint has them.

    Returns:
        A report of a few lines: what was loaded, resampled, not used, and what is new.

    Raises:
        InputError: the source cannot be read safely, or its encoder does not fit the network.
    """
    path = Path(source).expanduser()
    is_name = not path.suffix and not source.startswith(TORCHVISION_PREFIX)
    if path.is_dir() or is_name:
        source = str(find_finished(source))
    encoder = read_encoder(source)
    own = network.state_dict()
    head = {key: value for key, value in own.items() if key.startswith("head.")}
    expected = {key: value for key, value in own.items() if key not in head}
    _check_fit(encoder, network, expected)
    positions, resampled = _fit_positions(encoder, network)
    network.load_state_dict(encoder.state | {"positions": positions} | head)
    heads = str(_heads(network))
    heads += ", as in the source" if "heads" in encoder.options else ", which the source lacks"
    lines = [
        f"encoder from {source} ({encoder.style})",
        f"  loaded     {len(encoder.state)} tensors",
        f"  resampled  {resampled}",
        f"  not used   {_describe_head(encoder.head)}",
        f"  new        {_describe_head(head['head.weight'])}",
        f"  heads      {heads}",
    ]
    return "\n".join(lines)


def resample_positions(positions: Tensor, side: int, extra_tokens: int) -> Tensor:
    """Interpolate position embeddings to another grid, section 3.2 of the ViT paper.

    Args:
        positions: [1, extra_tokens + S * S, D].
        side: tokens along one side of the new grid.
        extra_tokens: tokens before the grid, such as the class token; they are kept as they are.

    Returns:
        [1, extra_tokens + side * side, D], in the same dtype: bicubic, smaller grids antialiased.

    Raises:
        InputError: the tokens after the first `extra_tokens` are not a square.
    """
    old = _grid_side(positions, extra_tokens)
    if old is None:
        raise InputError(
            f"positions {list(positions.shape)} are not a square grid after {extra_tokens} extra "
            "tokens; only square images can be resampled"
        )
    if old == side:
        return positions
    extra, grid = positions[:, :extra_tokens], positions[:, extra_tokens:]
    images = grid.float().transpose(1, 2).unflatten(2, (old, old))
    resized = F.interpolate(
        images, size=(side, side), mode="bicubic", antialias=True, align_corners=False
    )
    tokens = resized.flatten(2).transpose(1, 2)
    return torch.cat([extra, tokens.to(positions.dtype)], dim=1)


def _grid_side(positions: Tensor, extra_tokens: int) -> int | None:
    """Return the tokens along one side of the grid; None if it is not a square."""
    tokens = positions.shape[1] - extra_tokens
    side = math.isqrt(max(0, tokens))
    return side if side and side**2 == tokens else None


def _check_fit(encoder: Encoder, network: VisionTransformer, expected: dict[str, Tensor]) -> None:
    """Raise InputError at the first tensor that does not fit; name every setting to change."""
    source = encoder.source
    own = _options(network, expected)
    differing = {
        name: value for name, value in encoder.options.items() if value != own.get(name, value)
    }
    remedy = _remedy(differing)
    for key, value in expected.items():
        name, shape = encoder.describe(key), list(value.shape)
        found = encoder.state.get(key)
        if found is None:
            raise InputError(f"{source}: {name} is missing, the model's is {shape}; {remedy}")
        if not _has_shape(found, value, is_positions=key == "positions"):
            raise InputError(f"{source}: {name} does not fit the model's {shape}; {remedy}")
    for key in encoder.state:
        if key not in expected:
            raise InputError(
                f"{source}: {encoder.describe(key)} has no place in the model; {remedy}"
            )
    for name, value in differing.items():
        raise InputError(
            f"{source}: {name} is {value} in the file but {own[name]} in the model; {remedy}"
        )
    for key, value in expected.items():
        _check_values(encoder, key, value)


def _has_shape(found: Tensor, expected: Tensor, is_positions: bool) -> bool:
    """Return whether a tensor has the shape that is expected; positions may have another grid."""
    if is_positions and found.ndim == 3:
        return found.shape[2] == expected.shape[2]
    return found.shape == expected.shape


def _check_values(encoder: Encoder, key: str, expected: Tensor) -> None:
    found = encoder.state[key]
    dtypes = FLOATS if expected.is_floating_point() else (expected.dtype,)
    problem = ""
    if found.dtype not in dtypes:
        problem = f"is of type {found.dtype}"
    elif not found.float().isfinite().all():
        problem = "has infinite or NaN values"
    if problem:
        raise InputError(
            f"{encoder.source}: {encoder.describe(key)} {problem}; give weights in floating point "
            "as they were trained"
        )


def _options(network: VisionTransformer, state: dict[str, Tensor]) -> dict[str, Any]:
    embed, patch_size = network.embed, network.patch_size
    if isinstance(embed, ConvStem):
        channels = embed.channels
    else:
        assert patch_size
        channels = embed.in_features // patch_size**2
    known = {"heads": _heads(network), "patch_size": patch_size, "channels": channels}
    return infer_options(state) | known


def _heads(network: VisionTransformer) -> int:
    first: Any = network.blocks[0]
    return first.attention.heads


def _remedy(differing: dict[str, Any]) -> str:
    """Return what to change so that the network has these settings."""
    flags, advice = [], []
    for name, value in differing.items():
        if name == "channels":
            advice.append(f"use images of {value} channels")
        else:
            owner = "data" if name == "patch_size" else "model"
            text = "null" if value is None else str(value).lower()
            flags.append(f"--{owner}.{name} {text}")
    if flags:
        advice.insert(0, "set " + " ".join(flags))
    return " and ".join(advice) or "use the complete weights of a plain ViT"


def _describe_head(weight: Tensor | None) -> str:
    if weight is None or weight.ndim == 0:
        return "nothing"
    return f"head ({len(weight)} classes)"


def _fit_positions(encoder: Encoder, network: VisionTransformer) -> tuple[Tensor, str]:
    """Return the source's positions on the network's grid, and a report of what was done."""
    positions, extra = encoder.state["positions"], int(network.pool == "cls")
    what = f"{encoder.source}: {encoder.describe('positions')}"
    shape = list(network.positions.shape)
    side = _grid_side(positions, extra)
    if positions.shape[0] != 1 or side is None:
        raise InputError(
            f"{what} is not a square grid after {extra} class token, the model's is {shape}; use "
            "weights trained on square images"
        )
    report = "nothing"
    if side != network.side:
        report = f"positions from {side}x{side} to {network.side}x{network.side}"
    if isinstance(network.positions, nn.Parameter):
        return resample_positions(positions, network.side, extra), report
    fixed = sincos_positions(side, positions.shape[2])
    if not torch.allclose(positions[0, extra:].float(), fixed, atol=1e-3):
        raise InputError(
            f"{what} is learned, the model's {shape} is fixed; set --model.positions learned"
        )
    return network.positions, report
