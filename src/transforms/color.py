"""Color operations on batches of uint8 images, each image with its own strength.

Each operation takes uint8 [B, C, H, W] (and strengths [B]) and returns a new uint8 [B, C, H, W]. They follow
torchvision's functions of single images, rounding included. Grayscale images (C = 1) pass through everything;
where color has no meaning for them (saturation, hue) they come back as they are.
"""

import torch
from torch import Tensor

from src.randomness import Draw


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiplies by the factor [B]: 0 is black, 1 the image."""
    return _to_uint8(images * _per_image(factor))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Moves away from the mean gray of the image by the factor [B]: 0 is flat gray, 1 the image."""
    mean = _gray(images).mean((1, 2, 3), keepdim=True)
    return _blend(images, mean, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Moves away from gray by the factor [B]: 0 is gray, 1 the image."""
    return _blend(images, _gray(images), factor) if images.shape[1] == 3 else images


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turns the hue by a fraction [B] of the color circle, from -0.5 to 0.5; saturation and value of HSV stay."""
    if images.shape[1] != 3:
        return images
    pixels = images.float()
    low, high = pixels.aminmax(dim=1, keepdim=True)  # [B, 1, H, W]
    chroma = high - low
    r, g, b = (pixels / chroma.clamp(min=1)).split(1, dim=1)
    angle = torch.where(  # in sixths of the circle, 0 is red
        pixels[:, :1] == high, g - b, torch.where(pixels[:, 1:2] == high, b - r + 2, r - g + 4)
    )
    angle = angle + 6 * _per_image(turn)
    # The piecewise-linear hexcone of HSV: each channel falls from `high` to `low` and back along the circle.
    k = torch.cat([angle + 5, angle + 3, angle + 1], dim=1) % 6
    return _to_uint8((high - chroma * torch.minimum(k, 4 - k).clamp(0, 1)).round_())


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keeps the upper bits [B], 0 to 8, of each value."""
    return images & _per_image(256 - 2 ** (8 - bits)).round().to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverts the values at or above the threshold [B], 0 to 255."""
    inverted = images >= _per_image(threshold)
    return images ^ (inverted.view(torch.uint8) * 255)  # in less than half the time of torch.where


def autocontrast(images: Tensor) -> Tensor:
    """Stretches each channel linearly so that it runs from 0 to 255; channels of one value stay."""
    pixels = images.float()
    low = pixels.amin((2, 3), keepdim=True)
    span = pixels.amax((2, 3), keepdim=True) - low
    flat = span == 0
    scale = span.mul(1 / 255).masked_fill(flat, 1)
    return _to_uint8((pixels - low.masked_fill(flat, 0)) / scale)


def equalize(images: Tensor) -> Tensor:
    """Flattens each channel's histogram, by the lookup table that Pillow uses."""
    B, C = images.shape[:2]
    values = images.flatten(2).long()
    histogram = torch.zeros(B, C, 256, dtype=torch.int32, device=images.device)
    histogram.scatter_add_(2, values, histogram.new_ones(1, 1, 1).expand_as(values))
    below = (
        histogram.cumsum(2, dtype=torch.int32) - histogram
    )  # how many pixels are darker than each value
    brightest = values.amax(2, keepdim=True)
    step = below.gather(2, brightest) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    unchanged = torch.arange(256, dtype=torch.int32, device=images.device)
    table = torch.where(step > 0, table, unchanged).to(torch.uint8)
    return table.gather(2, values).view(images.shape)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Moves away from a 3x3 blur by the factor [B]: 0 is blurred, 1 the image. The outermost pixels stay."""
    pixels = images.float()
    rows = (pixels[:, :, :-2] + pixels[:, :, 1:-1]).add_(pixels[:, :, 2:])
    inner = pixels[:, :, 1:-1, 1:-1]
    blurred = (
        (rows[..., :-2] + rows[..., 1:-1])
        .add_(rows[..., 2:])
        .add_(inner, alpha=4)
        .div_(13)
        .round_()
    )
    inner += blurred.sub_(inner).mul_(1 - _per_image(factor))
    return _to_uint8(pixels)


def _per_image(strength: Tensor) -> Tensor:
    return strength.view(-1, 1, 1, 1)


def _to_uint8(pixels: Tensor) -> Tensor:
    """Cuts decimals off, as Pillow and torchvision do. By way of int16, because float to uint8 is slow on CPUs."""
    return pixels.clamp_(0, 255).to(torch.int16).to(torch.uint8)


def _gray(images: Tensor) -> Tensor:
    """float32 [B, 1, H, W] of whole numbers: luma (ITU-R 601) of RGB; other images as they are."""
    if images.shape[1] != 3:
        return images.float()
    r, g, b = images.split(1, dim=1)
    return (r * 0.2989).add_(g, alpha=0.587).add_(b, alpha=0.114).floor_()


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return _to_uint8(
        (images - other).mul_(_per_image(factor)).add_(other)
    )  # so written, equal values stay equal


def jitter(images: Tensor, strength: float, turn: float, draw: Draw) -> Tensor:
    """Brightness, contrast and saturation by factors of 1 - strength to 1 + strength, and the hue by -turn to turn."""
    if strength:
        for operation in (brightness, contrast, saturation):
            images = operation(images, draw.uniform(1 - strength, 1 + strength))
    return hue(images, draw.uniform(-turn, turn)) if turn else images
