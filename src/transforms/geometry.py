"""Affine maps, resampling and boxes for batches of images.

A map converts the coordinates of an output pixel to the input coordinates to sample. Coordinates
are in pixels from the image center, with x to the right and y down. A batch of maps is float32
[3, 3, B]; composing maps is nine times as fast with the batch dimension last.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from src.randomness import Draw

Border = Literal["black", "symmetric"]
ENTRIES = ("xx", "xy", "x0", "yx", "yy", "y0")


def affine(draw: Draw, **entries: float | Tensor) -> Tensor:
    """Build maps x_in = xx * x + xy * y + x0, y_in = yx * x + yy * y + y0.

    Args:
        draw: provides the batch size and the device.
        entries: any of the six coefficients, each a number or a tensor [B]; coefficients that are
            not given default to the identity.

    Returns:
        float32 [3, 3, B].
    """
    maps = torch.eye(3, device=draw.device).view(9, 1).repeat(1, draw.size)
    for name, entry in entries.items():
        maps[ENTRIES.index(name)] = entry
    return maps.view(3, 3, -1)


def compose(first: Tensor, then: Tensor) -> Tensor:
    """Return the matrix products first @ then of two batches of maps [3, 3, B].

    Under TF32 or autocast, `@` would round coordinates to about a hundredth of a pixel.
    """
    return (first[:, :, None] * then).sum(1)


def resample(images: Tensor, maps: Tensor, border: Border = "black") -> Tensor:
    """Resample images with bilinear interpolation.

    Args:
        images: [B, C, H, W] of any dtype.
        maps: [3, 3, B].
        border: padding outside the images, as in `Augmentation`.

    Returns:
        float32 [B, C, H, W].
    """
    B, _, H, W = images.shape
    x = torch.arange(0.5 - W / 2, W / 2, device=images.device)
    y = torch.arange(0.5 - H / 2, H / 2, device=images.device)[:, None]
    grid = torch.empty(2, B, H, W, device=images.device)
    for axis, size in enumerate((W, H)):
        scaled = maps[axis] * (2 / size)  # grid_sample takes coordinates from -1 to 1
        a, b, c = scaled[:, :, None, None]
        torch.add(a * x, b * y + c, out=grid[axis])
    grid = grid.movedim(0, -1)
    padding = "zeros" if border == "black" else "reflection"
    return F.grid_sample(images.float(), grid, padding_mode=padding, align_corners=False)


def crop_maps(min_area: float, draw: Draw, H: int, W: int) -> Tensor:
    """Draw random crops that are resized to full size (Inception crop, Szegedy et al. 2015).

    The area is drawn first, then an aspect ratio with which a crop of this area fits into the
    image. torchvision instead redraws both until the crop fits.

    Args:
        min_area: minimum crop area as a fraction of the image.
        draw: source of random numbers.
        H, W: size of the images.

    Returns:
        float32 [3, 3, B].
    """
    area = draw.uniform(min_area, 1)
    image_ratio = math.log(H / W)  # all ratios are log(height / width)
    slack = -area.log()
    low = (image_ratio - slack).clamp(min=math.log(3 / 4))
    high = (image_ratio + slack).clamp(max=math.log(4 / 3))
    stretch = ((draw.uniform(low, high) - image_ratio) / 2).exp()
    height = (area.sqrt() * stretch).clamp(max=1)  # as fractions of H and W
    width = (area.sqrt() / stretch).clamp(max=1)
    x = draw.uniform(-0.5, 0.5) * (1 - width) * W
    y = draw.uniform(-0.5, 0.5) * (1 - height) * H
    return affine(draw, xx=width, x0=x, yy=height, y0=y)


def box_mask(top: Tensor, left: Tensor, height: Tensor, width: Tensor, H: int, W: int) -> Tensor:
    """Return masks that are True inside one box per sample.

    Args:
        top, left, height, width: boxes in pixels, [B] each; they can extend beyond the image.
        H, W: size of the images.

    Returns:
        bool [B, 1, H, W].
    """
    y = torch.arange(H, device=top.device)
    x = torch.arange(W, device=top.device)
    rows = (y >= top[:, None]) & (y < (top + height)[:, None])  # [B, H]
    columns = (x >= left[:, None]) & (x < (left + width)[:, None])  # [B, W]
    return rows[:, None, :, None] & columns[:, None, None]
