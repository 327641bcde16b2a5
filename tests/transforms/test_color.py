"""Compare color operations with torchvision's functions for single images."""

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from batches import generator, pictures, random_images

from src.randomness import Draw
from src.transforms import color

FACTORS = [0.0, 0.73, 1.0, 1.9]

# Name of the operation -> (strengths, torchvision's function for single images).
CASES = {
    "brightness": (FACTORS, TF.adjust_brightness),
    "contrast": (FACTORS, TF.adjust_contrast),
    "saturation": (FACTORS, TF.adjust_saturation),
    "sharpness": (FACTORS, TF.adjust_sharpness),
    "posterize": ([0, 1, 4, 8], TF.posterize),
    "solarize": ([0.0, 76.5, 128.0, 255.0], TF.solarize),
}

# Integer operations are exact. Other operations can differ by one where a float is truncated.
EXACT = ("posterize", "solarize", "equalize")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_operations_with_strengths_match_torchvision(name, channels):
    """Test a different strength for each image, and that the input is not modified."""
    strengths, reference = CASES[name]
    images = pictures(channels, len(strengths))
    before = images.clone()

    for shift in range(len(strengths)):  # apply every strength to every image
        rolled = strengths[shift:] + strengths[:shift]
        actual = getattr(color, name)(images, torch.tensor(rolled))
        pairs = zip(images, rolled, strict=True)
        expected = torch.stack([reference(image, strength) for image, strength in pairs])

        difference = (actual.int() - expected.int()).abs()
        assert difference.max() <= (name not in EXACT)
        # The last bit of a float can change the entire last image, because it is constant.
        assert (difference[:-1] > 0).float().mean() < 0.01

    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_operations_without_strength_match_torchvision(name, channels):
    for images in (pictures(channels), random_images(4, channels, 40, 30)):
        actual = getattr(color, name)(images)
        expected = torch.stack([getattr(TF, name)(image) for image in images])

        difference = (actual.int() - expected.int()).abs()
        assert difference.max() <= (name not in EXACT)
        assert (difference > 0).float().mean() < 0.01


def test_jitter_differs_between_images_and_stays_in_range():
    images = torch.full((200, 1, 1, 1), 100, dtype=torch.uint8)

    jittered = color.jitter(images, 0.2, Draw(200, generator()))

    assert jittered.min() >= 80
    assert jittered.max() <= 120
    assert len(jittered.unique()) > 20
