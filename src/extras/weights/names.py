"""Convert state dicts between our parameter names and those of torchvision and timm.

We flatten patches with channels last, [P, P, C]; the other libraries project them with a
convolution whose weights are [D, C, P, P]. All other tensors differ only in name. In the tables,
`#` is a block number.
"""

import math
import re
from typing import Any

from torch import Tensor

from src.config import ViTConfig
from src.errors import InputError
from src.runs.checkpoint import Checkpoint

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
# The weight files that torchvision publishes use the names of an older version of its code.
TORCHVISION_OLD = {
    "encoder.layers.encoder_layer_#.mlp.linear_1.": "blocks.#.mlp.0.",
    "encoder.layers.encoder_layer_#.mlp.linear_2.": "blocks.#.mlp.3.",
}


def to_ours(state: State, names: Names, source: str = "state dict") -> State:
    """Convert a state dict of torchvision or timm to our names.

    Tensors that are only renamed are not copied, here and in `from_ours`.

    Args:
        state: state dict of a torchvision `VisionTransformer`, or of a timm `vit_*_patch*` model
            with fused qkv.
        names: `TORCHVISION` or `TIMM`.
        source: source of the state dict, for error messages.

    Raises:
        InputError: a key has no counterpart, for example layer scale or registers.
    """
    inverse = {theirs: ours for ours, theirs in names.items()}
    converted = _rename_all(state, inverse | TORCHVISION_OLD, source)
    weight = converted.get("embed.weight")
    if weight is not None:
        if weight.ndim != 4:
            raise InputError(
                f"{source}: its patch embedding is not a convolution; use weights of a plain ViT"
            )
        converted["embed.weight"] = weight.permute(0, 2, 3, 1).flatten(1)
    return converted


def from_ours(state: State, names: Names, channels: int = 3) -> State:
    """Convert the state dict of our `VisionTransformer` to the names of torchvision or timm.

    Args:
        state: our state dict.
        names: `TORCHVISION` or `TIMM`.
        channels: number of image channels.

    Raises:
        InputError: a key has no counterpart, for example in a convolutional stem.
    """
    converted = _rename_all(state, names, "state dict")
    embedding = names["embed."] + "weight"
    weight = converted[embedding]
    side = math.isqrt(weight.shape[1] // channels)
    patches = weight.unflatten(1, (side, side, channels))
    converted[embedding] = patches.permute(0, 3, 1, 2).contiguous()
    return converted


def _rename_all(state: State, names: Names, source: str) -> State:
    renamed = {}
    for key, value in state.items():
        name = _rename(key, names)
        if name is None:
            raise InputError(
                f"{source}: {key} {list(value.shape)} has no counterpart; only plain ViTs can be "
                "converted"
            )
        renamed[name] = value
    return renamed


def _rename(key: str, names: Names) -> str | None:
    for old, new in names.items():
        pattern = re.escape(old).replace(r"\#", r"(\d+)")
        if match := re.fullmatch(pattern + "(weight|bias|)", key):
            *block, end = match.groups()
            return new.replace("#", "".join(block)) + end
    return None


def timm_arguments(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Return the `timm.create_model` arguments for the network of a checkpoint.

    The resulting network accepts weights from `from_ours`. Return None if timm has no such network:
    timm only has plain ViTs without sequence pooling or local attention biases.
    """
    config, dataset = checkpoint.network, checkpoint.dataset
    if not isinstance(config, ViTConfig) or checkpoint.training.ensemble > 1:
        return None
    mirror = config.mirror and dataset.mirror_keeps_class
    if config.stem_layers or config.pool == "sequence" or config.positions == "local" or mirror:
        return None
    width, depth, heads = config.sizes
    hidden = round(width * config.mlp_ratio)
    return {
        "model_name": "vit_tiny_patch16_224",  # the arguments below override all of its sizes
        "img_size": dataset.image_size,
        "patch_size": dataset.patch_size,
        "in_chans": dataset.channels,
        "num_classes": len(dataset.classes),
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": (hidden + 0.5) / width,  # timm rounds down
        "class_token": config.pool == "cls",
        "global_pool": {"cls": "token", "mean": "avg", "max": "max"}[config.pool],
        "fc_norm": False,  # normalize before pooling, as the paper does
    }
