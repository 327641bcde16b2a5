"""Test augmentation against torchvision, and its random numbers against their distributions."""

import math

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
from src.transforms.patchify import normalize, patchify

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
EVERYTHING = {
    "flip": True,
    "translate": 2,
    "rotate": 15,
    "scale": 0.1,
    "shear": 5,
    "resized_crop": 0.3,
    "jitter": 0.2,
    "hue": 0.1,
    "erase": 0.5,
}


def augment_pixels(images: torch.Tensor, seed: int = 0, **settings) -> torch.Tensor:
    """Augment without normalization: the result has values from 0 to 255."""
    channels = images.shape[1]
    augment = Augment(Augmentation(**settings), [0.0] * channels, [1 / 255] * channels)
    return augment(images, generator(seed))


def assert_pixels_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare values from 0 to 255; sampling coordinates may differ in their last bits."""
    assert_close(actual, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"translate": -1}, "translate must be between 0 and 1000, got -1"),
        ({"rotate": 181.0}, "rotate must be between 0 and 180, got 181.0"),
        ({"policy_ops": 0}, "policy_ops must be between 1 and 8, got 0"),
        ({"erase": math.nan}, "erase must be between 0 and 1, got nan"),
    ],
)
def test_out_of_range_setting_is_rejected(setting, message):
    with pytest.raises(InputError, match=f"data.augment.{message}"):
        Augmentation(**setting)


class MaximumDraw(Draw):
    """Draw the upper end of every range, to make the augmentation deterministic."""

    def uniform(self, low, high):
        return torch.full((self.size,), float(high))

    def integers(self, low, high):
        return torch.full((self.size,), high)

    def coin(self, probability=0.5):
        return torch.full((self.size,), True)


@pytest.fixture
def maximum_draw(monkeypatch):
    monkeypatch.setattr(module, "Draw", MaximumDraw)


def torchvision_affine(images, angle=0.0, translate=(0, 0), scale=1.0, shear=0.0):
    """Apply torchvision's `affine`, which rotates clockwise."""
    bilinear = TF.InterpolationMode.BILINEAR
    return TF.affine(images.float(), angle, translate, scale, [shear, 0.0], bilinear)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "angle, scale, shear",
    [
        (15, 0, 0),
        (180, 0, 0),
        (0, 0.3, 0),
        (0, 0, 20),
        (40, 0.2, 10),
    ],
)
def test_rotation_scale_and_shear_match_torchvision(maximum_draw, angle, scale, shear, channels):
    images = random_images(6, channels, 12, 15)
    actual = augment_pixels(images, rotate=angle, scale=scale, shear=shear)
    expected = torchvision_affine(images, -angle, scale=1 + scale, shear=shear)
    assert_pixels_close(actual, expected)


def test_flip_translation_and_rotation_are_applied_in_this_order(maximum_draw):
    images = random_images(6, 3, 12, 15)
    translated = torchvision_affine(TF.horizontal_flip(images), translate=(2, 2))
    assert_pixels_close(augment_pixels(images, flip=True, translate=2), translated)

    actual = augment_pixels(images, flip=True, translate=2, rotate=30)
    expected = torchvision_affine(translated, -30)
    # torchvision's two steps lose the pixels that are moved out and then rotated back in.
    ones = torch.ones_like(images)
    kept = torchvision_affine(torchvision_affine(ones, translate=(2, 2)), -30) > 0.999
    assert_pixels_close(actual[kept], expected[kept])


@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (4, 3, 8, 12)])
def test_without_settings_augment_equals_normalize(shape):
    images = random_images(*shape)
    mean, std = MEAN[: shape[1]], STD[: shape[1]]
    augmented = Augment(Augmentation(), mean, std)(images, generator())
    assert torch.equal(augmented, normalize(images, mean, std))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["none", "randaugment", "trivialaugment"])
@pytest.mark.parametrize("size", [(8, 8), (28, 20)])
@pytest.mark.parametrize("erase_fill", ["noise", "constant"])
def test_all_settings_together(channels, policy, size, erase_fill):
    settings = EVERYTHING | {"policy": policy, "erase_fill": erase_fill}
    images = random_images(1, channels, *size).repeat(20, 1, 1, 1)
    before = images.clone()
    global_state = torch.get_rng_state()
    augmented = augment_pixels(images, **settings)

    assert augmented.shape == images.shape
    assert augmented.dtype == torch.float32
    assert augmented.min() >= -0.01
    assert augmented.max() <= 255.01
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(augmented, augment_pixels(images, **settings))
    assert not torch.equal(augmented, augment_pixels(images, seed=1, **settings))
    assert len(augmented.unique(dim=0)) == 20, "each sample has its own random numbers"


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches(batch):
    settings = Augmentation(**EVERYTHING, policy="randaugment", mixup=0.2, cutmix=1.0)
    images = Augment(settings, MEAN, STD)(random_images(batch, 3, 8, 8), generator())
    labels = torch.zeros(batch, dtype=torch.long)
    mixed, targets = mix(images, labels, 2, settings, generator())
    assert mixed.isfinite().all()
    assert targets.tolist() == [[1.0, 0.0]] * batch


