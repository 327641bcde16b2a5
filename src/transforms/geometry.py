"""Affine maps of whole batches, the one resampling that applies them, and boxes.

An affine map takes an output pixel to the input pixel whose color it gets. Coordinates are in pixels, x to the right
and y down, from the center of the image. The maps of a batch are [3, 3, B]: with the batch last, composing them takes a
ninth of the time.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from src.randomness import Draw


def affine(draw: Draw, xx=1.0, xy=0.0, x0=0.0, yx=0.0, yy=1.0, y0=0.0) -> Tensor:
    """[3, 3, B] maps x_in = xx * x + xy * y + x0, y_in = yx * x + yy * y + y0; each entry a number or a tensor [B]."""
    maps = torch.empty(9, draw.size, device=draw.device)
    for entry, value in zip(maps, (xx, xy, x0, yx, yy, y0, 0.0, 0.0, 1.0), strict=True):
        entry[:] = value
    return maps.view(3, 3, -1)


def resample(images: Tensor, maps: Tensor) -> Tensor:
    """Bilinear: [B, C, H, W] of any type, maps [3, 3, B] -> float32 [B, C, H, W]. Black (0) outside of the images."""
    B, _, H, W = images.shape
    x = torch.arange(W, device=images.device) + (0.5 - W / 2)  # [W]
    y = (torch.arange(H, device=images.device) + (0.5 - H / 2))[:, None]  # [H, 1]
    grid = torch.empty(2, B, H, W, device=images.device)
    for axis, size in enumerate((W, H)):  # grid_sample wants coordinates from -1 to 1
        a, b, c = (maps[axis] * (2 / size))[:, :, None, None]  # [B, 1, 1] each
        torch.add(a * x, b * y + c, out=grid[axis])
    grid = grid.movedim(0, -1)
    return F.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def compose(first: Tensor, then: Tensor) -> Tensor:
    """The product of [3, 3, B] maps; not by @, which TF32 or autocast may round to a hundredth of a pixel."""
    return (first[:, :, None] * then).sum(1)


def crop_maps(least_area: float, draw: Draw, H: int, W: int) -> Tensor:
    """[3, 3, B] maps that stretch a random crop over the whole image, keeping to the drawn area exactly: the aspect
    ratio is drawn among those at which a crop of this area fits, where torchvision draws both again until one does."""
    area = draw.uniform(least_area, 1)
    shape = math.log(H / W)  # of a crop of full height and width, as a log ratio of height to width
    room = -area.log()
    low = (shape - room).clamp(min=math.log(3 / 4))
    high = (shape + room).clamp(max=math.log(4 / 3))
    stretch = ((draw.uniform(low, high) - shape) / 2).exp()
    height = (area.sqrt() * stretch).clamp(max=1)  # fractions of H and W
    width = (area.sqrt() / stretch).clamp(max=1)
    x = draw.uniform(-0.5, 0.5) * (1 - width) * W
    y = draw.uniform(-0.5, 0.5) * (1 - height) * H
    return affine(draw, xx=width, x0=x, yy=height, y0=y)


def box_mask(top: Tensor, left: Tensor, height: Tensor, width: Tensor, H: int, W: int) -> Tensor:
    """bool [B, 1, H, W], True inside each sample's box; arguments are [B], in pixels."""
    y = torch.arange(H, device=top.device)
    x = torch.arange(W, device=top.device)
    rows = (y >= top[:, None]) & (y < (top + height)[:, None])  # [B, H]
    columns = (x >= left[:, None]) & (x < (left + width)[:, None])  # [B, W]
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)
