"""RandAugment and TrivialAugment: operations dealt out to the images of a batch."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from src.randomness import Draw
from src.transforms import color

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *(
        "brightness",
        "saturation",
        "contrast",
        "sharpness",
        "posterize",
        "solarize",
        "autocontrast",
        "equalize",
    ),
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


class Deal(NamedTuple):
    """One operation for each of B images, which get a place in a row of slots for each operation."""

    limits: Limits
    operation: Tensor  # int64 [B], into OPERATIONS
    slots: Tensor  # int64 [operations, ceil(B / operations)]: the image in each slot; empty ones repeat the first image
    place: Tensor  # int64 [B]: the slot of each image, counted through all rows
    magnitude: Tensor  # float32 [B], 0 to 1
    sign: Tensor  # float32 [B], -1 or 1


def deal_out(policy: str, magnitude: int, draw: Draw) -> Deal:
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
    level = (
        draw.integers(0, 30)
        if policy == "trivialaugment"
        else torch.full((B,), magnitude, device=draw.device)
    )
    sign = draw.integers(0, 1) * 2.0 - 1.0
    return Deal(LIMITS[policy], place // each, slots.view(count, each), place, level / 30, sign)


def apply_colors(images: Tensor, deals: list[Deal]) -> Tensor:
    """The color operations of each deal in turn: uint8 [B, C, H, W] -> new uint8 [B, C, H, W].

    Images are sorted by their operation, and back, whole: index_select copies an image at once, indexing by [] a byte.
    """
    for deal in deals:
        factor = 1 + deal.sign * deal.magnitude * deal.limits.color
        strengths = {
            color.brightness: factor,
            color.saturation: factor,
            color.contrast: factor,
            color.sharpness: factor,
            color.posterize: 8 - (deal.magnitude * deal.limits.posterize).round(),
            color.solarize: 255 * (1 - deal.magnitude),
            color.autocontrast: None,
            color.equalize: None,
        }
        groups = list(images.index_select(0, deal.slots.flatten()).chunk(len(OPERATIONS)))
        for operation, strength in strengths.items():
            row = OPERATIONS.index(operation.__name__)
            arguments = () if strength is None else (strength[deal.slots[row]],)
            groups[row] = operation(groups[row], *arguments)
        images = torch.cat(groups).index_select(0, deal.place)
    return images


def geometry(deal: Deal, H: int, W: int) -> dict[str, Tensor]:
    """The geometric operations of a step as the entries [B] of affine maps from output to input pixels, relative to
    the center; the identity for images that got a color operation.
    """
    strength = deal.magnitude * deal.sign

    def of(name: str, limit: float) -> Tensor:
        return torch.where(deal.operation == OPERATIONS.index(name), strength * limit, 0)

    fraction, pixels = deal.limits.translate
    x0 = -of("translate_x", min(W * fraction, pixels)).trunc()
    y0 = -of("translate_y", min(H * fraction, pixels)).trunc()
    shear_x, shear_y = of("shear_x", deal.limits.shear), of("shear_y", deal.limits.shear)
    angle = of("rotate", deal.limits.rotate).deg2rad()
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
