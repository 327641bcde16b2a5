"""Augmentation: single settings against torchvision, what is drawn against its distribution, and all of it at once."""

import math

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from batches import generator, random_images
from scipy import stats

from src.errors import InputError
from src.randomness import Draw
from src.transforms import augment as module
from src.transforms.augment import Augment, Augmentation
from src.transforms.mixing import mix
from src.transforms.patchify import normalize, patchify

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
PLAIN = (
    [0.0, 0.0, 0.0],
    [1 / 255, 1 / 255, 1 / 255],
)  # mean and std that leave gray levels as they are
PLAIN_GRAY = [0.0], [1 / 255]
EVERYTHING = {
    "flip": True,
    "translate": 2,
    "rotate": 15,
    "scale": 0.1,
    "shear": 5,
    "resized_crop": 0.3,
}
EVERYTHING |= {"jitter": 0.2, "hue": 0.1, "erase": 0.5}


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"translate": -1}, "translate must be between 0 and 1000, got -1"),
        ({"rotate": 181.0}, "rotate must be between 0 and 180, got 181.0"),
        (
            {"policy": "autoaugment"},
            "policy must be one of none, randaugment, trivialaugment, got autoaugment",
        ),
        ({"policy_ops": 0}, "policy_ops must be between 1 and 8, got 0"),
        ({"erase": math.nan}, "erase must be between 0 and 1, got nan"),
        ({"erase_fill": "black"}, "erase_fill must be one of noise, constant, got black"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_range(setting, message):
    with pytest.raises(InputError, match=f"data.augment.{message}"):
        Augmentation(**setting)


class Extreme(Draw):
    """Draws the upper end of every range, so that what is drawn is known."""

    def uniform(self, low, high):
        return torch.full((self.size,), float(high))

    def integers(self, low, high):
        return torch.full((self.size,), high)

    def coin(self, probability=0.5):
        return torch.full((self.size,), True)


@pytest.fixture
def most(monkeypatch):
    """Augment at its strongest: (images, settings) -> gray levels."""
    monkeypatch.setattr(module, "Draw", Extreme)

    def augment(images, **settings):
        return Augment(Augmentation(**settings), *[v[: images.shape[1]] for v in PLAIN])(
            images, generator()
        )

    return augment


def affine(images, angle=0.0, translate=(0, 0), scale=1.0, shear=0.0):
    """torchvision's, which turns clockwise."""
    return TF.affine(
        images.float(), angle, translate, scale, [shear, 0.0], TF.InterpolationMode.BILINEAR
    )


def assert_gray_levels_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Within a twentieth of a gray level of 256: coordinates differ in their last bits."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "angle, scale, shear",
    [(15, 0, 0), (90, 0, 0), (180, 0, 0), (0, 0.3, 0), (0, 0, 20), (40, 0.2, 10)],
)
def test_rotation_scale_and_shear_equal_torchvision(most, angle, scale, shear, channels):
    images = random_images(6, channels, 12, 15)
    theirs = affine(images, -angle, scale=1 + scale, shear=shear)
    assert_gray_levels_close(most(images, rotate=angle, scale=scale, shear=shear), theirs)


def test_flip_comes_before_translation_and_translation_before_rotation(most):
    images = random_images(6, 3, 12, 15)
    moved = affine(TF.horizontal_flip(images), translate=(2, 2))
    assert_gray_levels_close(most(images, flip=True, translate=2), moved)
    ours, turned = most(images, flip=True, translate=2, rotate=30), affine(moved, -30)
    # What the translation pushes out and the rotation brings back is lost in torchvision's two steps.
    kept = affine(affine(torch.ones_like(images), translate=(2, 2)), -30) > 0.999
    assert_gray_levels_close(ours[kept], turned[kept])


@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (4, 3, 8, 12)])
def test_with_everything_off_augment_equals_normalize(shape):
    images = random_images(*shape)
    mean, std = MEAN[: shape[1]], STD[: shape[1]]
    augmented = Augment(Augmentation(), mean, std)(images, generator())
    torch.testing.assert_close(augmented, normalize(images, mean, std))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["none", "randaugment", "trivialaugment"])
@pytest.mark.parametrize("size", [(8, 8), (28, 20)])
@pytest.mark.parametrize("erase_fill", ["noise", "constant"])
def test_everything_on(channels, policy, size, erase_fill):
    augment = Augment(
        Augmentation(**EVERYTHING, policy=policy, erase_fill=erase_fill),
        *[v[:channels] for v in PLAIN],
    )
    images = random_images(1, channels, *size).expand(20, -1, -1, -1)
    before = images.clone()
    global_state = torch.get_rng_state()
    augmented = augment(images, generator())

    assert augmented.shape == images.shape and augmented.dtype == torch.float32
    assert augmented.min() >= -0.01 and augmented.max() <= 255.01
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(augmented, augment(images, generator()))
    assert not torch.equal(augmented, augment(images, generator(1)))
    assert augmented.flatten(1).unique(dim=0).shape[0] == 20  # each sample is its own


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches(batch):
    settings = Augmentation(**EVERYTHING, policy="randaugment", mixup=0.2, cutmix=1.0)
    images = Augment(settings, MEAN, STD)(random_images(batch, 3, 8, 8), generator())
    mixed, targets = mix(images, torch.zeros(batch, dtype=torch.long), 2, settings, generator())
    assert mixed.isfinite().all() and targets.tolist() == [[1.0, 0.0]] * batch


