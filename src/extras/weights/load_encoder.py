"""Initialize a network with the encoder of a trained one (`--model.init_from`)."""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.errors import InputError
from src.extras.weights.read_encoder import options_of, read_encoder
from src.models.blocks import sincos_positions
from src.models.vit import VisionTransformer
from src.runs.directory import find_pretrained

if TYPE_CHECKING:
    from src.training.classifier import ViT


def initialize(model: "ViT") -> str:
    """Load `model.init_from` into a model and, if it has them, into its averaged weights.

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
    """Load all trained weights except the head; resample position embeddings to the network's grid.

    All checks run before any weight is copied, so an error leaves the network unchanged.

    Args:
        network: the network to load the weights into. Its head is not changed.
        source: `torchvision:vit_b_16` or another torchvision vit_* model; a torchvision or
            timm state dict (.pth, .pt, .bin, .safetensors); a checkpoint of this program (.ckpt),
            its run directory, or the folder of all runs with the same name; or the name of bundled
            weights. Averaged weights are loaded if the checkpoint has them.

    Returns:
        A report of a few lines that lists the loaded, resampled and new weights.

    Raises:
        InputError: the source cannot be read safely, or its encoder does not fit the network.
    """
    source = find_pretrained(source)
    encoder = read_encoder(source)
    own = network.state_dict()
    head = {key: own.pop(key) for key in list(own) if key.startswith("head.")}
    settings = options_of(network)
    _check_options(source, encoder.options, settings)
    for key in own | encoder.state:
        found, expected = _shape(encoder.state, key), _shape(own, key)
        if found != expected:
            raise InputError(
                f"{source}: {key} {found}, but in the model it {expected}; use the complete "
                "weights of a ViT with the model's settings"
            )
    positions, resampled = _fit_positions(source, encoder.state["positions"], network)
    network.load_state_dict(encoder.state | {"positions": positions} | head)
    known = "" if "heads" in encoder.options else " (unknown in the source)"
    lines = [
        f"encoder from {source} ({encoder.kind})",
        f"  loaded     {len(encoder.state)} tensors",
        f"  resampled  {resampled}",
        f"  new        head ({len(head['head.weight'])} classes)",
        f"  heads      {settings['heads']}{known}",
    ]
    return "\n".join(lines)


def resample_positions(positions: Tensor, side: int, extra_tokens: int) -> Tensor:
    """Interpolate position embeddings to a new grid size (section 3.2 of the ViT paper).

    The interpolation is bicubic, with antialiasing for smaller grids.

    Args:
        positions: [1, extra_tokens + S * S, D].
        side: number of tokens along one side of the new grid.
        extra_tokens: number of leading tokens that are not part of the grid, such as the class
            token. They are not changed.

    Returns:
        [1, extra_tokens + side * side, D], with the same dtype.
    """
    extra, grid = positions[:, :extra_tokens], positions[:, extra_tokens:]
    old = math.isqrt(grid.shape[1])
    if old == side:
        return positions
    images = grid.float().transpose(1, 2).unflatten(2, (old, old))
    resized = F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
    tokens = resized.flatten(2).transpose(1, 2)
    return torch.cat([extra, tokens.to(positions.dtype)], dim=1)


def _shape(state: dict[str, Tensor], key: str) -> str:
    """Describe the shape of a tensor, without the size of the grid of positions."""
    if key not in state:
        return "is missing"
    shape = [str(size) for size in state[key].shape]
    if key == "positions":
        shape[1:2] = "*"
    return f"has shape [{', '.join(shape)}]"


def _check_options(source: str, found: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise InputError if settings differ; the message contains the flags that make them match."""
    differing = {name: value for name, value in found.items() if value != own[name]}
    if not differing:
        return
    theirs = ", ".join(f"{name}={value}" for name, value in differing.items())
    ours = ", ".join(f"{name}={own[name]}" for name in differing)
    flags = " ".join(_flag(name, value) for name, value in differing.items())
    raise InputError(f"{source}: the encoder has {theirs}, but the model has {ours}; set {flags}")


def _flag(name: str, value: Any) -> str:
    owner = "data" if name in ("patch_size", "channels") else "model"
    return f"--{owner}.{name} {'null' if value is None else str(value).lower()}"


def _fit_positions(
    source: str, positions: Tensor, network: VisionTransformer
) -> tuple[Tensor, str]:
    """Return position embeddings for the network's grid, and a note about resampling."""
    extra = int(network.pool == "cls")
    tokens = positions.shape[1] - extra
    side = math.isqrt(max(0, tokens))
    if side == 0 or side**2 != tokens:
        raise InputError(
            f"{source}: {tokens} positions are not a square grid; use weights that were trained on "
            "square images"
        )
    report = "nothing"
    if side != network.side:
        report = f"positions from {side}x{side} to {network.side}x{network.side}"
    if isinstance(network.positions, nn.Parameter):
        return resample_positions(positions, network.side, extra), report
    fixed = sincos_positions(side, positions.shape[2])
    if not torch.allclose(positions[0, extra:].float(), fixed, atol=1e-3):
        raise InputError(
            f"{source}: its positions are learned, but the model's are fixed; set "
            "--model.positions learned"
        )
    return network.positions, report
