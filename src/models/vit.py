"""The Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929).

Shape suffixes:
    B batch size   C channels   H, W height and width   P patch size
    N patches   T tokens (N, or N + 1 with a class token)   D width   K classes
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.config import DatasetInfo, ViTConfig
from src.errors import InputError
from src.models.blocks import Block, SequencePool, sincos_positions
from src.models.stem import ConvStem
from src.transforms.patchify import check_patch_size, patchify, unpatchify


class VisionTransformer(nn.Module):
    """Vision Transformer image classifier (equations 1 to 4 of the paper).

    Args:
        config: network architecture.
        dataset: image size, channels, patch size, classes and `mirror_keeps_class`.

    Raises:
        InputError: the patch size or the stem does not fit the images.
    """

    embed: ConvStem | nn.Linear

    def __init__(self, config: ViTConfig, dataset: DatasetInfo):
        super().__init__()
        self.patch_size = dataset.patch_size
        self.pool = config.pool
        self.zero_init_residual = config.zero_init_residual
        self.mirror = config.mirror and dataset.mirror_keeps_class
        self.whiten_pad = config.whiten_pad
        self.side = grid_side(config, dataset)
        width, depth, heads = config.sizes
        self.embed = _embedding(config, dataset)
        extra_tokens = int(config.pool == "cls")
        if extra_tokens:
            self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(1, extra_tokens + self.side**2, width))
        else:
            fixed = F.pad(sincos_positions(self.side, width), (0, 0, extra_tokens, 0))
            self.register_buffer("positions", fixed[None])
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                config.mlp_ratio,
                config.dropout,
                config.attention_dropout,
                config.drop_path * i / max(1, depth - 1),
                self.side if config.positions == "local" else None,
            )
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        if config.pool == "sequence":
            self.sequence_pool = SequencePool(width)
        self.head = nn.Linear(width, len(dataset.classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize as in the authors' code: Xavier blocks, LeCun embedding, zero head.

        With `zero_init_residual`, the output weights of attention and MLP are also zero.
        """
        if self.norm.weight.is_meta:  # loaded later; normal_ would import PyTorch's compiler
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Block):
                module.reset_parameters(self.zero_init_residual)
        if isinstance(self.embed, ConvStem):
            self.embed.reset_parameters()
        else:
            nn.init.trunc_normal_(self.embed.weight, std=math.sqrt(1 / self.embed.in_features))
        if isinstance(self.positions, nn.Parameter):
            nn.init.normal_(self.positions, std=0.02)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Patches [B, N, P*P*C], or normalized images [B, C, H, W] -> logits [B, K].

        A convolutional stem accepts only images.
        """
        logits = self.head(self.features(x))
        if self.mirror and not self.training:
            mirrored = self._as_images(x).flip(3)
            logits = (logits + self.head(self.features(mirrored))) / 2
        return logits

    def tokens(self, x: Tensor) -> Tensor:
        """Return the input of the first block, [B, T, D]."""
        if self.patch_size and x.ndim == 4:
            x = patchify(x, self.patch_size)
        x_BTD = self.embed(x)
        if self.pool == "cls":
            class_token = self.class_token.expand(x_BTD.shape[0], -1, -1)
            x_BTD = torch.cat([class_token, x_BTD], dim=1)
        return self.drop(x_BTD + self.positions)

    def features(self, x: Tensor) -> Tensor:
        """Return the pooled, normalized representation y [B, D] of equation 4."""
        x_BTD = self.tokens(x)
        for block in self.blocks:
            is_last = block is self.blocks[-1]
            # The head reads only the class token, so the last block skips the other tokens.
            x_BTD = block(x_BTD, 1 if is_last and self.pool == "cls" else None)
        x_BTD = self.norm(x_BTD)
        match self.pool:
            case "cls":
                return x_BTD[:, 0]
            case "mean":
                return x_BTD.mean(dim=1)
            case "max":
                return x_BTD.amax(dim=1)
            case "sequence":
                return self.sequence_pool(x_BTD)

    def _as_images(self, x: Tensor) -> Tensor:
        P = self.patch_size
        if x.ndim == 4 or P is None:
            return x
        return unpatchify(x, P, self.side * P, x.shape[2] // P**2)


def _embedding(config: ViTConfig, dataset: DatasetInfo) -> ConvStem | nn.Linear:
    width, P = config.sizes[0], dataset.patch_size
    if P is None:
        return ConvStem(
            dataset.channels,
            width,
            config.stem_layers,
            config.stem_width,
            config.whiten,
            config.whiten_pad,
        )
    return nn.Linear(P**2 * dataset.channels, width)


def grid_side(config: ViTConfig, dataset: DatasetInfo) -> int:
    """Return the number of tokens along one side of an image.

    Raises:
        InputError: the patch size or the stem does not fit the images.
    """
    layers, P, size = config.stem_layers, dataset.patch_size, dataset.image_size
    if (layers == 0) == (P is None):
        raise InputError(
            f"data.patch_size {P or 'null'} and model.stem_layers {layers}: a plain ViT reads "
            "patches, and a convolutional stem reads whole images (--data.patch_size null); change "
            "one of them"
        )
    if P is not None:
        check_patch_size(P, (size, size))
        return size // P
    if size % 2**layers:
        raise InputError(
            f"model.stem_layers {layers}: each stage halves the image side, but {size} pixels "
            f"cannot be halved {layers} times; use fewer layers or a different data.image_size"
        )
    side = (size if config.whiten_pad else size - 1) // 2**layers
    if side == 0:
        raise InputError(
            f"model.whiten_pad false with model.stem_layers {layers} leaves no tokens for images "
            f"of {size}x{size} pixels; use fewer layers, or model.whiten_pad true"
        )
    return side
