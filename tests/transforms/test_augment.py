"""Compare augmentation with torchvision, and its random numbers with their distributions."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from batches import generator, random_images
from scipy import stats
from torch.testing import assert_close

from src.errors import InputError
from src.randomness import Draw
from src.transforms import augment as module
from src.transforms.augment import Augment, Augmentation
from src.transforms.mixing import mix
from src.transforms.patchify import normalize

MEAN = [0.4914, 0.4822, 0.4465]
STD = [0.2470, 0.2435, 0.2616]
EVERYTHING = {
    "flip": True,
    "translate": 2,
    "rotate": 15,
    "scale": 0.1,
    "shear": 5,
    "resized_crop": 0.3,
    "jitter": 0.2,
    "erase": 0.5,
}


def augment_pixels(images: torch.Tensor, **settings) -> torch.Tensor:
    """Augment images without normalization, using the same random numbers in every call.

    Args:
        images: uint8 [B, C, H, W].
        settings: fields of `Augmentation`.

    Returns:
        float32 [B, C, H, W], with values from 0 to 255.
    """
    channels = images.shape[1]
    mean = [0.0] * channels
    std = [1 / 255] * channels
    augment = Augment(Augmentation(**settings), mean, std)
    return augment(images, generator())


def assert_pixels_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare pixel values from 0 to 255, with a tolerance for rounded sampling coordinates."""
    assert_close(actual, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"rotate": 181.0}, "rotate must be between 0 and 180, got 181.0"),
        ({"policy_ops": 0}, "policy_ops must be between 1 and 8, got 0"),
        ({"erase": math.nan}, "erase must be between 0 and 1, got nan"),
    ],
)
def test_out_of_range_setting_is_rejected(setting, message):
    with pytest.raises(InputError, match=f"data.augment.{message}"):
        Augmentation(**setting)


class MaximumDraw(Draw):
    """A `Draw` that always returns the maximum of each range."""

    def uniform(self, low, high):
        return torch.full((self.size,), float(high))

    def integers(self, low, high):
        return torch.full((self.size,), high)

    def coin(self, probability=0.5):
        return torch.full((self.size,), True)


@pytest.fixture
def maximum_draw(monkeypatch):
    """Augment every image at full strength."""
    monkeypatch.setattr(module, "Draw", MaximumDraw)


def torchvision_affine(
    images,
    angle=0.0,
    translate=(0, 0),
    scale=1.0,
    shear=0.0,
):
    """Apply torchvision's `affine`, which rotates clockwise."""
    bilinear = TF.InterpolationMode.BILINEAR
    return TF.affine(images.float(), angle, translate, scale, [shear, 0.0], bilinear)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "angle, scale, shear",
    [
        (180, 0, 0),
        (0, 0, 20),
        (40, 0.2, 10),
    ],
)
def test_rotation_scale_and_shear_match_torchvision(
    maximum_draw,
    angle,
    scale,
    shear,
    channels,
):
    images = random_images(6, channels, 12, 15)

    actual = augment_pixels(images, rotate=angle, scale=scale, shear=shear)
    expected = torchvision_affine(images, -angle, scale=1 + scale, shear=shear)

    assert_pixels_close(actual, expected)


def test_flip_translation_and_rotation_are_applied_in_this_order(maximum_draw):
    images = random_images(6, 3, 12, 15)

    actual = augment_pixels(images, flip=True, translate=2)
    translated = torchvision_affine(TF.horizontal_flip(images), translate=(2, 2))
    assert_pixels_close(actual, translated)

    actual = augment_pixels(images, flip=True, translate=2, rotate=30)
    expected = torchvision_affine(translated, -30)

    # torchvision resamples twice and loses pixels that are moved out of the image and back into it.
    ones = torch.ones_like(images)
    kept = torchvision_affine(torchvision_affine(ones, translate=(2, 2)), -30) > 0.999
    assert_pixels_close(actual[kept], expected[kept])


def test_without_settings_augment_equals_normalize():
    images = random_images(4, 3, 8, 12)

    augmented = Augment(Augmentation(), MEAN, STD)(images, generator())

    assert torch.equal(augmented, normalize(images, MEAN, STD))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["none", "randaugment", "trivialaugment"])
@pytest.mark.parametrize("border, erase_fill", [("black", "noise"), ("symmetric", "constant")])
def test_all_settings_together(channels, policy, border, erase_fill):
    """Test that the result depends only on the generator, and that the input is not modified."""
    settings = EVERYTHING | {"policy": policy, "border": border, "erase_fill": erase_fill}
    images = random_images(1, channels, 28, 20).repeat(20, 1, 1, 1)
    before = images.clone()
    global_state = torch.get_rng_state()

    augmented = augment_pixels(images, **settings)

    assert augmented.shape == images.shape
    assert_pixels_close(augmented, augmented.clamp(0, 255))
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), global_state)

    again = augment_pixels(images, **settings)
    assert torch.equal(augmented, again)
    assert len(augmented.unique(dim=0)) == 20, "each sample has its own random numbers"


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches(batch):
    """Test batches with fewer images than operations, where images can be their own partners."""
    images = random_images(batch, 3, 8, 8)
    labels = torch.zeros(batch).long()
    settings = Augmentation(mixup=0.2, cutmix=1.0)

    augmented = augment_pixels(images, **EVERYTHING, policy="randaugment")
    mixed, targets = mix(augmented, labels, 2, settings, generator())

    assert mixed.isfinite().all()
    assert targets.tolist() == [[1.0, 0.0]] * batch


