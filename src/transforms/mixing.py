"""MixUp and CutMix for batches of images, with one mixing proportion per sample."""

import math

import torch
from torch import Tensor

from src.randomness import Draw
from src.transforms.augment import Augmentation
from src.transforms.geometry import box_mask


def mix(
    images: Tensor,
    labels: Tensor,
    classes: int,
    settings: Augmentation,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Mix each image and its target with another sample of the batch.

    Partners come from a random permutation of the batch, and mixing proportions follow
    Beta(alpha, alpha). MixUp (Zhang et al. 2018) blends two images. CutMix (Yun et al. 2019) pastes
    a box, clipped at the border, and weights the targets by the pasted area. If both are on, each
    sample randomly gets one of them.

    Args:
        images: float [B, C, H, W].
        labels: int64 [B].
        classes: number of classes K.
        settings: alphas `mixup` and `cutmix`; if both are 0, the images are returned unchanged.
        generator: random number generator on the device of the images.

    Returns:
        The mixed images [B, C, H, W] and soft targets, float32 [B, K], without label smoothing.
    """
    B, _, H, W = images.shape
    targets = torch.zeros(B, classes, device=images.device).scatter_(1, labels[:, None], 1.0)
    if not (settings.mixup or settings.cutmix):
        return images, targets
    draw = Draw(B, generator)
    partner = draw.permutation(B)
    # Weight of the sample itself; its partner gets the rest.
    weight = torch.ones(B, 1, 1, 1, device=images.device)
    if settings.mixup:
        weight = symmetric_beta(settings.mixup, draw).view(B, 1, 1, 1)
    if settings.cutmix:
        side = (1 - symmetric_beta(settings.cutmix, draw)).sqrt()
        height, width = (side * H).floor(), (side * W).floor()
        top = draw.integers(0, H - 1) - (height / 2).floor()
        left = draw.integers(0, W - 1) - (width / 2).floor()
        box = box_mask(top, left, height, width, H, W)
        use_cutmix = draw.coin(0.5 if settings.mixup else 1.0)
        weight = torch.where(use_cutmix.view(B, 1, 1, 1), ~box, weight)  # [B, 1, H, W]
    share = weight.mean((2, 3))  # [B, 1]
    images = images[partner].lerp(images, weight.to(images.dtype))
    return images, targets[partner].lerp(targets, share)


def symmetric_beta(alpha: float, draw: Draw) -> Tensor:
    """Draw float32 [B] from Beta(alpha, alpha), for any alpha > 0; alpha = 1 is uniform.

    torch.distributions does not accept a generator, and rejection sampling waits for the device.
    This method is exact and needs only two uniform numbers, U and V. Bailey's polar method (1994)
    gives t = sqrt(2a (U^(-1/a) - 1)) cos(2 pi V), which follows Student's t distribution with 2a
    degrees of freedom; 1/2 + t / (2 sqrt(2a + t^2)) then follows Beta(a, a) (Devroye 1996).
    """
    cosine = draw.uniform(0, 2 * math.pi).cos()
    # U^(-1/a) - 1, accurate for U near 1.
    radius = torch.expm1(-draw.fractions().log() / alpha)
    return 0.5 + 0.5 * cosine.sign() / (1 + 1 / (radius * cosine.square())).sqrt()
