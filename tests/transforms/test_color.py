"""Color operations against torchvision's of single images."""

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from batches import generator, pictures, random_images

from src.randomness import Draw
from src.transforms import color

FACTORS = [0.0, 0.1, 0.73, 1.0, 1.27, 1.9]


# name, strengths, our function of a batch, torchvision's of one image, the most gray levels that they may differ
CASES = [
    ("brightness", FACTORS, color.brightness, TF.adjust_brightness, 1),
    ("contrast", FACTORS, color.contrast, TF.adjust_contrast, 1),
    ("saturation", FACTORS, color.saturation, TF.adjust_saturation, 1),
    ("sharpness", FACTORS, color.sharpness, TF.adjust_sharpness, 1),
    ("hue", [-0.5, -0.3, -0.05, 0.0, 0.17, 0.5], color.hue, TF.adjust_hue, 1),
    ("posterize", [0, 1, 2, 4, 6, 8], color.posterize, TF.posterize, 0),
    ("solarize", [0.0, 1.0, 76.5, 128.0, 254.0, 255.0], color.solarize, TF.solarize, 0),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "name, strengths, batched, single, tolerance", CASES, ids=[case[0] for case in CASES]
)
def test_each_image_has_its_own_strength_as_in_torchvision(
    name, strengths, batched, single, tolerance, channels
):
    images = pictures(channels, len(strengths))
    for shift in range(len(strengths)):  # so that every image meets every strength
        rolled = strengths[shift:] + strengths[:shift]
        ours = batched(images, torch.tensor(rolled))
        theirs = torch.stack(
            [single(image, strength) for image, strength in zip(images, rolled, strict=True)]
        )
        difference = (ours.int() - theirs.int()).abs()
        assert ours.dtype == torch.uint8
        assert difference.max() <= tolerance
        # hue: torchvision cuts off decimals where we round; the others differ in single values on a float's last bit
        # (which the last image, of one value, shows in all of its pixels)
        assert name == "hue" or (difference[:-1] > 0).float().mean() < 0.01


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_operations_without_strength_equal_torchvision(name, channels):
    for images in (pictures(channels), random_images(4, channels, 40, 30)):
        theirs = torch.stack([getattr(TF, name)(image) for image in images])
        difference = (getattr(color, name)(images).int() - theirs.int()).abs()
        assert difference.max() <= (
            name == "autocontrast"
        )  # its decimals are cut off; equalize counts in integers
        assert (difference > 0).float().mean() < 0.01


def test_operations_take_images_in_channels_last_memory():
    images = pictures(3).contiguous(memory_format=torch.channels_last)
    assert torch.equal(color.equalize(images), color.equalize(images.contiguous()))
    factor = torch.full((len(images),), 1.5)
    difference = (
        color.sharpness(images, factor).int() - color.sharpness(images.contiguous(), factor).int()
    )
    assert difference.abs().max() <= 1


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
    jittered = color.jitter(images, 0.2, 0.1, Draw(200, generator()))
    assert jittered.min() >= 80 and jittered.max() <= 120
    assert jittered[:, 0, 0, 0].unique().numel() > 20
