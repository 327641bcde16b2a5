"""Patches, normalization, augmentation: geometry against torchvision, randomness against distributions."""

import math

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from scipy import stats
from src.transforms.mixing import mix

from src import transforms
from src.errors import InputError
from src.randomness import Draw
from src.transforms.augment import Augment, Augmentation
from src.transforms.geometry import resample
from src.transforms.patchify import Patchify, normalize, unpatchify

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
PLAIN = [0.0, 0.0, 0.0], [1 / 255, 1 / 255, 1 / 255]  # mean and std that leave gray levels as they are
EVERYTHING = dict(flip=True, shift=2, rotate=15, scale=0.1, shear=5, resized_crop=0.3, jitter=0.2, hue=0.1, erase=0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator(1))


# ---------------------------------------------------------------------------------------------------------- patches


def test_patches_go_row_by_row_with_channels_last():
    image = torch.tensor([[[[1, 2, 3, 4], [5, 6, 7, 8]], [[10, 20, 30, 40], [50, 60, 70, 80]]]])  # [1, 2, 2, 4]
    expected = [[[1, 10, 2, 20, 5, 50, 6, 60], [3, 30, 4, 40, 7, 70, 8, 80]]]
    assert Patchify(2)(image).tolist() == expected


@pytest.mark.parametrize(
    "channels, height, width, patch_size", [(1, 28, 28, 7), (3, 8, 12, 4), (2, 6, 6, 1), (3, 4, 4, 4)]
)
def test_unpatchify_is_the_inverse(channels, height, width, patch_size):
    images = torch.rand(2, channels, height, width)
    patches = Patchify(patch_size)(images)
    assert patches.shape == (2, height * width // patch_size**2, patch_size**2 * channels)
    assert torch.equal(unpatchify(patches, patch_size, (height, width), channels), images)


def test_unpatchify_takes_one_number_for_a_square():
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(unpatchify(Patchify(4)(images), 4, 8, 3), images)


def test_a_patch_size_that_does_not_fit_names_those_that_do():
    message = "patch_size 5 does not divide the image size 28x28; choose one of 1, 2, 4, 7, 14, 28"
    with pytest.raises(InputError, match=message):
        Patchify(5)(torch.zeros(1, 1, 28, 28))
    with pytest.raises(InputError, match="does not divide the image size 8x12; choose one of 1, 2, 4$"):
        unpatchify(torch.zeros(1, 1, 1), 8, (8, 12), 1)
    with pytest.raises(InputError, match="patch_size 0 does not divide"):
        Patchify(0)(torch.zeros(1, 1, 28, 28))


# ---------------------------------------------------------------------------------------------------- normalization


def test_normalize_equals_torchvision():
    images = random_images(4, 3, 8, 8)
    expected = TF.normalize(TF.to_dtype(images, torch.float32, scale=True), MEAN, STD)
    torch.testing.assert_close(normalize(images, MEAN, STD), expected, rtol=0, atol=2e-6)


def test_normalize_refuses_other_types_and_channels():
    with pytest.raises(InputError, match="images must be uint8"):
        normalize(torch.rand(2, 3, 4, 4), MEAN, STD)
    with pytest.raises(InputError, match="images have 1 channels, but mean has 3 values and std 3"):
        normalize(random_images(2, 1, 4, 4), MEAN, STD)


# -------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"shift": -1}, "shift must be between 0 and 1000, got -1"),
        ({"rotate": 181.0}, "rotate must be between 0 and 180, got 181.0"),
        ({"scale": 1.0}, "scale must be between 0 and 0.9, got 1.0"),
        ({"resized_crop": 1.5}, "resized_crop must be between 0 and 1, got 1.5"),
        ({"policy": "autoaugment"}, "policy must be one of none, randaugment, trivialaugment, got autoaugment"),
        ({"policy_ops": 0}, "policy_ops must be between 1 and 8, got 0"),
        ({"policy_magnitude": 31}, "policy_magnitude must be between 0 and 30, got 31"),
        ({"erase": math.nan}, "erase must be between 0 and 1, got nan"),
        ({"erase_fill": "black"}, "erase_fill must be one of noise, constant, got black"),
        ({"mixup": -0.2}, "mixup must be between 0 and 100, got -0.2"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_range(setting, message):
    with pytest.raises(InputError, match=f"data.augment.{message}"):
        Augmentation(**setting)


# -------------------------------------------------------------------------------------------------------- geometry


class Extreme(Draw):
    """Draws the upper end of every range, so that what is drawn is known."""

    def uniform(self, low, high):
        return torch.full((self.size,), float(high)) if isinstance(high, int | float) else high

    def integers(self, low, high):
        return torch.full((self.size,), high)

    def coin(self, probability=0.5):
        return torch.full((self.size,), True)


def most(images: torch.Tensor, **settings) -> torch.Tensor:
    maps = transforms._geometry(Augmentation(**settings), [], Extreme(len(images), generator()), images.shape[-2:])
    return resample(images, maps)


def assert_gray_levels_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Within a twentieth of a gray level of 256: coordinates differ in their last bits."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "angle, scale, shear", [(15, 0, 0), (90, 0, 0), (180, 0, 0), (0, 0.3, 0), (0, 0, 20), (40, 0.2, 10)]
)
def test_rotation_scale_and_shear_equal_torchvision(angle, scale, shear, channels):
    images = random_images(6, channels, 12, 15)
    theirs = TF.affine(images.float(), -angle, [0, 0], 1 + scale, [shear, 0.0], TF.InterpolationMode.BILINEAR)
    assert_gray_levels_close(most(images, rotate=angle, scale=scale, shear=shear), theirs)


def test_rotation_turns_counterclockwise_like_torchvision():
    images = random_images(6, 3, 12, 15)
    assert_gray_levels_close(most(images, rotate=25), TF.rotate(images.float(), 25, TF.InterpolationMode.BILINEAR))


def test_flip_comes_before_shift_and_shift_before_rotation():
    images = random_images(6, 3, 12, 15).float()
    moved = TF.affine(TF.horizontal_flip(images), 0, [2, 2], 1.0, [0.0, 0.0])
    assert_gray_levels_close(most(images, flip=True, shift=2), moved)
    turned = TF.rotate(moved, 30, TF.InterpolationMode.BILINEAR)
    ours = most(images, flip=True, shift=2, rotate=30)
    # What the shift pushes out and the rotation brings back is lost in torchvision's two steps: compare the rest.
    kept = TF.rotate(TF.affine(torch.ones_like(images), 0, [2, 2], 1.0, [0.0, 0.0]), 30, TF.InterpolationMode.BILINEAR)
    assert_gray_levels_close(ours[kept > 0.999], turned[kept > 0.999])


def test_resized_crop_equals_torchvision_inside_of_the_crop():
    images = random_images(1, 3, 32, 32)
    draws = iter([0.25, 0.0, 0.25, -0.125])  # area, log ratio, and the place along x and y from -0.5 to 0.5

    class Given(Draw):
        def uniform(self, low, high):
            return torch.tensor([next(draws)])

    ours = resample(images, transforms._crop_maps(0.08, Given(1, generator()), 32, 32))
    theirs = TF.resized_crop(images.float(), 6, 12, 16, 16, [32, 32], antialias=False)
    assert_gray_levels_close(ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1])  # the rim also sees its neighbors


