"""State dicts to and from torchvision and timm.

Our patches are flattened channel last, [P, P, C]; the patch projection of the others is a convolution with weights
[D, C, P, P]. All other tensors are the same under other names: in the tables below `#` is the number of a block.
"""

import math
import re

from torch import Tensor

from src.errors import InputError
from src.models.vit import SIZES

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
# The names of the published torchvision files, which are older than the code that loads them.
TORCHVISION_OLD = {
    "encoder.layers.encoder_layer_#.mlp.linear_1.": "blocks.#.mlp.0.",
    "encoder.layers.encoder_layer_#.mlp.linear_2.": "blocks.#.mlp.3.",
}


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `torchvision.models.VisionTransformer` -> that of our `VisionTransformer`.

    Tensors that only change their name are shared, not copied. The same holds for the three functions below.

    Raises:
        InputError: when a key has no counterpart here, as those of a convolutional stem.
    """
    return convert(state, inverse(TORCHVISION) | TORCHVISION_OLD, "torchvision state dict")


def to_torchvision(state: dict[str, Tensor], channels: int = 3) -> dict[str, Tensor]:
    """The state dict of our `VisionTransformer` with a class token -> that of `torchvision.models.VisionTransformer`.

    Raises:
        InputError: when a key has no counterpart there, or `channels` does not fit the embedding.
    """
    return convert(state, TORCHVISION, "state dict for torchvision", channels)


def from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a timm `vit_*_patch*` model with fused qkv -> that of our `VisionTransformer`.

    Raises:
        InputError: when a key has no counterpart here, as layer scale, registers or a norm before the blocks.
    """
    return convert(state, inverse(TIMM), "timm state dict")


def to_timm(state: dict[str, Tensor], channels: int = 3) -> dict[str, Tensor]:
    """The state dict of our `VisionTransformer` without a stem -> that of a timm `vit_*_patch*` model.

    Raises:
        InputError: when a key has no counterpart there, or `channels` does not fit the embedding.
    """
    return convert(state, TIMM, "state dict for timm", channels)


def timm_arguments(network: dict) -> dict | None:
    """The arguments of `timm.create_model` that make the network into which `to_timm`'s tensors fit.

    Args:
        network: the network as a checkpoint describes it; see `build`.

    Returns:
        None where timm has no such network: those that are not plain ViTs, or pool by a learned weight of each token.
    """
    if network["kind"] != "vit" or network["stem_layers"] or network["pool"] == "sequence":
        return None
    sizes = {
        name: network[name] or SIZES[network["size"]][name] for name in ("width", "depth", "heads")
    }
    mlp_ratio, hidden = network["mlp_ratio"], round(sizes["width"] * network["mlp_ratio"])
    if int(sizes["width"] * mlp_ratio) != hidden:  # timm rounds down
        mlp_ratio = (hidden + 0.5) / sizes["width"]
    token = network["pool"] == "cls"
    return {
        "model_name": "vit_tiny_patch16_224",  # the other arguments make of it what they say
        **{"img_size": network["image_size"], "patch_size": network["patch_size"]},
        **{"in_chans": network["channels"], "num_classes": network["classes"]},
        **{
            "embed_dim": sizes["width"],
            "depth": sizes["depth"],
            "num_heads": sizes["heads"],
            "mlp_ratio": mlp_ratio,
        },
        # timm pools first and then normalizes, unless told otherwise; we normalize first, as the paper does.
        **{"class_token": token, "global_pool": "token" if token else "avg", "fc_norm": False},
    }


def inverse(names: dict[str, str]) -> dict[str, str]:
    """A table read from the other side."""
    return {theirs: ours for ours, theirs in names.items()}


def rename(key: str, names: dict[str, str]) -> str | None:
    """The other name of a tensor by a table; None where it has none."""
    for old, new in names.items():
        match = re.fullmatch(
            re.escape(old).replace(r"\#", r"(?P<block>\d+)") + "(?P<end>weight|bias|)", key
        )
        if match:
            return new.replace("#", match.groupdict().get("block", "")) + match["end"]
    return None


def convert(
    state: dict[str, Tensor], names: dict[str, str], where: str, channels: int = 3
) -> dict[str, Tensor]:
    """The same tensors under the other names of a table; `where` names them in errors."""
    converted = {}
    for key, value in state.items():
        new = rename(key, names)
        if new is None:
            raise InputError(
                f"{where}: {key} {list(value.shape)} has no counterpart; only plain ViTs can be converted"
            )
        if new == "embed.weight":
            if value.ndim != 4:
                raise InputError(
                    f"{where}: {key} {list(value.shape)} is not a convolution; only plain ViTs can be converted"
                )
            value = value.permute(0, 2, 3, 1).flatten(1)
        elif key == "embed.weight":
            side = math.isqrt(value.shape[1] // channels)
            if side**2 * channels != value.shape[1]:
                raise InputError(
                    f"{where}: {key} {list(value.shape)} is not a square patch of {channels} channels; "
                    "give its channels"
                )
            value = value.unflatten(1, (side, side, channels)).permute(0, 3, 1, 2).contiguous()
        converted[new] = value
    return converted
