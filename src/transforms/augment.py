"""Augmentation of whole batches on the device they live on: its settings, and the one pass that applies them.

The way of a training batch:
    uint8 [B, C, H, W] -> Augment -> float32, normalized -> mix -> float32 and soft targets -> patchify -> [B, N, P*P*C]

Every sample draws its own random numbers, all of them from the generator that is passed in (it must live on the device
of the images); nothing here waits for the device, or touches PyTorch's global generator.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from src.errors import InputError
from src.randomness import Draw
from src.transforms import color, policies
from src.transforms.geometry import affine, box_mask, compose, crop_maps, resample
from src.transforms.patchify import check_images, normalize_


@dataclass
class Augmentation:
    """What to do to training images; every default means 'off'. Each sample draws its own strengths up to these.

    Args:
        flip: mirror left to right half of the images.
        translate: move by up to so many whole pixels both ways along both axes; what comes in is black.
        rotate: turn by up to so many degrees either way, 0 to 180.
        scale: zoom by a factor from 1 - scale to 1 + scale, 0 to 0.9.
        shear: slant along x by up to so many degrees either way, 0 to 60.
        resized_crop: crop this least fraction of the area (up to all of it) at an aspect ratio between 3:4 and 4:3, and
            resize it to the whole image (Inception crop, Szegedy et al. 2015); 0 is off, 0.08 is usual on ImageNet.
        jitter: brightness, contrast and saturation each by a factor from 1 - jitter to 1 + jitter, 0 to 1.
        hue: turn hues by up to this fraction of the color circle either way, 0 to 0.5.
        policy: 'randaugment' (Cubuk et al. 2020) or 'trivialaugment' (the wide one of Müller & Hutter 2021).
        policy_ops: how many operations RandAugment does one after the other, 1 to 8; TrivialAugment does one.
        policy_magnitude: strength of RandAugment, 0 to 30; TrivialAugment draws its own.
        erase: probability that a rectangle of 2 to 33 percent of the area is erased (Zhong et al. 2020), 0 to 1.
        erase_fill: 'noise' fills it with random pixels, 'constant' with the mean color (Cutout, DeVries & Taylor 2017).
        mixup: alpha of MixUp (Zhang et al. 2018), 0 to 100; see `mix`.
        cutmix: alpha of CutMix (Yun et al. 2019), 0 to 100; with both on, each sample gets one of them at random.
    """

    flip: bool = False
    translate: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    resized_crop: float = 0.0
    jitter: float = 0.0
    hue: float = 0.0
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    policy_ops: int = 2
    policy_magnitude: int = 9
    erase: float = 0.0
    erase_fill: Literal["noise", "constant"] = "noise"
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        highest = {"translate": 1000, "rotate": 180, "scale": 0.9, "shear": 60, "resized_crop": 1}
        highest |= {"jitter": 1, "hue": 0.5, "policy_ops": 8, "policy_magnitude": 30, "erase": 1}
        highest |= {"mixup": 100, "cutmix": 100}
        for name, high in highest.items():
            low, value = int(name == "policy_ops"), getattr(self, name)
            if not low <= value <= high:
                raise InputError(
                    f"data.augment.{name} must be between {low} and {high}, got {value}"
                )
        choices = {
            "policy": ("none", "randaugment", "trivialaugment"),
            "erase_fill": ("noise", "constant"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"data.augment.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)}"
                )


class Augment:
    """(uint8 [B, C, H, W], generator) -> float32 [B, C, H, W], augmented and normalized. The input is left alone.

    All geometry is one affine map a sample and one bilinear resampling a batch; whole-pixel translations and flips
    alone are exact copies. With every setting off the result equals `normalize`. MixUp and CutMix are left to `mix`.
    """

    def __init__(self, settings: Augmentation, mean: list[float], std: list[float]):
        self.settings, self.mean, self.std = settings, mean, std

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        check_images(images)
        s = self.settings
        draw, deals = Draw(len(images), generator), []
        if s.jitter or s.hue:
            images = color.jitter(images, s.jitter, s.hue, draw)
        if s.policy != "none":
            ops = s.policy_ops if s.policy == "randaugment" else 1
            deals = [policies.deal_out(s.policy, s.policy_magnitude, draw) for _ in range(ops)]
            images = policies.apply_colors(images, deals)
        if deals or s.rotate or s.scale or s.shear or s.resized_crop:
            pixels = resample(images, _maps(s, deals, draw, images.shape[-2:]))
        else:
            pixels = _flip_and_translate(images, s, draw)
        pixels = normalize_(pixels.float(), self.mean, self.std)
        if s.erase:
            _erase_(pixels, s, draw, self.mean, self.std)
        return pixels


def _maps(
    s: Augmentation, deals: list[policies.Deal], draw: Draw, image_size: tuple[int, int]
) -> Tensor:
    """[3, 3, B] maps of all geometric settings. An image is flipped first, then cropped, translated, and so on; maps go
    from output to input, so that later operations multiply from the right."""
    H, W = image_size
    flip, dx, dy = _draw_flip_and_translate(s, draw)
    maps = affine(draw, xx=1.0 - 2.0 * flip)
    if s.resized_crop:
        maps = compose(maps, crop_maps(s.resized_crop, draw, H, W))
    if s.translate:
        maps = compose(maps, affine(draw, x0=-dx, y0=-dy))
    if s.rotate or s.scale or s.shear:
        angle = draw.uniform(-s.rotate, s.rotate).deg2rad()
        zoom = draw.uniform(1 - s.scale, 1 + s.scale)
        slant = draw.uniform(-s.shear, s.shear).deg2rad().tan()
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        maps = compose(maps, affine(draw, xy=slant))
        maps = compose(maps, affine(draw, xx=cos, xy=-sin, yx=sin, yy=cos))
    for deal in deals:
        maps = compose(maps, affine(draw, **policies.geometry(deal, H, W)))
    return maps


def _draw_flip_and_translate(s: Augmentation, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """bool [B], int64 [B], int64 [B]"""
    return (
        draw.coin() & s.flip,
        draw.integers(-s.translate, s.translate),
        draw.integers(-s.translate, s.translate),
    )


def _flip_and_translate(images: Tensor, s: Augmentation, draw: Draw) -> Tensor:
    """What resample(_maps) gives where only flip and translate are on, by exact copies: uint8 in, uint8 out."""
    B, _, H, W = images.shape
    flip, dx, dy = _draw_flip_and_translate(s, draw)
    if s.flip:
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    if s.translate:
        padded = F.pad(images, (s.translate,) * 4)
        windows = padded.unfold(2, H, 1).unfold(
            3, W, 1
        )  # a view: [B, C, 2 * translate + 1, 2 * translate + 1, H, W]
        samples = torch.arange(B, device=images.device)
        images = windows[samples, :, s.translate - dy, s.translate - dx]
    return images


def _erase_(
    pixels: Tensor, s: Augmentation, draw: Draw, mean: list[float], std: list[float]
) -> None:
    """Random erasing in place on normalized images. Works on ceil(p * B) samples drawn without replacement, of which
    each is erased with the probability that makes it p for all: only these need noise, and their number is known
    without asking the device."""
    B, C, H, W = pixels.shape
    count = math.ceil(s.erase * B)
    chosen = draw.permutation(B)[:count]
    some = Draw(count, draw.generator)
    erased = some.coin(s.erase * B / count)
    area = some.uniform(0.02, 0.33) * (H * W)
    ratio = some.uniform(math.log(0.3), math.log(3.3)).exp()
    height = (area * ratio).sqrt().round().clamp(1, H) * erased
    width = (area / ratio).sqrt().round().clamp(1, W)
    top = (some.uniform(0, 1) * (H - height + 1)).floor()
    left = (some.uniform(0, 1) * (W - width + 1)).floor()
    box = box_mask(top, left, height, width, H, W)
    if s.erase_fill == "noise":
        noise = torch.rand(count, C, H, W, generator=draw.generator, device=draw.device).mul_(255)
        fill = normalize_(noise, mean, std)
    else:
        fill = torch.zeros((), device=draw.device)  # the mean color
    # By a weight of 0 or 1, lerp gives exactly the one or the other, in a quarter of the time of torch.where.
    pixels.index_copy_(0, chosen, pixels.index_select(0, chosen).lerp_(fill, box.float()))