@pytest.mark.parametrize("height, width", [(32, 32), (20, 40), (48, 16)])
def test_crops_have_uniform_area_permitted_ratio_and_lie_inside(height, width):
    maps = transforms._crop_maps(0.1, Draw(20_000, generator()), height, width)
    crop_width, crop_height = maps[0, 0] * width, maps[1, 1] * height
    assert ((maps[0, 2].abs() + crop_width / 2) <= width / 2 + 1e-4).all()
    assert ((maps[1, 2].abs() + crop_height / 2) <= height / 2 + 1e-4).all()
    if height == width:
        area = (crop_width * crop_height / (height * width)).double().numpy()
        assert stats.kstest(area, stats.uniform(0.1, 0.9).cdf).pvalue > 1e-3
        ratio = crop_width / crop_height
        assert ratio.min() > 0.749 and ratio.max() < 1.334 and ratio.log().mean().abs() < 0.01


# ---------------------------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (4, 3, 8, 12)])
def test_with_everything_off_augment_equals_normalize(shape):
    images = random_images(*shape)
    mean, std = MEAN[: shape[1]], STD[: shape[1]]
    assert torch.equal(Augment(Augmentation(), mean, std)(images, generator()), normalize(images, mean, std))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", ["none", "randaugment", "trivialaugment"])
