"""Convert state dicts to and from the names of torchvision and timm.

We flatten patches channels last, [P, P, C]; the others project them by a convolution with weights
[D, C, P, P]. All other tensors differ in name only. In the tables, `#` is the number of a block.
"""

import math
import re
from typing import Any

from torch import Tensor

from src.config import DatasetInfo, NetworkConfig, ViTConfig
from src.errors import InputError

State = dict[str, Tensor]
Names = dict[str, str]

TORCHVISION = {
    "class_token": "class_token",
    "positions": "encoder.pos_embedding",
    "embed.": "conv_proj.",
    "blocks.#.norm1.": "encoder.layers.encoder_layer_#.ln_1.",
    "blocks.#.attention.qkv.": "encoder.layers.encoder_layer_#.self_attention.in_proj_",
    "blocks.#.attention.out.": "encoder.layers.encoder_layer_#.self_attention.out_proj.",
    "blocks.#.norm2.": "encoder.layers.encoder_layer_#.ln_2.",
    "blocks.#.mlp.0.": "encoder.layers.encoder_layer_#.mlp.0.",
    "blocks.#.mlp.3.": "encoder.layers.encoder_layer_#.mlp.3.",
    "norm.": "encoder.ln.",
    "head.": "heads.head.",
}
TIMM = {
    "class_token": "cls_token",
    "positions": "pos_embed",
    "embed.": "patch_embed.proj.",
    "blocks.#.norm1.": "blocks.#.norm1.",
    "blocks.#.attention.qkv.": "blocks.#.attn.qkv.",
    "blocks.#.attention.out.": "blocks.#.attn.proj.",
    "blocks.#.norm2.": "blocks.#.norm2.",
    "blocks.#.mlp.0.": "blocks.#.mlp.fc1.",
    "blocks.#.mlp.3.": "blocks.#.mlp.fc2.",
    "norm.": "norm.",
    "head.": "head.",
}
# The files that torchvision publishes still have the names of an older version of its code.
TORCHVISION_OLD = {
    "encoder.layers.encoder_layer_#.mlp.linear_1.": "blocks.#.mlp.0.",
    "encoder.layers.encoder_layer_#.mlp.linear_2.": "blocks.#.mlp.3.",
}


def from_torchvision(state: State, source: str = "torchvision state dict") -> State:
    """Convert the state dict of a torchvision `VisionTransformer` to that of ours.

    Tensors that only change their name are shared, not copied, here and in the functions below.

    Raises:
        InputError: a key has no counterpart, as in a convolutional stem; names `source`.
    """
    return _convert(state, _inverse(TORCHVISION) | TORCHVISION_OLD, source)


def to_torchvision(state: State, channels: int = 3) -> State:
    """Convert the state dict of our `VisionTransformer` to that of torchvision's.

    Raises:
        InputError: a key has no counterpart, or the embedding has other channels.
    """
    return _convert(state, TORCHVISION, "state dict for torchvision", channels)


def from_timm(state: State, source: str = "timm state dict") -> State:
    """Convert the state dict of a timm `vit_*_patch*` model with fused qkv to that of ours.

    Raises:
        InputError: a key has no counterpart, such as layer scale or registers; names `source`.
    """
    return _convert(state, _inverse(TIMM), source)


def to_timm(state: State, channels: int = 3) -> State:
    """Convert the state dict of our `VisionTransformer` to that of a timm `vit_*_patch*` model.

    Raises:
        InputError: a key has no counterpart, or the embedding has other channels.
    """
    return _convert(state, TIMM, "state dict for timm", channels)


def timm_arguments(
    config: NetworkConfig, dataset: DatasetInfo, ensemble: int = 1
) -> dict[str, Any] | None:
    """Return the arguments of `timm.create_model` for the network that fits `to_timm`.

    None if timm has no such network: it has plain ViTs without sequence pooling.
    """
    if not isinstance(config, ViTConfig) or ensemble > 1:
        return None
    if config.stem_layers or config.pool == "sequence" or config.mirror:
        return None
    width, depth, heads = config.sizes
    mlp_ratio = config.mlp_ratio
    hidden = round(width * mlp_ratio)
    if int(width * mlp_ratio) != hidden:  # timm rounds down
        mlp_ratio = (hidden + 0.5) / width
    has_token = config.pool == "cls"
    return {
        "model_name": "vit_tiny_patch16_224",  # the arguments below replace all of its sizes
        "img_size": dataset.image_size,
        "patch_size": dataset.patch_size,
        "in_chans": dataset.channels,
        "num_classes": len(dataset.classes),
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": mlp_ratio,
        "class_token": has_token,
        "global_pool": "token" if has_token else "avg",
        "fc_norm": False,  # normalize before pooling, as the paper does
    }


def rename(key: str, names: Names) -> str | None:
    """Return the other name of a tensor in a table; None if it has none."""
    for old, new in names.items():
        pattern = re.escape(old).replace(r"\#", r"(?P<block>\d+)")
        if match := re.fullmatch(pattern + "(?P<end>weight|bias|)", key):
            block = match.groupdict().get("block", "")
            return new.replace("#", block) + match["end"]
    return None


def _inverse(names: Names) -> Names:
    return {theirs: ours for ours, theirs in names.items()}


def _convert(state: State, names: Names, source: str, channels: int = 3) -> State:
    converted = {}
    for key, value in state.items():
        what = f"{source}: {key} {list(value.shape)}"
        new = rename(key, names)
        if new is None:
            raise InputError(f"{what} has no counterpart; only plain ViTs can be converted")
        if new == "embed.weight":
            value = _to_linear(value, what)
        elif key == "embed.weight":
            value = _to_convolution(value, what, channels)
        converted[new] = value
    return converted


def _to_linear(weight: Tensor, what: str) -> Tensor:
    """[D, C, P, P] -> [D, P*P*C]"""
    if weight.ndim != 4:
        raise InputError(f"{what} is not a convolution; only plain ViTs can be converted")
    return weight.permute(0, 2, 3, 1).flatten(1)


def _to_convolution(weight: Tensor, what: str, channels: int) -> Tensor:
    """[D, P*P*C] -> [D, C, P, P]"""
    side = math.isqrt(weight.shape[1] // channels)
    if side**2 * channels != weight.shape[1]:
        raise InputError(
            f"{what} is not a square patch of {channels} channels; pass the right `channels`"
        )
    patches = weight.unflatten(1, (side, side, channels))
    return patches.permute(0, 3, 1, 2).contiguous()
