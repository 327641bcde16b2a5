"""Augment whole batches on the device.

A training batch passes through:
    uint8 [B, C, H, W] -> `Augment` -> float32, normalized -> `mix` -> float32 and soft targets
    -> `patchify` -> [B, N, P*P*C]

Each sample gets its own random numbers from the given generator. None of the functions
synchronizes with the device or uses PyTorch's global generator.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from src.errors import InputError
from src.randomness import Draw
from src.transforms import color, policies
from src.transforms.geometry import Border, affine, box_mask, compose, crop_maps, resample
from src.transforms.patchify import check_images, normalize_

Policy = Literal["none", "randaugment", "trivialaugment"]
EraseFill = Literal["noise", "constant"]
MAXIMA = {
    "translate": 1000,
    "rotate": 180,
    "scale": 0.9,
    "shear": 60,
    "resized_crop": 1,
    "jitter": 1,
    "policy_ops": 8,
    "policy_magnitude": 30,
    "erase": 1,
    "mixup": 100,
    "cutmix": 100,
}


@dataclass
class Augmentation:
    """Augmentation settings for training images. Everything is off by default.

    Each sample gets random strengths within the given limits.

    Args:
        flip: flip half of the images horizontally.
        translate: translate by up to this many whole pixels along each axis.
        rotate: rotate by up to this many degrees in either direction, 0 to 180.
        scale: zoom by a factor between 1 - scale and 1 + scale, 0 to 0.9.
        shear: shear along x by up to this many degrees in either direction, 0 to 60.
        resized_crop: crop at least this fraction of the area, with an aspect ratio between 3:4 and
            4:3, and resize the crop to full size (Inception crop, Szegedy et al. 2015); 0 turns
            this off, and 0.08 is common on ImageNet.
        jitter: change brightness, contrast and saturation, each by a factor between 1 - jitter and
            1 + jitter, 0 to 1.
        policy: 'none', 'randaugment' (Cubuk et al. 2020) or 'trivialaugment' (TrivialAugment Wide,
            Müller & Hutter 2021).
        policy_ops: number of operations that RandAugment applies to each image, 1 to 8;
            TrivialAugment applies one.
        policy_magnitude: RandAugment strength, 0 to 30; TrivialAugment uses random strengths.
        border: padding outside the image: 'black', or 'symmetric', which mirrors the image and
            repeats its edge pixels.
        erase: probability of erasing a rectangle that covers 2 to 33 percent of the image (Zhong et
            al. 2020), 0 to 1.
        erase_fill: 'noise' fills the rectangle with random pixels, 'constant' with the mean color
            (Cutout, DeVries & Taylor 2017).
        mixup: MixUp alpha (Zhang et al. 2018), 0 to 100; 0 turns MixUp off.
        cutmix: CutMix alpha (Yun et al. 2019), 0 to 100; 0 turns CutMix off. If MixUp is also on,
            each sample randomly gets one of the two.
    """

    flip: bool = False
    translate: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    resized_crop: float = 0.0
    jitter: float = 0.0
    policy: Policy = "none"
    policy_ops: int = 2
    policy_magnitude: int = 9
    border: Border = "black"
    erase: float = 0.0
    erase_fill: EraseFill = "noise"
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, high in MAXIMA.items():
            low = 1 if name == "policy_ops" else 0
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(
                    f"data.augment.{name} must be between {low} and {high}, got {value}"
                )
        choices_by_name = {"policy": Policy, "border": Border, "erase_fill": EraseFill}
        for name, choices in choices_by_name.items():
            if (value := getattr(self, name)) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise InputError(f"data.augment.{name} must be one of {known}, got {value}")


@dataclass
class Augment:
    """Augment and normalize batches of training images, without MixUp and CutMix (see `mix`).

    All geometric operations of a sample are composed into one affine map, so that images are
    resampled only once. If `flip` and `translate` are the only geometric operations, pixels are
    copied exactly. With all settings off, the result equals `normalize`.

    Args:
        settings: augmentation settings.
        mean: per-channel mean, on a scale from 0 to 1.
        std: per-channel standard deviation on the same scale.
    """

    settings: Augmentation
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a new, augmented batch.

        Args:
            images: uint8 [B, C, H, W]; not modified.
            generator: random number generator on the device of the images.

        Returns:
            float32 [B, C, H, W].

        Raises:
            InputError: the images are not a uint8 batch.
        """
        check_images(images)
        s = self.settings
        draw = Draw(len(images), generator)
        images = color.jitter(images, s.jitter, draw)
        assignments = []
        if s.policy != "none":
            for _ in range(s.policy_ops if s.policy == "randaugment" else 1):
                assignments += [policies.assign_operations(s.policy, s.policy_magnitude, draw)]
            images = policies.apply_colors(images, assignments)
        if assignments or s.rotate or s.scale or s.shear or s.resized_crop:
            maps = _affine_maps(s, assignments, draw, *images.shape[2:])
            pixels = resample(images, maps, s.border)
        else:
            pixels = _flip_and_translate(images, s, draw).float()
        normalize_(pixels, self.mean, self.std)
        if s.erase:
            self._erase_(pixels, draw)
        return pixels

    def _erase_(self, pixels: Tensor, draw: Draw) -> None:
        """Erase random rectangles of normalized images in place.

        ceil(p * B) samples are drawn without replacement. Each of them is then erased with a
        probability chosen so that the overall probability is p. Only these samples need noise, and
        their number is known without synchronizing with the device.
        """
        B, C, H, W = pixels.shape
        probability = self.settings.erase
        count = math.ceil(probability * B)
        indices = draw.permutation(B)[:count]
        subset = Draw(count, draw.generator)
        erased = subset.coin(probability * B / count)
        area = subset.uniform(0.02, 0.33) * (H * W)
        ratio = subset.uniform(math.log(0.3), math.log(3.3)).exp()
        height = (area * ratio).sqrt().round().clamp(1, H) * erased
        width = (area / ratio).sqrt().round().clamp(1, W)
        top = (subset.fractions() * (H - height + 1)).floor()
        left = (subset.fractions() * (W - width + 1)).floor()
        box = box_mask(top, left, height, width, H, W)
        fill = pixels.new_zeros(())  # the mean color
        if self.settings.erase_fill == "noise":
            noise = subset.fractions(C, H, W).mul_(255)
            fill = normalize_(noise, self.mean, self.std)
        selected = pixels.index_select(0, indices)
        # With weights of 0 and 1, lerp_ is exact and four times as fast as torch.where.
        pixels.index_copy_(0, indices, selected.lerp_(fill, box.float()))


