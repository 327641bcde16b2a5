"""A convolutional stem: tokens from a small CNN instead of the projection of patches."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Whiten(nn.Module):
    """Fixed 2x2 filters whose outputs are nearly uncorrelated and have variance 1.

    Neighboring pixels and their color channels are strongly correlated; their sums and differences
    are not. The filters are the four Haar patterns, of brightness and of two opponent colors (of
    each channel, if there are not three). The frozen patch whitening of Jordan 2024, "94% on
    CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, is computed from the training
    images. These filters come close on photos and need no data: batch norm scales the variance.
    """

    def __init__(self, channels: int):
        super().__init__()
        haar = torch.tensor(
            [
                [[1.0, 1.0], [1.0, 1.0]],
                [[1.0, -1.0], [1.0, -1.0]],
                [[1.0, 1.0], [-1.0, -1.0]],
                [[1.0, -1.0], [-1.0, 1.0]],
            ]
        )
        opponent = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
        colors = F.normalize(opponent if channels == 3 else torch.eye(channels), dim=1)
        filters = (haar / 2)[:, None, None] * colors[:, :, None, None]  # [4, colors, C, 2, 2]
        self.filters = nn.Conv2d(channels, 4 * channels, kernel_size=2, bias=False)
        self.filters.requires_grad_(False)
        self.filters.weight.copy_(filters.flatten(0, 1))
        # The large eps keeps noise in flat directions small.
        self.norm = nn.BatchNorm2d(4 * channels, eps=5e-4, affine=False)

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


def doubling_widths(width: int, layers: int) -> list[int]:
    """Return the widths of all stages but the last; each is half of the next, down from `width`."""
    return [max(1, width // 2 ** (layers - i)) for i in range(1, layers)]


class ConvStem(nn.Module):
    """Tokens from a small CNN: the hybrid architecture of section 3.1 of the paper.

    `layers` stages turn an image of side S into (S / 2**layers)**2 tokens.

    Args:
        channels: channels of the images.
        width: width of a token, and of the last stage.
        layers: number of stages.
        first: width of the first stage; all others then have `width`. By default the width doubles
            from stage to stage.
        whiten: put `Whiten` in front of the first stage, and use GELU instead of ReLU.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        layers: int,
        first: int | None = None,
        whiten: bool = False,
    ):
        super().__init__()
        if first is None:
            inner = doubling_widths(width, layers)
        else:
            inner = [first] + [width] * (layers - 2)
        self.channels = channels
        self.whiten = Whiten(channels) if whiten else nn.Identity()
        activation = F.gelu if whiten else F.relu
        widths = [8 * channels if whiten else channels, *inner, width]
        self.stages = nn.ModuleList(
            ConvStage(inputs, outputs, activation)
            for inputs, outputs in zip(widths, widths[1:], strict=False)
        )

    def reset_parameters(self) -> None:
        """Initialize the stages (He et al. 2015); the whitening filters stay as they are."""
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, N, D]"""
        # Convolutions are fastest in channels_last, on CPUs and on tensor cores.
        x = self.whiten(images_BCHW.to(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        return x.flatten(2).transpose(1, 2)
