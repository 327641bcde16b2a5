"""Tokens from a small convolutional network, in place of the projection of patches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.errors import InputError


class ConvStage(nn.Module):
    """Halve the side of a feature map: convolution and max pooling, then a residual convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / 2, W / 2]"""
        x = F.relu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return x + F.relu(self.norm2(self.conv2(x)))


class ConvStem(nn.Module):
    """Tokens from a small convolutional network: the hybrid architecture of section 3.1 of the paper.

    Every layer is a `ConvStage` and halves the side: `layers` of them turn an image of side S into (S / 2**layers)**2
    tokens. Each is twice as wide as the one before it, up to the width of a token; where `first` is the width of the
    first one, all others have that of a token.

    Raises:
        InputError: there is no other stage, or the first is none.
    """

    def __init__(self, channels: int, width: int, layers: int, first: int | None = None):
        super().__init__()
        if first is not None and (layers < 2 or not 1 <= first <= width):
            raise InputError(f"stem_width {first}: is for two layers or more, and from 1 to the width {width}")
        if first is None:
            inner = [max(1, width // 2 ** (layers - i)) for i in range(1, layers)]
        else:
            inner = [first] + [width] * (layers - 2)
        widths = [channels, *inner, width]
        self.stages = nn.ModuleList(ConvStage(a, b) for a, b in zip(widths, widths[1:], strict=False))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, N, D]"""
        # The layout that tensor cores, and CPUs, convolve in. The small weights keep theirs: autocast copies them.
        x = images_BCHW.to(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x)
        return x.flatten(2).transpose(1, 2)
