"""MixUp and CutMix of whole batches, every sample in its own proportion; shapes as in `augment.py`."""

import math

import torch
from torch import Tensor

from src.randomness import Draw
from src.transforms.augment import Augmentation
from src.transforms.geometry import box_mask


def mix(
    images: Tensor, labels: Tensor, classes: int, settings: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """MixUp and CutMix: float [B, C, H, W] and int64 [B] -> float [B, C, H, W] and soft targets, float32 [B, classes].

    Each sample is mixed with a partner (a permutation of the batch) in its own proportion lambda ~ Beta(alpha, alpha):
    MixUp (Zhang et al. 2018) blends, CutMix (Yun et al. 2019) pastes a box of the area 1 - lambda, cut off at the
    image's border, and its targets follow the area pasted in the end. With both on each sample gets one, evenly.
    With both off, images come back as they are with one-hot targets. Label smoothing is left to the loss.
    """
    B, _, H, W = images.shape
    targets = torch.zeros(B, classes, device=images.device).scatter_(1, labels[:, None], 1.0)
    if not (settings.mixup or settings.cutmix):
        return images, targets
    draw = Draw(B, generator)
    partner = draw.permutation(B)
    weight = torch.ones(
        B, 1, 1, 1, device=images.device
    )  # of the sample itself; its partner has the rest
    if settings.mixup:
        weight = symmetric_beta(settings.mixup, draw).view(B, 1, 1, 1)
    if settings.cutmix:
        box = _cutmix_box(symmetric_beta(settings.cutmix, draw), draw, H, W)
        cut = draw.coin(0.5 if settings.mixup else 1.0).view(B, 1, 1, 1)
        weight = torch.where(cut, ~box, weight)  # [B, 1, H, W]
    share = weight.mean((1, 2, 3))
    mixed = torch.lerp(images[partner], images, weight.to(images.dtype))
    return mixed, torch.lerp(targets[partner], targets, share[:, None])


def _cutmix_box(share: Tensor, draw: Draw, H: int, W: int) -> Tensor:
    """bool [B, 1, H, W]: a box of sides sqrt(1 - share) of the image's, around any pixel, cut off at the border."""
    side = (1 - share).sqrt()
    height, width = (side * H).floor(), (side * W).floor()
    top = draw.integers(0, H - 1) - (height / 2).floor()
    left = draw.integers(0, W - 1) - (width / 2).floor()
    return box_mask(top, left, height, width, H, W)


def symmetric_beta(alpha: float, draw: Draw) -> Tensor:
    """float32 [B] from Beta(alpha, alpha), for any alpha > 0; alpha = 1 is uniform.

    torch.distributions takes no generator, and rejection methods wait for the device. This is exact and needs two
    uniform numbers: Bailey's (1994) polar method gives t = sqrt(2a (U^(-1/a) - 1)) cos(2 pi V) of Student's t
    distribution with 2a degrees of freedom, and 1/2 + t / (2 sqrt(2a + t^2)) is then Beta(a, a) (Devroye 1996).
    """
    direction = draw.uniform(0, 2 * math.pi).cos()
    radius = torch.expm1(
        -draw.uniform(0, 1).log() / alpha
    )  # U^(-1/a) - 1, without cancellation for U near 1
    return 0.5 + 0.5 * direction.sign() / (1 + 1 / (radius * direction.square())).sqrt()
