"""Color operations against torchvision's of single images, and the policies that choose among them."""

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from src.randomness import Draw
from src.transforms.policies import LIMITS, OPERATIONS, Limits, Deal
from torchvision.transforms import v2

from src import color
from src.transforms.geometry import affine, resample

FACTORS = [0.0, 0.1, 0.73, 1.0, 1.27, 1.9]


def pictures(channels: int, count: int = 6) -> torch.Tensor:
    """uint8 [count, channels, 12, 15]: smooth with noise, of differing contrast, the last of one value."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 3, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (12, 15), mode="bilinear")
    noisy = smooth + 0.1 * torch.randn(count, channels, 12, 15, generator=generator)
    span = torch.linspace(1, 0, count).view(-1, 1, 1, 1)
    return (255 * (0.3 + span * (noisy - 0.3))).round().clamp(0, 255).to(torch.uint8)


# name, strengths, our function of a batch, torchvision's of one image, the most gray levels that they may differ
CASES = [
    ("brightness", FACTORS, color.brightness, TF.adjust_brightness, 0),
    ("contrast", FACTORS, color.contrast, TF.adjust_contrast, 1),
    ("saturation", FACTORS, color.saturation, TF.adjust_saturation, 1),
    ("sharpness", FACTORS, color.sharpness, TF.adjust_sharpness, 1),
    ("hue", [-0.5, -0.3, -0.05, 0.0, 0.17, 0.5], color.hue, TF.adjust_hue, 1),
    ("posterize", [0, 1, 2, 4, 6, 8], color.posterize, TF.posterize, 0),
    ("solarize", [0.0, 1.0, 76.5, 128.0, 254.0, 255.0], color.solarize, TF.solarize, 0),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name, strengths, batched, single, tolerance", CASES, ids=[case[0] for case in CASES])
def test_each_image_has_its_own_strength_as_in_torchvision(name, strengths, batched, single, tolerance, channels):
    images = pictures(channels, len(strengths))
    for shift in range(len(strengths)):  # so that every image meets every strength
        rolled = strengths[shift:] + strengths[:shift]
        ours = batched(images, torch.tensor(rolled))
        theirs = torch.stack([single(image, strength) for image, strength in zip(images, rolled, strict=True)])
        difference = (ours.int() - theirs.int()).abs()
        assert ours.dtype == torch.uint8
        assert difference.max() <= tolerance
        # hue: torchvision cuts off decimals where we round; the others differ in single values on a float's last bit
        # (which the last image, of one value, shows in all of its pixels)
        assert name == "hue" or (difference[:-1] > 0).float().mean() < 0.01


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_operations_without_strength_equal_torchvision_exactly(name, channels):
    for images in (pictures(channels), torch.randint(256, (4, channels, 40, 30), dtype=torch.uint8)):
        theirs = torch.stack([getattr(TF, name)(image) for image in images])
        assert torch.equal(getattr(color, name)(images), theirs)


def test_operations_take_images_in_channels_last_memory():
    images = pictures(3).contiguous(memory_format=torch.channels_last)
    assert torch.equal(color.equalize(images), color.equalize(images.contiguous()))
    factor = torch.full((len(images),), 1.5)
    assert torch.equal(color.sharpness(images, factor), color.sharpness(images.contiguous(), factor))


def test_operations_leave_their_input_alone():
    images = pictures(3)
    before = images.clone()
    for _, strengths, batched, _, _ in CASES:
        batched(images, torch.tensor(strengths))
    color.autocontrast(images)
    color.equalize(images)
    assert torch.equal(images, before)


def test_jitter_stays_in_its_range_and_differs_between_images():
    images = torch.full((200, 1, 2, 2), 100, dtype=torch.uint8)
    jittered = color.jitter(images, 0.2, 0.1, Draw(200, torch.Generator().manual_seed(0)))
    assert jittered.min() >= 80 and jittered.max() <= 120
    assert jittered[:, 0, 0, 0].unique().numel() > 20


# -------------------------------------------------------------------------------------------------------- policies


def only(name: str, size: int, magnitude: float, sign: int, limits: Limits) -> Step:
    """A step that does one operation to all images."""
    index = OPERATIONS.index(name)
    slots = torch.zeros(len(OPERATIONS), size, dtype=torch.int64)
    slots[index] = torch.arange(size)
    place = index * size + torch.arange(size)
    strength = torch.ones(size)
    return Step(limits, torch.full((size,), index), slots, place, strength * magnitude, strength * sign)


POLICIES = [("randaugment", v2.RandAugment()), ("trivialaugment", v2.TrivialAugmentWide())]
NAMES = {  # of torchvision's operations
    "brightness": "Brightness",
    "saturation": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


@pytest.mark.parametrize("policy, reference", POLICIES)
@pytest.mark.parametrize("name", NAMES)
def test_strengths_of_color_operations_are_those_of_torchvision(name, policy, reference):
    assert len(OPERATIONS) == len(reference._AUGMENTATION_SPACE)
    images = pictures(3)
    magnitudes, signed = reference._AUGMENTATION_SPACE[NAMES[name]]
    values = magnitudes(31, 12, 15)
    for level in (0, 4, 9, 17, 30):
        for sign in (-1, 1):
            ours = color.apply_colors(images, [only(name, len(images), level / 30, sign, LIMITS[policy])])
            strength = 0.0 if values is None else float(values[level]) * (sign if signed else 1)
            theirs = reference._apply_image_or_video_transform(
                images, NAMES[name], strength, "bilinear", {torch.Tensor: 0}
            )
            difference = (ours.int() - theirs.int()).abs()
            assert difference.max() <= 1
            # Where the result is a whole number, the last bit of a float decides whether one is cut off.
            assert (difference[:-1] > 0).float().mean() < 0.05


def test_two_steps_follow_one_another():
    images = pictures(3)
    first = only("solarize", 6, 0.5, 1, LIMITS["randaugment"])
    then = only("equalize", 6, 0.5, 1, LIMITS["randaugment"])
    expected = color.equalize(color.solarize(images, torch.full((6,), 127.5)))
    assert torch.equal(color.apply_colors(images, [first, then]), expected)


@pytest.mark.parametrize("size", [1, 3, 14, 100])
def test_a_step_deals_every_image_one_operation(size):
    step = color.draw_step("randaugment", 9, Draw(size, torch.Generator().manual_seed(size)))
    assert step.slots.flatten()[step.place].tolist() == list(range(size))
    assert step.operation.tolist() == [place // step.slots.shape[1] for place in step.place.tolist()]
    assert step.operation.bincount().max() <= step.slots.shape[1]
    assert step.magnitude.unique().tolist() == pytest.approx([0.3])


def test_every_operation_is_equally_likely_for_small_batches_too():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([color.draw_step("randaugment", 9, Draw(5, generator)).operation for _ in range(3000)])
    counts = drawn.bincount(minlength=len(OPERATIONS)) / len(drawn)
    assert counts.sub(1 / len(OPERATIONS)).abs().max() < 0.01  # about four standard deviations


def test_trivialaugment_draws_all_strengths_and_signs():
    step = color.draw_step("trivialaugment", 9, Draw(5000, torch.Generator().manual_seed(0)))
    assert (step.magnitude * 30).round().unique().tolist() == list(range(31))
    assert step.sign.unique().tolist() == [-1, 1]
    assert abs(step.sign.mean()) < 0.06


def test_identity_and_geometric_operations_leave_colors_alone():
    images = pictures(3)
    for name in OPERATIONS[:6]:
        step = only(name, len(images), 1.0, 1, LIMITS["trivialaugment"])
        assert torch.equal(color.apply_colors(images, [step]), images)


@pytest.mark.parametrize("policy, reference", POLICIES)
@pytest.mark.parametrize(
    "name, theirs",
    [
        ("shear_x", "ShearX"),
        ("shear_y", "ShearY"),
        ("translate_x", "TranslateX"),
        ("translate_y", "TranslateY"),
        ("rotate", "Rotate"),
    ],
)
def test_geometric_operations_of_policies_equal_torchvision(name, theirs, policy, reference):
    images = torch.nn.functional.interpolate(pictures(3, 2).float(), (40, 36), mode="bilinear")
    values = reference._AUGMENTATION_SPACE[theirs][0](31, 40, 36)
    for level, sign in ((0, 1), (4, -1), (9, 1), (30, -1), (30, 1)):
        step = only(name, 2, level / 30, sign, color.LIMITS[policy])
        maps = affine(Draw(2, torch.Generator()), **color.geometry(step, 40, 36))
        expected = reference._apply_image_or_video_transform(
            images, theirs, float(values[level]) * sign, TF.InterpolationMode.BILINEAR, {torch.Tensor: None}
        )
        torch.testing.assert_close(resample(images, maps), expected, rtol=0, atol=0.05)  # of 255 gray levels


def test_trivialaugment_moves_small_images_by_their_size_at_most():
    step = only("translate_x", 1, 1.0, 1, color.LIMITS["trivialaugment"])
    assert color.geometry(step, 8, 8)["x0"].item() == -8
    assert color.geometry(step, 64, 64)["x0"].item() == -32
