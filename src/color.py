"""Color operations on batches of uint8 images, each image with its own strength, and the policies that pick among them.

Each operation takes uint8 [B, C, H, W] (and strengths [B]) and returns a new uint8 [B, C, H, W]. They follow
torchvision's functions of single images, rounding included. Grayscale images (C = 1) pass through everything;
where color has no meaning for them (saturation, hue) they come back as they are.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# ------------------------------------------------------------------------------------------------------ operations


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
    below = histogram.cumsum(2, dtype=torch.int32) - histogram  # how many pixels are darker than each value
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
    blurred = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).add_(inner, alpha=4).div_(13).round_()
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
    return _to_uint8((images - other).mul_(_per_image(factor)).add_(other))  # so written, equal values stay equal


def jitter(images: Tensor, strength: float, turn: float, draw: "Draw") -> Tensor:
    """Brightness, contrast and saturation by factors of 1 - strength to 1 + strength, and the hue by -turn to turn."""
    if strength:
        for operation in (brightness, contrast, saturation):
            images = operation(images, draw.uniform(1 - strength, 1 + strength))
    return hue(images, draw.uniform(-turn, turn)) if turn else images


class Draw:
    """Random numbers for each of B samples, from one generator and on its device."""

    def __init__(self, size: int, generator: torch.Generator):
        self.size = size
        self.generator = generator
        self.device = generator.device

    def uniform(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """float32 [B], uniform in [low, high)."""
        return low + (high - low) * torch.rand(self.size, generator=self.generator, device=self.device)

    def integers(self, low: int, high: int) -> Tensor:
        """int64 [B], uniform in low..high, both included."""
        return torch.randint(low, high + 1, (self.size,), generator=self.generator, device=self.device)

    def permutation(self, size: int) -> Tensor:
        """int64 [size]: 0..size-1 in random order."""
        return torch.randperm(size, generator=self.generator, device=self.device)

    def coin(self, probability: float = 0.5) -> Tensor:
        """bool [B], True with the probability."""
        return self.uniform(0, 1) < probability


# -------------------------------------------------------------------------------------------------------- policies

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "saturation", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)


class Limits(NamedTuple):
    """Strengths of a policy at its full magnitude, 30."""

    shear: float  # pixels a pixel
    translate: tuple[float, float]  # the lesser of a fraction of the image and a number of pixels
    rotate: float  # degrees
    color: float  # factors of 1 - color to 1 + color
    posterize: int  # bits taken away


LIMITS = {
    "randaugment": Limits(0.3, (150 / 331, float("inf")), 30, 0.9, 4),
    # The paper moves by up to 32 pixels; images smaller than that, by up to their size.
    "trivialaugment": Limits(0.99, (1.0, 32), 135, 0.99, 6),
}


class Step(NamedTuple):
    """One operation for each of B images, which get a place in a row of slots for each operation."""

    limits: Limits
    operation: Tensor  # int64 [B], into OPERATIONS
    slots: Tensor  # int64 [operations, ceil(B / operations)]: the image in each slot; empty ones repeat the first image
    place: Tensor  # int64 [B]: the slot of each image, counted through all rows
    magnitude: Tensor  # float32 [B], 0 to 1
    sign: Tensor  # float32 [B], -1 or 1


def draw_step(policy: str, magnitude: int, draw: Draw) -> Step:
    """Deals an operation to each image, and its strength: the magnitude (of 30) for 'randaugment' (Cubuk et al. 2020),
    any for 'trivialaugment' (Müller & Hutter 2021).

    Each image gets any operation with the same probability, but as when dealing cards, all of them come up about
    equally often in a batch: so the number of images of each is known beforehand, and it runs on these alone without
    waiting for the device.
    """
    B, count = draw.size, len(OPERATIONS)
    each = math.ceil(B / count)
    place = draw.permutation(count * each)[:B]
    slots = torch.zeros(count * each, dtype=torch.int64, device=draw.device)
    slots[place] = torch.arange(B, device=draw.device)
    level = draw.integers(0, 30) if policy == "trivialaugment" else torch.full((B,), magnitude, device=draw.device)
    sign = draw.integers(0, 1) * 2.0 - 1.0
    return Step(LIMITS[policy], place // each, slots.view(count, each), place, level / 30, sign)


def apply_colors(images: Tensor, steps: list[Step]) -> Tensor:
    """The color operations of each step in turn: uint8 [B, C, H, W] -> new uint8 [B, C, H, W].

    Images are sorted by their operation, and back, whole: index_select copies an image at once, indexing by [] a byte.
    """
    for step in steps:
        factor = 1 + step.sign * step.magnitude * step.limits.color
        strengths = {
            brightness: factor,
            saturation: factor,
            contrast: factor,
            sharpness: factor,
            posterize: 8 - (step.magnitude * step.limits.posterize).round(),
            solarize: 255 * (1 - step.magnitude),
            autocontrast: None,
            equalize: None,
        }
        groups = list(images.index_select(0, step.slots.flatten()).chunk(len(OPERATIONS)))
        for operation, strength in strengths.items():
            row = OPERATIONS.index(operation.__name__)
            arguments = () if strength is None else (strength[step.slots[row]],)
            groups[row] = operation(groups[row], *arguments)
        images = torch.cat(groups).index_select(0, step.place)
    return images


def geometry(step: Step, H: int, W: int) -> dict[str, Tensor]:
    """The geometric operations of a step as the entries [B] of affine maps from output to input pixels, relative to
    the center; the identity for images that got a color operation.
    """
    strength = step.magnitude * step.sign

    def of(name: str, limit: float) -> Tensor:
        return torch.where(step.operation == OPERATIONS.index(name), strength * limit, 0)

    fraction, pixels = step.limits.translate
    x0 = -of("translate_x", min(W * fraction, pixels)).trunc()
    y0 = -of("translate_y", min(H * fraction, pixels)).trunc()
    shear_x, shear_y = of("shear_x", step.limits.shear), of("shear_y", step.limits.shear)
    angle = of("rotate", step.limits.rotate).deg2rad()
    cos, sin = angle.cos(), angle.sin()
    # An image has at most one of these, so that their entries just add up. A shear leaves the upper left corner in
    # its place, as in the papers' code, not the center: hence its x0 and y0.
    return {
        "xx": cos,
        "xy": shear_x - sin,
        "x0": x0 + shear_x * (H / 2),
        "yx": shear_y + sin,
        "yy": cos,
        "y0": y0 + shear_y * (W / 2),
    }