@pytest.mark.parametrize("size", [(8, 8), (28, 20)])
@pytest.mark.parametrize("erase_fill", ["noise", "constant"])
def test_everything_on(channels, policy, size, erase_fill):
    augment = Augment(Augmentation(**EVERYTHING, policy=policy, erase_fill=erase_fill), *[v[:channels] for v in PLAIN])
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
def test_exact_copies_are_the_flips_and_shifts_of_the_resampling(height, width):
    images = random_images(200, 3, height, width)
    settings = Augmentation(flip=True, shift=3)
    copied = Augment(settings, *PLAIN)(images, generator())
    maps = transforms._geometry(settings, [], Draw(200, generator()), (height, width))
    torch.testing.assert_close(copied, resample(images, maps), rtol=0, atol=0.01)
    torch.testing.assert_close(copied, copied.round(), rtol=0, atol=1e-4)


def test_half_of_the_images_are_flipped():
    images = torch.zeros(4000, 1, 1, 2, dtype=torch.uint8)
    images[..., 0] = 255
    flipped = Augment(Augmentation(flip=True), [0.0], [1.0])(images, generator())[:, 0, 0, 1]
    assert set(flipped.tolist()) == {0.0, 1.0}
    assert 0.46 < flipped.mean() < 0.54


def test_shifts_cover_their_range_evenly_and_bring_in_black():
    images = torch.zeros(5000, 1, 7, 7, dtype=torch.uint8)
    images[:, :, 3, 3] = 255
    shifted = Augment(Augmentation(shift=2), [0.0], [1.0])(images, generator())
    counts = shifted[:, 0, 1:6, 1:6].sum(0)  # [5, 5], one for each shift
    assert counts.sum() == 5000 and counts.min() > 140 and counts.max() < 260
    full = Augment(Augmentation(shift=2), [0.0], [1.0])(torch.full_like(images, 255), generator())
    assert torch.equal(full.sum((1, 2, 3)).unique(), torch.tensor([25.0, 30.0, 35.0, 36.0, 42.0, 49.0]))


def test_rotation_and_scale_are_drawn_uniformly():
    settings = Augmentation(rotate=30, scale=0.2)
    maps = transforms._geometry(settings, [], Draw(5000, generator()), (8, 8))
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


# --------------------------------------------------------------------------------------------------------- erasing


@pytest.mark.parametrize("fill", ["noise", "constant"])
@pytest.mark.parametrize("batch", [3, 50])
def test_erasing_hits_one_rectangle_with_its_probability(fill, batch):
    images = torch.full((batch, 1, 16, 12), 255, dtype=torch.uint8)
    augment = Augment(Augmentation(erase=0.3, erase_fill=fill), [0.5], [0.25])
    source = generator()
    erased = torch.cat([augment(images, source) for _ in range(3000 // batch)])[:, 0]
    hit = erased != 2.0  # (1 - 0.5) / 0.25
    changed = hit.any(2).any(1)
    assert 0.26 < changed.float().mean() < 0.34
    for box in hit[changed][:100]:
        rows, columns = box.any(1).nonzero(), box.any(0).nonzero()
        inside = box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert inside.float().mean() > 0.98  # noise may by chance be as white as the image
    share = hit[changed].float().mean((1, 2))
    assert 0.005 < share.min() and share.max() < 0.4 and 0.13 < share.mean() < 0.19
    if fill == "constant":
        assert (erased[hit] == 0).all()
    else:
        assert erased.min() >= -2 and erased[hit].mean().abs() < 0.05  # uniform from (0 - 0.5) / 0.25 to 2


# ---------------------------------------------------------------------------------------------------------- device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_everything_runs_on_cuda_without_waiting_for_the_device():
    settings = Augmentation(**EVERYTHING, policy="randaugment", mixup=0.2, cutmix=1.0)
    images, labels = random_images(64, 3, 32, 32).cuda(), torch.zeros(64, dtype=torch.long, device="cuda")
    source = torch.Generator("cuda").manual_seed(0)
    augment = Augment(settings, MEAN, STD)
    mix(augment(images, source), labels, 10, settings, source)  # first calls set libraries up
    torch.cuda.set_sync_debug_mode("error")
    try:
        mixed, targets = mix(augment(images, source), labels, 10, settings, source)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert mixed.device.type == "cuda" and mixed.isfinite().all()
    assert Patchify(4)(mixed).shape == (64, 64, 48)
    assert torch.allclose(normalize(images, MEAN, STD).cpu(), normalize(images.cpu(), MEAN, STD), atol=1e-6)