def test_float_images_are_rejected():
    with pytest.raises(InputError, match="images must be uint8"):
        augment_pixels(torch.rand(2, 3, 4, 4))


@pytest.mark.parametrize("height, width", [(8, 8), (6, 10)])
def test_exact_flips_and_translations_match_resampling(height, width):
    images = random_images(200, 3, height, width)
    copied = augment_pixels(images, flip=True, translate=3)
    resampled = augment_pixels(images, flip=True, translate=3, rotate=1e-5)
    assert_pixels_close(copied, resampled)
    assert_close(copied, copied.round(), rtol=0, atol=1e-4)


def test_half_of_the_images_are_flipped():
    images = torch.zeros(4000, 1, 1, 2, dtype=torch.uint8)
    images[..., 0] = 255
    flipped = augment_pixels(images, flip=True)[..., 1] > 127
    assert 0.46 < flipped.float().mean() < 0.54


def test_translations_are_uniform_and_pad_with_black():
    images = torch.zeros(5000, 1, 7, 7, dtype=torch.uint8)
    images[:, :, 3, 3] = 255
    moved = augment_pixels(images, translate=2) > 127
    counts = moved[:, 0, 1:6, 1:6].sum(0)  # [5, 5], one for each translation
    assert counts.sum() == 5000
    assert counts.min() > 140
    assert counts.max() < 260

    white = torch.full_like(images, 255)
    visible = augment_pixels(white, translate=2) > 127
    areas = visible.sum((1, 2, 3)).unique()
    assert areas.tolist() == [25, 30, 35, 36, 42, 49]


def test_rotation_and_scale_are_uniform():
    settings = Augmentation(rotate=30, scale=0.2)
    maps = module._affine_maps(settings, [], Draw(5000, generator()), 8, 8).double()
    cos, sin = maps[0, 0], maps[1, 0]
    angle = torch.atan2(sin, cos).rad2deg()
    scale = 1 / torch.hypot(cos, sin)
    assert stats.kstest(angle.numpy(), stats.uniform(-30, 60).cdf).pvalue > 1e-3
    assert stats.kstest(scale.numpy(), stats.uniform(0.8, 0.4).cdf).pvalue > 1e-3


def test_identity_operation_of_a_policy_keeps_images():
    images = random_images(140, 3, 28, 28)
    augmented = augment_pixels(images, policy="trivialaugment")
    difference = (augmented - images).abs().amax((1, 2, 3))
    assert (difference < 0.01).sum() >= 10, "one of the 14 operations is the identity"


@pytest.mark.parametrize("fill", ["noise", "constant"])
@pytest.mark.parametrize("batch", [3, 50])
def test_erasing_hits_one_rectangle_with_the_given_probability(fill, batch):
    images = torch.full((batch, 1, 16, 12), 255, dtype=torch.uint8)
    augment = Augment(Augmentation(erase=0.3, erase_fill=fill), [0.5], [0.25])
    source = generator()
    batches = [augment(images, source) for _ in range(3000 // batch)]
    pixels = torch.cat(batches)[:, 0]
    erased = pixels < 1.9999  # white is (1 - 0.5) / 0.25
    changed = erased.any(2).any(1)
    assert 0.26 < changed.float().mean() < 0.34
    for mask in erased[changed][:100]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.float().mean() > 0.98, "all of the box, but for noise that happens to be white"

    share = erased[changed].float().mean((1, 2))
    assert share.min() > 0.005
    assert share.max() < 0.4
    assert 0.13 < share.mean() < 0.19
    if fill == "constant":
        assert pixels[erased].abs().max() < 1e-6
    else:
        assert pixels.min() > -2.0001  # noise is uniform from -2 to 2
        assert pixels[erased].mean().abs() < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_augmentation_on_cuda_does_not_synchronize():
    settings = Augmentation(**EVERYTHING, policy="randaugment", mixup=0.2, cutmix=1.0)
    images = random_images(64, 3, 32, 32).cuda()
    labels = torch.zeros(64, dtype=torch.long, device="cuda")
    source = torch.Generator("cuda").manual_seed(0)
    augment = Augment(settings, MEAN, STD)
    mix(augment(images, source), labels, 10, settings, source)  # initializes CUDA libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        mixed, _ = mix(augment(images, source), labels, 10, settings, source)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert mixed.device.type == "cuda"
    assert mixed.isfinite().all()
    assert patchify(mixed, 4).shape == (64, 64, 48)
