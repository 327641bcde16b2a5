"""Initialize a network with the encoder of a trained one (`--model.init_from`)."""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.errors import InputError
from src.extras.weights.read_encoder import Encoder, options_of, read_encoder
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
        A report of a few lines that lists the loaded, resampled, unused and new weights.

    Raises:
        InputError: the source cannot be read safely, or its encoder does not fit the network.
    """
    source = find_pretrained(source)
    encoder = read_encoder(source)
    own = network.state_dict()
    head = {key: value for key, value in own.items() if key.startswith("head.")}
    expected = {key: value for key, value in own.items() if key not in head}
    settings = options_of(network)
    _check_options(encoder, settings)
    for key in expected | encoder.state:
        if problem := _problem(key, encoder.state.get(key), expected.get(key)):
            hint = "use the complete floating-point weights of a ViT"
            if key.endswith("bias.table"):
                hint = "local attention biases need the same number of tokens"
            raise InputError(f"{source}: {encoder.describe(key)} {problem}; {hint}")
    positions, resampled = _fit_positions(encoder, network)
    network.load_state_dict(encoder.state | {"positions": positions} | head)
    known = "" if "heads" in encoder.options else " (unknown in the source)"
    lines = [
        f"encoder from {source} ({encoder.style})",
        f"  loaded     {len(encoder.state)} tensors",
        f"  resampled  {resampled}",
        f"  not used   {_describe_head(encoder.head)}",
        f"  new        {_describe_head(head['head.weight'])}",
        f"  heads      {settings['heads']}{known}",
    ]
    return "\n".join(lines)


def resample_positions(
    positions: Tensor, side: int, extra_tokens: int, name: str = "positions"
) -> Tensor:
    """Interpolate position embeddings to a new grid size (section 3.2 of the ViT paper).

    The interpolation is bicubic, with antialiasing for smaller grids.

    Args:
        positions: [1, extra_tokens + S * S, D].
        side: number of tokens along one side of the new grid.
        extra_tokens: number of leading tokens that are not part of the grid, such as the class
            token. They are not changed.
        name: name of the tensor in error messages.

    Returns:
        [1, extra_tokens + side * side, D], with the same dtype.

    Raises:
        InputError: the remaining tokens do not form a square grid.
    """
    extra, grid = positions[:, :extra_tokens], positions[:, extra_tokens:]
    old = math.isqrt(grid.shape[1])
    if old == 0 or old**2 != grid.shape[1]:
        raise InputError(
            f"{name} {list(positions.shape)} is not a square grid after {extra_tokens} extra "
            "tokens; use weights that were trained on square images"
        )
    if old == side:
        return positions
    images = grid.float().transpose(1, 2).unflatten(2, (old, old))
    resized = F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
    tokens = resized.flatten(2).transpose(1, 2)
    return torch.cat([extra, tokens.to(positions.dtype)], dim=1)


def _check_options(encoder: Encoder, own: dict[str, Any]) -> None:
    """Raise InputError if settings differ; the message contains the flags that make them match."""
    differing = {name: value for name, value in encoder.options.items() if value != own[name]}
    if not differing:
        return
    theirs = ", ".join(f"{name}={value}" for name, value in differing.items())
    ours = ", ".join(f"{name}={own[name]}" for name in differing)
    flags = " ".join(_flag(name, value) for name, value in differing.items())
    raise InputError(
        f"{encoder.source}: the encoder has {theirs}, but the model has {ours}; set {flags}"
    )


def _flag(name: str, value: Any) -> str:
    owner = "data" if name in ("patch_size", "channels") else "model"
    text = "null" if value is None else str(value).lower()
    return f"--{owner}.{name} {text}"


def _problem(key: str, found: Tensor | None, expected: Tensor | None) -> str:
    """Return why a tensor cannot be loaded, or an empty string."""
    if found is None:
        return "is missing"
    if expected is None:
        return "does not exist in the model"
    shape = list(expected.shape)
    if key == "positions":
        shape[1:2] = found.shape[1:2]  # resampled later
    if list(found.shape) != shape:
        return f"does not fit the model's {list(expected.shape)}"
    if expected.is_floating_point() and not found.is_floating_point():
        return f"has type {found.dtype}"
    if not found.float().isfinite().all():
        return "has infinite or NaN values"
    return ""


def _describe_head(weight: Tensor | None) -> str:
    if weight is None or weight.ndim == 0:
        return "nothing"
    return f"head ({len(weight)} classes)"


def _fit_positions(encoder: Encoder, network: VisionTransformer) -> tuple[Tensor, str]:
    """Return position embeddings for the network's grid, and a note about resampling."""
    positions = encoder.state["positions"]
    extra = int(network.pool == "cls")
    name = f"{encoder.source}: {encoder.describe('positions').split()[0]}"
    resampled = resample_positions(positions, network.side, extra, name)
    side = math.isqrt(positions.shape[1] - extra)
    report = "nothing"
    if side != network.side:
        report = f"positions from {side}x{side} to {network.side}x{network.side}"
    if isinstance(network.positions, nn.Parameter):
        return resampled, report
    fixed = sincos_positions(side, positions.shape[2])
    if not torch.allclose(positions[0, extra:].float(), fixed, atol=1e-3):
        raise InputError(
            f"{name} is learned, but the model's positions are fixed; set --model.positions learned"
        )
    return network.positions, report
