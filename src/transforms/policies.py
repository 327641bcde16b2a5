"""RandAugment (Cubuk et al. 2020) and TrivialAugment (Müller & Hutter 2021) for whole batches."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from src.randomness import Draw
from src.transforms import color

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)


class Limits(NamedTuple):
    """Strengths of the operations at the maximum magnitude of a policy."""

    shear: float  # pixels per pixel
    translate: tuple[float, float]  # (fraction of the image size, pixels); the smaller applies
    rotate: float  # degrees
    color: float  # factors between 1 - color and 1 + color
    posterize: int  # number of bits removed


LIMITS = {
    "randaugment": Limits(0.3, (150 / 331, math.inf), 30, 0.9, 4),
    # The paper translates by up to 32 pixels, which can exceed the size of a small image.
    "trivialaugment": Limits(0.99, (1.0, 32), 135, 0.99, 6),
}


class Assignment(NamedTuple):
    """One operation per image of a batch, with images grouped by operation."""

    limits: Limits
    operation: Tensor  # int64 [B], index into OPERATIONS
    groups: Tensor  # int64 [operations, capacity]: image indices, padded with image 0
    position: Tensor  # int64 [B]: position of each image in the flattened groups
    magnitude: Tensor  # float32 [B], from 0 to 1
    strength: Tensor  # float32 [B], the magnitude with a random sign


def assign_operations(policy: str, magnitude: int, draw: Draw) -> Assignment:
    """Assign a random operation and its strength to each image of a batch.

    All operations are equally likely for each image, but they are drawn without replacement: at
    most ceil(B / operations) images get the same operation. Group sizes therefore do not depend on
    random numbers, and the host does not need to read them back from the device.

    Args:
        policy: a key of LIMITS.
        magnitude: 'randaugment' strength, from 0 to 30; 'trivialaugment' draws one per image.
        draw: source of random numbers.
    """
    B = draw.size
    capacity = math.ceil(B / len(OPERATIONS))
    order = draw.permutation(len(OPERATIONS) * capacity)
    position = order[:B]
    images = order.argsort()  # inverse permutation; only indices below B are images
    images = torch.where(images < B, images, 0)
    level = torch.full_like(position, magnitude)
    if policy == "trivialaugment":
        level = draw.integers(0, 30)
    sign = draw.integers(0, 1) * 2.0 - 1.0
    return Assignment(
        LIMITS[policy],
        position // capacity,
        images.view(-1, capacity),
        position,
        level / 30,
        level / 30 * sign,
    )


def apply_colors(images: Tensor, assignments: list[Assignment]) -> Tensor:
    """Apply the color operations of the assignments in order.

    Args:
        images: uint8 [B, C, H, W]; not modified.
        assignments: outputs of `assign_operations` for these images.

    Returns:
        uint8 [B, C, H, W].
    """
    for assignment in assignments:
        limits = assignment.limits
        factor = 1 + assignment.strength * limits.color
        strengths = {
            "brightness": factor,
            "saturation": factor,
            "contrast": factor,
            "sharpness": factor,
            "posterize": 8 - (assignment.magnitude * limits.posterize).round(),
            "solarize": 255 * (1 - assignment.magnitude),
            "autocontrast": None,
            "equalize": None,
        }
        # index_select copies whole images; indexing with [] would copy byte by byte.
        groups = list(images.index_select(0, assignment.groups.flatten()).chunk(len(OPERATIONS)))
        for name, strength in strengths.items():
            operation = getattr(color, name)
            row = OPERATIONS.index(name)
            arguments = [] if strength is None else [strength[assignment.groups[row]]]
            groups[row] = operation(groups[row], *arguments)
        images = torch.cat(groups).index_select(0, assignment.position)
    return images


def affine_entries(assignment: Assignment, H: int, W: int) -> dict[str, Tensor]:
    """Return the geometric operations as `entries` [B] for `geometry.affine`.

    Images with a color operation get the identity.
    """
    limits = assignment.limits

    def scaled(name: str, limit: float) -> Tensor:
        chosen = assignment.operation == OPERATIONS.index(name)
        return torch.where(chosen, assignment.strength * limit, 0)

    fraction, pixels = limits.translate
    x0 = -scaled("translate_x", min(W * fraction, pixels)).trunc()
    y0 = -scaled("translate_y", min(H * fraction, pixels)).trunc()
    shear_x = scaled("shear_x", limits.shear)
    shear_y = scaled("shear_y", limits.shear)
    angle = scaled("rotate", limits.rotate).deg2rad()
    cos, sin = angle.cos(), angle.sin()
    # At most one of these is nonzero for each image, so the entries can be added. As in the code of
    # the papers, a shear keeps the top-left corner fixed, not the center, which changes x0 and y0.
    return {
        "xx": cos,
        "xy": shear_x - sin,
        "x0": x0 + shear_x * (H / 2),
        "yx": shear_y + sin,
        "yy": cos,
        "y0": y0 + shear_y * (W / 2),
    }
