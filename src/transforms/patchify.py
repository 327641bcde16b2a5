"""Convert images to patches and back, and normalize uint8 images.

Shapes: B batch size, C channels, H, W image height and width, P patch size, N = (H/P)(W/P) patches.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from src.errors import InputError


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Split images into patches: [B, C, H, W] -> [B, N, P*P*C].

    Patches are in row-major order. Each is flattened as (P, P, C), channels last.

    Raises:
        InputError: P does not divide H and W.
    """
    B, C, H, W = images.shape
    P = patch_size
    check_patch_size(P, (H, W))
    # Two copies of long contiguous runs are more than twice as fast as one copy of single values.
    rows = images.permute(0, 2, 3, 1).reshape(B, H // P, P, W // P, P * C)
    return rows.transpose(2, 3).flatten(3).flatten(1, 2)


class Patchify(nn.Module):
    """`patchify` as a module.

    Args:
        patch_size: side length P of the patches in pixels.
    """

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        return patchify(images, self.patch_size)


def unpatchify(patches: Tensor, patch_size: int, image_size: int, channels: int) -> Tensor:
    """Invert `patchify` for square images: [B, N, P*P*C] -> [B, C, H, W].

    Args:
        patches: output of `patchify`.
        patch_size: side length P of the patches in pixels.
        image_size: side length H = W of the images in pixels.
        channels: number of channels C.

    Raises:
        InputError: P does not divide the image size.
    """
    P = patch_size
    check_patch_size(P, (image_size, image_size))
    side = image_size // P
    grid = patches.reshape(len(patches), side, side, P, P, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def check_patch_size(patch_size: int, image_size: tuple[int, int]) -> None:
    """Check that patches tile an image of size (H, W).

    Raises:
        InputError: the patch size does not divide H and W; the message lists valid sizes.
    """
    H, W = image_size
    if patch_size < 1 or H % patch_size or W % patch_size:
        divisors = [str(size) for size in range(1, H + 1) if H % size == W % size == 0]
        raise InputError(
            f"data.patch_size {patch_size} does not divide the image size {H}x{W}; "
            f"choose one of {', '.join(divisors)}"
        )


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalize each channel: (images / 255 - mean) / std.

    Args:
        images: uint8 [B, C, H, W]; not modified.
        mean: per-channel mean, on a scale from 0 to 1.
        std: per-channel standard deviation on the same scale.

    Returns:
        float32 [B, C, H, W].

    Raises:
        InputError: the images are not a uint8 batch.
        ValueError: mean or std does not have C values.
    """
    check_images(images)
    return normalize_(images.float(), mean, std)


def normalize_(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalize float images [B, C, H, W] with values from 0 to 255 in place."""
    # Use Python floats, because mean and std tensors would have to be copied to the device.
    for channel, m, s in zip(pixels.unbind(1), mean, std, strict=True):
        channel.mul_(1 / (255 * s)).sub_(m / s)
    return pixels


def check_images(images: Tensor) -> None:
    """Raise InputError unless the images are uint8 [B, C, H, W]."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise InputError(
            f"images must be uint8 [B, C, H, W], got {images.dtype} {list(images.shape)}"
        )