def _affine_maps(
    s: Augmentation,
    assignments: list[policies.Assignment],
    draw: Draw,
    H: int,
    W: int,
) -> Tensor:
    """Compose all geometric operations into maps [3, 3, B].

    Images are flipped first, then cropped, translated, sheared, rotated and scaled; the policy
    comes last. Maps convert output to input coordinates, so later operations multiply from the
    right.
    """
    flip, dx, dy = _draw_flip_and_translation(s, draw)
    maps = [affine(draw, xx=1.0 - 2.0 * flip)]
    if s.resized_crop:
        maps += [crop_maps(s.resized_crop, draw, H, W)]
    if s.translate:
        maps += [affine(draw, x0=-dx, y0=-dy)]
    if s.rotate or s.scale or s.shear:
        angle = draw.uniform(-s.rotate, s.rotate).deg2rad()
        zoom = draw.uniform(1 - s.scale, 1 + s.scale)
        shear = draw.uniform(-s.shear, s.shear).deg2rad().tan()
        cos = angle.cos() / zoom
        sin = angle.sin() / zoom
        maps += [affine(draw, xy=shear)]
        maps += [affine(draw, xx=cos, xy=-sin, yx=sin, yy=cos)]
    for assignment in assignments:
        maps += [affine(draw, **policies.affine_entries(assignment, H, W))]
    return reduce(compose, maps)


def _flip_and_translate(images: Tensor, s: Augmentation, draw: Draw) -> Tensor:
    """Flip and translate uint8 images exactly, without resampling."""
    B, _, H, W = images.shape
    flip, dx, dy = _draw_flip_and_translation(s, draw)
    if s.flip:
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    if s.translate:
        # A view, [B, C, translations along y, translations along x, H, W].
        windows = _pad(images, s.translate, s.border).unfold(2, H, 1).unfold(3, W, 1)
        images = windows[torch.arange(B, device=draw.device), :, s.translate - dy, s.translate - dx]
    return images


def _pad(images: Tensor, pixels: int, border: Border) -> Tensor:
    """Pad all sides of images [B, C, H, W]; symmetric padding repeats the edge pixels."""
    if border == "black":
        return F.pad(images, (pixels,) * 4)
    for axis in (2, 3):
        size = images.shape[axis]
        index = torch.arange(-pixels, size + pixels, device=images.device) % (2 * size)
        images = images.index_select(axis, torch.minimum(index, 2 * size - 1 - index))
    return images


def _draw_flip_and_translation(s: Augmentation, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Return flips, bool [B], and translations along x and y in pixels, int64 [B] each."""
    flip, limit = draw.coin() & s.flip, s.translate
    return flip, draw.integers(-limit, limit), draw.integers(-limit, limit)
