"""A convolutional stem: a small CNN that computes the tokens instead of a patch projection."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Whiten(nn.Module):
    """Fixed 2x2 filters whose outputs are nearly uncorrelated and have variance 1.

    Neighboring pixels and color channels are strongly correlated, but their sums and differences
    are not. The filters apply the four Haar patterns to luminance and two opponent-color channels
    (to each channel separately if the input is not RGB). Jordan 2024, "94% on CIFAR-10 in 3.29
    Seconds on a Single GPU", arXiv:2404.00498, computes frozen whitening filters from the training
    images. On photos, the fixed filters here are a good approximation that needs no data.
    Batch norm scales the outputs to unit variance.

    Args:
        channels: number of image channels.
        pad: zero-pad the outputs to the image size; otherwise, each side is one pixel shorter.
    """

    def __init__(self, channels: int, pad: bool = True):
        super().__init__()
        self.pad = pad
        self.filters = nn.Conv2d(channels, 4 * channels, kernel_size=2, bias=False)
        self.filters.requires_grad_(False)
        if not self.filters.weight.is_meta:  # loaded later
            self.filters.weight.copy_(haar_filters(channels))
        # A large eps avoids amplifying noise in channels of low variance.
        self.norm = nn.BatchNorm2d(4 * channels, eps=5e-4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the GELU of the filter outputs and of their negatives.

        [B, C, H, W] -> [B, 8 C, H, W]; without padding, [B, 8 C, H - 1, W - 1]
        """
        x = self.norm(self.filters(x))
        if self.pad:
            x = F.pad(x, (0, 1, 0, 1))
        return F.gelu(torch.cat([x, -x], dim=1))


def haar_filters(channels: int) -> Tensor:
    """Return the filters of `Whiten`, [4 C, C, 2, 2]."""
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
    return filters.flatten(0, 1)


class ConvStage(nn.Module):
    """Convolution, max pooling that halves the side length, and a residual convolution."""

    def __init__(self, inputs: int, outputs: int, activation: Callable[[Tensor], Tensor] = F.relu):
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H // 2, W // 2]"""
        x = self.activation(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return x + self.activation(self.norm2(self.conv2(x)))


def doubling_widths(width: int, layers: int) -> list[int]:
    """Return the widths of all stages but the last; widths double from stage to stage."""
    return [max(1, width // 2 ** (layers - i)) for i in range(1, layers)]


class ConvStem(nn.Module):
    """A small CNN that computes tokens (the hybrid architecture in section 3.1 of the paper).

    An image with a side length of S gives (S / 2**layers)**2 tokens. With unpadded
    whitening filters, each side has one token less.

    Args:
        channels: number of image channels.
        width: width of the tokens and of the last stage.
        layers: number of stages.
        first: width of the first stage; all later stages then have `width`. By default, the width
            doubles from stage to stage.
        whiten: put `Whiten` in front of the first stage, and use GELU instead of ReLU.
        whiten_pad: pad the output of `Whiten`.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        layers: int,
        first: int | None = None,
        whiten: bool = False,
        whiten_pad: bool = True,
    ):
        super().__init__()
        if first is None:
            inner = doubling_widths(width, layers)
        else:
            inner = [first] + [width] * (layers - 2)
        self.channels = channels
        self.whiten = Whiten(channels, whiten_pad) if whiten else nn.Identity()
        activation = F.gelu if whiten else F.relu
        widths = [8 * channels if whiten else channels, *inner, width]
        self.stages = nn.ModuleList(
            ConvStage(inputs, outputs, activation)
            for inputs, outputs in zip(widths, widths[1:], strict=False)
        )

    def reset_parameters(self) -> None:
        """Initialize the stages (He et al. 2015), but not the fixed whitening filters."""
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, N, D]"""
        # Convolutions are fastest in channels_last, both on CPUs and on tensor cores.
        x = self.whiten(images_BCHW.to(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        return x.flatten(2).transpose(1, 2)