def test_augment_refuses_floats():
    with pytest.raises(InputError, match="images must be uint8"):
        Augment(Augmentation(), MEAN, STD)(torch.rand(2, 3, 4, 4), generator())


@pytest.mark.parametrize("height, width", [(8, 8), (6, 10)])
def test_exact_copies_are_the_flips_and_translations_of_the_resampling(height, width):
    images = random_images(200, 3, height, width)
    copied = Augment(Augmentation(flip=True, translate=3), *PLAIN)(images, generator())
    resampled = Augment(Augmentation(flip=True, translate=3, rotate=1e-5), *PLAIN)(
        images, generator()
    )
    assert_gray_levels_close(copied, resampled)
    torch.testing.assert_close(copied, copied.round(), rtol=0, atol=1e-4)


def test_half_of_the_images_are_flipped():
    images = torch.zeros(4000, 1, 1, 2, dtype=torch.uint8)
    images[..., 0] = 255
    flipped = Augment(Augmentation(flip=True), *PLAIN_GRAY)(images, generator())
    assert 0.46 < (flipped[..., 1] > 127).float().mean() < 0.54
    assert_gray_levels_close(flipped.sum(3), torch.full((4000, 1, 1), 255.0))


def test_translations_cover_their_range_evenly_and_bring_in_black():
    images = torch.zeros(5000, 1, 7, 7, dtype=torch.uint8)
    images[:, :, 3, 3] = 255
    augment = Augment(Augmentation(translate=2), *PLAIN_GRAY)
    counts = (augment(images, generator()) > 127)[:, 0, 1:6, 1:6].sum(
        0
    )  # [5, 5], one for each translation
    assert counts.sum() == 5000 and counts.min() > 140 and counts.max() < 260
    full = augment(torch.full_like(images, 255), generator()) > 127
    assert full.sum((1, 2, 3)).unique().tolist() == [25, 30, 35, 36, 42, 49]


def test_rotation_and_scale_are_drawn_uniformly():
    settings = Augmentation(rotate=30, scale=0.2)
    maps = module._maps(settings, [], Draw(5000, generator()), (8, 8))
    cos, sin = maps[0, 0].double(), maps[1, 0].double()
    angle = torch.atan2(sin, cos).rad2deg().numpy()
    assert stats.kstest(angle, stats.uniform(-30, 60).cdf).pvalue > 1e-3
    scale = (1 / torch.hypot(cos, sin)).numpy()
    assert stats.kstest(scale, stats.uniform(0.8, 0.4).cdf).pvalue > 1e-3


def test_images_that_a_policy_leaves_alone_stay_the_same():
    images = random_images(140, 3, 28, 28)
    augmented = Augment(Augmentation(policy="trivialaugment"), *PLAIN)(images, generator())
    difference = (augmented - images).abs().amax((1, 2, 3))
    assert (difference < 0.01).sum() >= 10  # a fourteenth is dealt the identity


@pytest.mark.parametrize("fill", ["noise", "constant"])
@pytest.mark.parametrize("batch", [3, 50])
def test_erasing_hits_one_rectangle_with_its_probability(fill, batch):
    images = torch.full((batch, 1, 16, 12), 255, dtype=torch.uint8)
    augment = Augment(Augmentation(erase=0.3, erase_fill=fill), [0.5], [0.25])
    source = generator()
    erased = torch.cat([augment(images, source) for _ in range(3000 // batch)])[:, 0]
    hit = erased < 1.9999  # white is (1 - 0.5) / 0.25
    changed = hit.any(2).any(1)
    assert 0.26 < changed.float().mean() < 0.34
    for box in hit[changed][:100]:
        rows, columns = box.any(1).nonzero(), box.any(0).nonzero()
        inside = box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert inside.float().mean() > 0.98  # noise may by chance be as white as the image
    share = hit[changed].float().mean((1, 2))
    assert 0.005 < share.min() and share.max() < 0.4 and 0.13 < share.mean() < 0.19
    if fill == "constant":
        assert erased[hit].abs().max() < 1e-6
    else:
        assert (
            erased.min() > -2.0001 and erased[hit].mean().abs() < 0.05
        )  # uniform from (0 - 0.5) / 0.25 to 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_everything_runs_on_cuda_without_waiting_for_the_device():
    settings = Augmentation(**EVERYTHING, policy="randaugment", mixup=0.2, cutmix=1.0)
    images, labels = (
        random_images(64, 3, 32, 32).cuda(),
        torch.zeros(64, dtype=torch.long, device="cuda"),
    )
    source = torch.Generator("cuda").manual_seed(0)
    augment = Augment(settings, MEAN, STD)
    mix(augment(images, source), labels, 10, settings, source)  # first calls set libraries up
    torch.cuda.set_sync_debug_mode("error")
    try:
        mixed, targets = mix(augment(images, source), labels, 10, settings, source)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert mixed.device.type == "cuda" and mixed.isfinite().all()
    assert patchify(mixed, 4).shape == (64, 64, 48)
