"""Color operations on batches of uint8 images, with one strength per image.

Each operation takes uint8 images [B, C, H, W] and, if it has a strength, a tensor [B]. It returns a
new batch of the same shape. Results match torchvision's single-image functions to within one gray
level. All operations accept grayscale images (C = 1); saturation returns them unchanged.
"""

import torch
from torch import Tensor

from src.randomness import Draw


def jitter(images: Tensor, strength: float, draw: Draw) -> Tensor:
    """Jitter brightness, contrast and saturation.

    Args:
        images: uint8 [B, C, H, W].
        strength: draw factors between 1 - strength and 1 + strength; 0 turns this off.
        draw: source of random numbers.
    """
    if strength:
        for operation in (brightness, contrast, saturation):
            images = operation(images, draw.uniform(1 - strength, 1 + strength))
    return images


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by a factor: 0 gives black, 1 the original image."""
    return _to_uint8(images * _per_image(factor))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean gray level of the image: 0 gives solid gray, 1 the original image."""
    return _blend(images, _gray(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grayscale image: 0 gives grayscale, 1 the original image."""
    return _blend(images, _gray(images), factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep only the upper bits of each value; `bits` is their number, from 0 to 8."""
    mask = (256 - 2 ** (8 - bits)).round().to(torch.uint8)
    return images & _per_image(mask)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values at or above a threshold between 0 and 255."""
    inverted = (images >= _per_image(threshold)).view(torch.uint8)
    return images ^ (inverted * 255)  # twice as fast as torch.where


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel linearly to the range 0 to 255; constant channels are unchanged."""
    pixels = images.float()
    low = pixels.amin((2, 3), keepdim=True)
    span = pixels.amax((2, 3), keepdim=True) - low
    constant = span == 0
    shifted = pixels - low.masked_fill(constant, 0)
    return _to_uint8(shifted / span.mul(1 / 255).masked_fill(constant, 1))


def equalize(images: Tensor) -> Tensor:
    """Equalize the histogram of each channel with the same lookup table as Pillow."""
    flat = images.flatten(2)
    values = flat.long()
    counts = images.new_zeros(*images.shape[:2], 256, dtype=torch.int32)
    counts.scatter_add_(2, values, counts.new_ones(()).expand_as(values))
    darker = counts.cumsum(2, dtype=torch.int32) - counts  # number of pixels below each value
    step = darker.gather(2, values.amax(2, keepdim=True)) // 255
    table = (darker + step // 2) // step.clamp(min=1)
    equalized = table.clamp(max=255).to(torch.uint8).gather(2, values)
    return torch.where(step > 0, equalized, flat).view(images.shape)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with a 3x3 blur: 0 gives the blur, 1 the original. Border pixels are unchanged."""
    pixels = images.float()
    inner = pixels[:, :, 1:-1, 1:-1]
    rows = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    blurred = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred.add_(inner, alpha=4).div_(13).round_()  # kernel weights: 5 in the center, 1 elsewhere
    inner += blurred.sub_(inner).mul_(1 - _per_image(factor))
    return _to_uint8(pixels)


def _per_image(strength: Tensor) -> Tensor:
    return strength.view(-1, 1, 1, 1)


def _to_uint8(pixels: Tensor) -> Tensor:
    """Clamp in place and truncate, as Pillow and torchvision do."""
    # Convert through int16, because a direct conversion from float to uint8 is slow on CPUs.
    return pixels.clamp_(0, 255).to(torch.int16).to(torch.uint8)


def _gray(images: Tensor) -> Tensor:
    """Return the RGB luma (ITU-R 601), rounded down, float32 [B, 1, H, W]."""
    if images.shape[1] != 3:
        return images.float()
    r, g, b = images.split(1, dim=1)
    return (r * 0.2989).add_(g, alpha=0.587).add_(b, alpha=0.114).floor_()


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    # With this order of operations, pixels that are equal in both images do not change.
    return _to_uint8((images - other).mul_(_per_image(factor)).add_(other))