@pytest.mark.parametrize("border", ["black", "symmetric"])
def test_exact_flips_and_translations_match_resampling(border):
    """Force resampling with a tiny rotation; the random numbers stay the same."""
    images = random_images(200, 3, 6, 10)

    copied = augment_pixels(images, flip=True, translate=3, border=border)
    resampled = augment_pixels(images, flip=True, translate=3, border=border, rotate=1e-5)

    assert_pixels_close(copied, resampled)
    assert_close(copied, copied.round(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("translate, angle", [(2, 0), (9, 0), (2, 30)])
def test_symmetric_border(maximum_draw, channels, translate, angle):
    """Compare with torchvision, which pads with black, on images that NumPy has padded first."""
    images = random_images(4, channels, 6, 8)

    moved = augment_pixels(images, translate=translate, rotate=angle, border="symmetric")

    margins = ((0, 0), (0, 0), (20, 20), (20, 20))
    padded = torch.from_numpy(np.pad(images.numpy(), margins, mode="symmetric"))
    expected = torchvision_affine(padded, translate=(translate, translate))
    expected = torchvision_affine(expected, -angle)[:, :, 20:-20, 20:-20]
    assert_pixels_close(moved, expected)


def test_flips_and_translations_are_uniform():
    """Use a single white pixel to find how each image was transformed."""
    images = torch.zeros(10_000, 1, 7, 16, dtype=torch.uint8)
    images[:, :, 3, 3] = 255

    moved = augment_pixels(images, flip=True, translate=2) > 127

    counts = moved[:, 0].sum(0)  # [7, 16], number of images per pixel position
    original = counts[1:6, 1:6]
    flipped = counts[1:6, 10:15]
    both = torch.cat([original, flipped])
    assert both.sum() == 10_000
    assert both.min() > 140
    assert both.max() < 260


def test_rotation_and_scale_are_uniform():
    settings = Augmentation(rotate=30, scale=0.2)
    maps = module._affine_maps(settings, [], Draw(5000, generator()), 8, 8).double()

    cos = maps[0, 0]
    sin = maps[1, 0]
    angle = torch.atan2(sin, cos).rad2deg()
    scale = 1 / torch.hypot(cos, sin)

    assert stats.kstest(angle, "uniform", (-30, 60)).pvalue > 1e-3
    assert stats.kstest(scale, "uniform", (0.8, 0.4)).pvalue > 1e-3


@pytest.mark.parametrize("fill", ["noise", "constant"])
@pytest.mark.parametrize("batch", [3, 50])
def test_erasing_hits_one_rectangle_with_the_given_probability(fill, batch):
    """Test that the probability is right even for batches of 3 with only one eligible image."""
    images = torch.full((batch, 1, 16, 12), 255, dtype=torch.uint8)
    augment = Augment(Augmentation(erase=0.3, erase_fill=fill), [0.5], [0.25])
    source = generator()

    batches = [augment(images, source) for _ in range(3000 // batch)]

    pixels = torch.cat(batches)[:, 0]
    white = normalize(images, [0.5], [0.25])[0, 0, 0, 0]
    erased = pixels != white
    rows = erased.any(2)
    columns = erased.any(1)
    assert torch.equal(erased, rows[:, :, None] & columns[:, None])

    changed = rows.any(1)
    share = erased[changed].float().mean((1, 2))
    assert 0.26 < changed.float().mean() < 0.34
    assert 0.13 < share.mean() < 0.19

    if fill == "constant":
        assert not pixels[erased].any(), "normalized, the mean color is 0"
    else:
        assert pixels.min() > -2.0001, "noise is uniform from -2 to 2"
        assert pixels[erased].mean().abs() < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_augmentation_on_cuda_does_not_synchronize():
    """Use PyTorch's debug mode, which raises an error when the host waits for the device."""
    settings = Augmentation(**EVERYTHING, policy="randaugment", mixup=0.2, cutmix=1.0)
    images = random_images(64, 3, 32, 32).cuda()
    labels = torch.arange(64, device="cuda") % 10
    source = torch.Generator("cuda").manual_seed(0)

    augment = Augment(settings, MEAN, STD)
    mix(augment(images, source), labels, 10, settings, source)  # initializes CUDA libraries

    torch.cuda.set_sync_debug_mode("error")
    try:
        mixed, _ = mix(augment(images, source), labels, 10, settings, source)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert mixed.isfinite().all()
