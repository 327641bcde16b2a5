"""Tokens from a small convolutional network, in place of the projection of patches."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.errors import InputError


class Whiten(nn.Module):
    """Fixed filters of 2x2 pixels whose outputs are nearly uncorrelated and of variance 1, for the first convolution.

    Neighboring pixels, and their colors, tell almost the same. Their sums and differences do not: Haar's four patterns,
    of brightness and of two opponent colors (of each channel, where there are not three). The frozen patch-whitening
    of Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, is computed from the training
    images; for photos these filters come close and need no data: batch norm gives their outputs the variance.
    """

    def __init__(self, channels: int):
        super().__init__()
        haar = (
            torch.tensor(
                [[[1.0, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]
            )
            / 2
        )
        colors = (
            torch.tensor([[1.0, 1, 1], [1, 0, -1], [-1, 2, -1]])
            if channels == 3
            else torch.eye(channels)
        )
        colors = F.normalize(colors, dim=1)
        self.filters = nn.Conv2d(channels, 4 * channels, kernel_size=2, bias=False).requires_grad_(
            False
        )
        self.filters.weight.copy_((haar[:, None, None] * colors[:, :, None, None]).flatten(0, 1))
        self.norm = nn.BatchNorm2d(
            4 * channels, eps=5e-4, affine=False
        )  # the eps leaves noise small

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 8 C, H, W]: GELU of every output and of its negative."""
        x = F.pad(self.norm(self.filters(x)), (0, 1, 0, 1))
        return F.gelu(torch.cat([x, -x], dim=1))


class ConvStage(nn.Module):
    """Halve the side of a feature map: convolution and max pooling, then a residual convolution."""

    def __init__(self, inputs: int, outputs: int, activation: Callable[[Tensor], Tensor] = F.relu):
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / 2, W / 2]"""
        x = self.activation(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return x + self.activation(self.norm2(self.conv2(x)))


def doubling(width: int, layers: int) -> list[int]:
    """Widths of the stages before the last one, which has `width`: each twice as wide as the one before it."""
    return [max(1, width // 2 ** (layers - i)) for i in range(1, layers)]


class ConvStem(nn.Module):
    """Tokens from a small convolutional network: the hybrid architecture of section 3.1 of the paper.

    Every layer is a `ConvStage` and halves the side: `layers` of them turn an image of side S into (S / 2**layers)**2
    tokens. Each is twice as wide as the one before it, up to the width of a token; where `first` is the width of the
    first one, all others have that of a token. With `whiten` the first stage reads `Whiten`'s outputs, and GELU is in
    place of ReLU.

    Raises:
        InputError: there is no other stage, or the first is none.
    """

    def __init__(
        self, channels: int, width: int, layers: int, first: int | None = None, whiten: bool = False
    ):
        super().__init__()
        if first is not None and (layers < 2 or not 1 <= first <= width):
            raise InputError(
                f"stem_width {first}: is for two layers or more, and from 1 to the width {width}"
            )
        inner = doubling(width, layers) if first is None else [first] + [width] * (layers - 2)
        self.channels = channels
        self.whiten = Whiten(channels) if whiten else nn.Identity()
        activation = F.gelu if whiten else F.relu
        widths = [8 * channels if whiten else channels, *inner, width]
        self.stages = nn.ModuleList(
            ConvStage(a, b, activation) for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, N, D]"""
        # The layout that tensor cores, and CPUs, convolve in. The small weights keep theirs: autocast copies them.
        x = self.whiten(images_BCHW.to(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        return x.flatten(2).transpose(1, 2)
