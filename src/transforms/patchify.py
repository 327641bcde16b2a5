"""Patches, and normalization: all the preprocessing there is at validation.

Shapes: B batch, C channels, H and W image height and width, P patch size, N = (H/P)(W/P) patches.
"""

import math

import torch
from torch import Tensor, nn

from src.errors import InputError


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, C, H, W] -> [B, (H/P)(W/P), P*P*C]: patches row by row, each flattened as (P, P, C), channels last.

    Raises InputError if P does not divide H and W.
    """
    B, C, H, W = images.shape
    P = patch_size
    check_patch_size(P, (H, W))
    # Two copies with long contiguous runs are more than twice as fast as one that gathers single values.
    rows = images.permute(0, 2, 3, 1).reshape(B, H // P, P, W // P, P * C)
    return rows.transpose(2, 3).reshape(B, (H // P) * (W // P), P * P * C)


class Patchify(nn.Module):
    """`patchify` as a module, for a pipeline of transforms."""

    def __init__(self, patch_size: int):
        super().__init__()
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        return patchify(images, self.patch_size)

    def extra_repr(self) -> str:
        return f"patch_size={self.patch_size}"


def unpatchify(
    patches: Tensor, patch_size: int, image_size: int | tuple[int, int], channels: int
) -> Tensor:
    """The inverse of `patchify`: [B, N, P*P*C] -> [B, C, H, W]. image_size is (H, W), or one number for a square."""
    H, W = (image_size, image_size) if isinstance(image_size, int) else image_size
    P = patch_size
    check_patch_size(P, (H, W))
    grid = patches.reshape(len(patches), H // P, W // P, P, P, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), channels, H, W)


def check_patch_size(patch_size: int, image_size: tuple[int, int]) -> None:
    """Raises InputError, naming the sizes that would do, if patch_size does not divide both sides of the image."""
    H, W = image_size
    if patch_size < 1 or H % patch_size or W % patch_size:
        common = math.gcd(H, W)
        choices = ", ".join(str(size) for size in range(1, common + 1) if common % size == 0)
        raise InputError(
            f"patch_size {patch_size} does not divide the image size {H}x{W}; choose one of {choices}"
        )


def normalize(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """uint8 [B, C, H, W] -> float32 [B, C, H, W]: (images / 255 - mean) / std, channel by channel.

    This is all the preprocessing there is at validation. mean and std have one number a channel, in units of 0 to 1.
    Raises InputError if the images are not uint8 or the channels differ from mean and std.
    """
    check_images(images)
    return normalize_(images.float(), mean, std)


def check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise InputError(
            f"images must be uint8 [B, C, H, W], got {images.dtype} {list(images.shape)}"
        )


def normalize_(pixels: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Normalizes float [B, C, H, W] of 0 to 255 in place. Tensors of mean and std would cost a copy to the device."""
    C = pixels.shape[1]
    if not len(mean) == len(std) == C:
        raise InputError(
            f"images have {C} channels, but mean has {len(mean)} values and std {len(std)}"
        )
    for channel, m, s in zip(pixels.unbind(1), mean, std, strict=True):
        channel.mul_(1 / (255 * s)).sub_(m / s)
    return pixels
