"""Patches, normalization, and augmentation of whole batches on the device they live on.

The road of a training batch:
    uint8 [B, C, H, W] -> Augment -> float32, normalized -> mix -> float32 and soft targets -> Patchify -> [B, N, P*P*C]
and of a validation batch:
    uint8 [B, C, H, W] -> normalize -> Patchify

Every sample draws its own random numbers, all of them from the generator that is passed in (it must live on the device
of the images); nothing here waits for the device, or touches PyTorch's global generator.

Shapes: B batch, C channels, H and W image height and width, P patch size, N = (H/P)(W/P) patches.
Maps: an affine map takes an output pixel to the input pixel whose color it gets. Coordinates are in pixels, x to the
right and y down, from the center of the image. The maps of a batch are [3, 3, B]: with the batch last, composing them
takes a ninth of the time.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src import color
from src.color import Draw
from src.errors import InputError


class Patchify(nn.Module):
    """[B, C, H, W] -> [B, (H/P)(W/P), P*P*C]: patches row by row, each flattened as (P, P, C), channels last.

    Raises InputError if P does not divide H and W.
    """

    def __init__(self, patch_size: int):
        super().__init__()
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        B, C, H, W = images.shape
        P = self.patch_size
        check_patch_size(P, (H, W))
        # Two copies with long contiguous runs are more than twice as fast as one that gathers single values.
        rows = images.permute(0, 2, 3, 1).reshape(B, H // P, P, W // P, P * C)
        return rows.transpose(2, 3).reshape(B, (H // P) * (W // P), P * P * C)

    def extra_repr(self) -> str:
        return f"patch_size={self.patch_size}"


def unpatchify(patches: Tensor, patch_size: int, image_size: int | tuple[int, int], channels: int) -> Tensor:
    """The inverse of Patchify: [B, N, P*P*C] -> [B, C, H, W]. image_size is (H, W), or one number for a square."""
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
        raise InputError(f"patch_size {patch_size} does not divide the image size {H}x{W}; choose one of {choices}")


# ---------------------------------------------------------------------------------------------------- normalization


def normalize(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """uint8 [B, C, H, W] -> float32 [B, C, H, W]: (images / 255 - mean) / std, channel by channel.

    This is all the preprocessing there is at validation. mean and std have one number a channel, in units of 0 to 1.
    Raises InputError if the images are not uint8 or the channels differ from mean and std.
    """
    _check_images(images)
    return _normalize_(images.float(), mean, std)


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise InputError(f"images must be uint8 [B, C, H, W], got {images.dtype} {list(images.shape)}")


def _normalize_(pixels: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Normalizes float [B, C, H, W] of 0 to 255 in place. Tensors of mean and std would cost a copy to the device."""
    C = pixels.shape[1]
    if not len(mean) == len(std) == C:
        raise InputError(f"images have {C} channels, but mean has {len(mean)} values and std {len(std)}")
    for channel, m, s in zip(pixels.unbind(1), mean, std, strict=True):
        channel.mul_(1 / (255 * s)).sub_(m / s)
    return pixels


# -------------------------------------------------------------------------------------------------------- settings


@dataclass
class Augmentation:
    """What to do to training images; every default means 'off'. Each sample draws its own strengths up to these.

    Args:
        flip: mirror left to right half of the images.
        shift: move by up to so many whole pixels both ways along both axes; what comes in is black.
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
    shift: int = 0
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
        highest = {"shift": 1000, "rotate": 180, "scale": 0.9, "shear": 60, "resized_crop": 1}
        highest |= {"jitter": 1, "hue": 0.5, "policy_ops": 8, "policy_magnitude": 30, "erase": 1}
        highest |= {"mixup": 100, "cutmix": 100}
        for name, high in highest.items():
            low, value = int(name == "policy_ops"), getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"data.augment.{name} must be between {low} and {high}, got {value}")
        choices = {"policy": ("none", "randaugment", "trivialaugment"), "erase_fill": ("noise", "constant")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"data.augment.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)}")


# ---------------------------------------------------------------------------------------------------- augmentation


class Augment:
    """(uint8 [B, C, H, W], generator) -> float32 [B, C, H, W], augmented and normalized. The input is left alone.

    All geometry is one affine map a sample and one bilinear resampling a batch; whole-pixel shifts and flips alone are
    exact copies. With every setting off the result equals `normalize`. MixUp and CutMix are left to `mix`.
    """

    def __init__(self, settings: Augmentation, mean: list[float], std: list[float]):
        self.settings, self.mean, self.std = settings, mean, std

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        _check_images(images)
        s = self.settings
        draw, steps = Draw(len(images), generator), []
        if s.jitter or s.hue:
            images = color.jitter(images, s.jitter, s.hue, draw)
        if s.policy != "none":
            ops = s.policy_ops if s.policy == "randaugment" else 1
            steps = [color.draw_step(s.policy, s.policy_magnitude, draw) for _ in range(ops)]
            images = color.apply_colors(images, steps)
        if steps or s.rotate or s.scale or s.shear or s.resized_crop:
            pixels = resample(images, _geometry(s, steps, draw, images.shape[-2:]))
        else:
            pixels = _flip_and_shift(images, s, draw)
        pixels = _normalize_(pixels.float(), self.mean, self.std)
        if s.erase:
            _erase_(pixels, s, draw, self.mean, self.std)
        return pixels


# -------------------------------------------------------------------------------------------------------- geometry


def affine(draw: Draw, xx=1.0, xy=0.0, x0=0.0, yx=0.0, yy=1.0, y0=0.0) -> Tensor:
    """[3, 3, B] maps x_in = xx * x + xy * y + x0, y_in = yx * x + yy * y + y0; each entry a number or a tensor [B]."""
    maps = torch.empty(9, draw.size, device=draw.device)
    for entry, value in zip(maps, (xx, xy, x0, yx, yy, y0, 0.0, 0.0, 1.0), strict=True):
        entry[:] = value
    return maps.view(3, 3, -1)


def resample(images: Tensor, maps: Tensor) -> Tensor:
    """Bilinear: [B, C, H, W] of any type, maps [3, 3, B] -> float32 [B, C, H, W]. Black (0) outside of the images."""
    B, _, H, W = images.shape
    x = torch.arange(W, device=images.device) + (0.5 - W / 2)  # [W]
    y = (torch.arange(H, device=images.device) + (0.5 - H / 2))[:, None]  # [H, 1]
    grid = torch.empty(2, B, H, W, device=images.device)
    for axis, size in enumerate((W, H)):  # grid_sample wants coordinates from -1 to 1
        a, b, c = (maps[axis] * (2 / size))[:, :, None, None]  # [B, 1, 1] each
        torch.add(a * x, b * y + c, out=grid[axis])
    grid = grid.movedim(0, -1)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _geometry(s: Augmentation, steps: list[color.Step], draw: Draw, image_size: tuple[int, int]) -> Tensor:
    """[3, 3, B] maps of all geometric settings. An image is flipped first, then cropped, shifted, and so on; maps go
    from output to input, so that later operations multiply from the right."""
    H, W = image_size
    flip, shift_x, shift_y = _draw_flip_and_shift(s, draw)
    maps = affine(draw, xx=1.0 - 2.0 * flip)
    if s.resized_crop:
        maps = _compose(maps, _crop_maps(s.resized_crop, draw, H, W))
    if s.shift:
        maps = _compose(maps, affine(draw, x0=-shift_x, y0=-shift_y))
    if s.rotate or s.scale or s.shear:
        angle = draw.uniform(-s.rotate, s.rotate).deg2rad()
        zoom = draw.uniform(1 - s.scale, 1 + s.scale)
        slant = draw.uniform(-s.shear, s.shear).deg2rad().tan()
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        maps = _compose(maps, affine(draw, xy=slant))
        maps = _compose(maps, affine(draw, xx=cos, xy=-sin, yx=sin, yy=cos))
    for step in steps:
        maps = _compose(maps, affine(draw, **color.geometry(step, H, W)))
    return maps


def _compose(first: Tensor, then: Tensor) -> Tensor:
    """The product of [3, 3, B] maps; not by @, which TF32 or autocast may round to a hundredth of a pixel."""
    return (first[:, :, None] * then).sum(1)


def _draw_flip_and_shift(s: Augmentation, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """bool [B], int64 [B], int64 [B]"""
    return draw.coin() & s.flip, draw.integers(-s.shift, s.shift), draw.integers(-s.shift, s.shift)


def _crop_maps(least_area: float, draw: Draw, H: int, W: int) -> Tensor:
    """[3, 3, B] maps that stretch a random crop over the whole image, keeping to the drawn area exactly: the aspect
    ratio is drawn among those at which a crop of this area fits, where torchvision draws both again until one does."""
    area = draw.uniform(least_area, 1)
    shape = math.log(H / W)  # of a crop of full height and width, as a log ratio of height to width
    room = -area.log()
    low = (shape - room).clamp(min=math.log(3 / 4))
    high = (shape + room).clamp(max=math.log(4 / 3))
    stretch = ((draw.uniform(low, high) - shape) / 2).exp()
    height = (area.sqrt() * stretch).clamp(max=1)  # fractions of H and W
    width = (area.sqrt() / stretch).clamp(max=1)
    x = draw.uniform(-0.5, 0.5) * (1 - width) * W
    y = draw.uniform(-0.5, 0.5) * (1 - height) * H
    return affine(draw, xx=width, x0=x, yy=height, y0=y)


def _flip_and_shift(images: Tensor, s: Augmentation, draw: Draw) -> Tensor:
    """What resample(_geometry) gives where only flip and shift are on, by exact copies: uint8 in, uint8 out."""
    B, _, H, W = images.shape
    flip, shift_x, shift_y = _draw_flip_and_shift(s, draw)
    if s.flip:
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    if s.shift:
        padded = F.pad(images, (s.shift,) * 4)
        windows = padded.unfold(2, H, 1).unfold(3, W, 1)  # a view: [B, C, 2 * shift + 1, 2 * shift + 1, H, W]
        samples = torch.arange(B, device=images.device)
        images = windows[samples, :, s.shift - shift_y, s.shift - shift_x]
    return images


# -------------------------------------------------------------------------------------------------------- erasing


def box_mask(top: Tensor, left: Tensor, height: Tensor, width: Tensor, H: int, W: int) -> Tensor:
    """bool [B, 1, H, W], True inside each sample's box; arguments are [B], in pixels."""
    y = torch.arange(H, device=top.device)
    x = torch.arange(W, device=top.device)
    rows = (y >= top[:, None]) & (y < (top + height)[:, None])  # [B, H]
    columns = (x >= left[:, None]) & (x < (left + width)[:, None])  # [B, W]
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)


def _erase_(pixels: Tensor, s: Augmentation, draw: Draw, mean: list[float], std: list[float]) -> None:
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
        fill = _normalize_(noise, mean, std)
    else:
        fill = torch.zeros((), device=draw.device)  # the mean color
    # By a weight of 0 or 1, lerp gives exactly the one or the other, in a quarter of the time of torch.where.
    pixels.index_copy_(0, chosen, pixels.index_select(0, chosen).lerp_(fill, box.float()))
