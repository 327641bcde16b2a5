"""Test patchify, its inverse, and normalization."""

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from batches import random_images
from torch.testing import assert_close

from src.errors import InputError
from src.transforms.patchify import Patchify, normalize, patchify, unpatchify

MEAN = [0.4914, 0.4822, 0.4465]
STD = [0.2470, 0.2435, 0.2616]


def test_patches_are_in_row_major_order_with_channels_last():
    images = torch.arange(16).view(1, 2, 2, 4)
    expected = [
        [0, 8, 1, 9, 4, 12, 5, 13],
        [2, 10, 3, 11, 6, 14, 7, 15],
    ]

    assert patchify(images, 2).tolist() == [expected]
    assert Patchify(2)(images).tolist() == [expected]


@pytest.mark.parametrize(
    "channels, size, patch_size",
    [
        (1, 28, 7),
        (2, 6, 1),
        (3, 4, 4),
    ],
)
def test_unpatchify_inverts_patchify(channels, size, patch_size):
    images = random_images(2, channels, size, size)

    patches = patchify(images, patch_size)

    assert patches.shape == (2, (size // patch_size) ** 2, patch_size**2 * channels)
    assert torch.equal(unpatchify(patches, patch_size, size, channels), images)


@pytest.mark.parametrize(
    "patch_size, height, width, message",
    [
        (3, 8, 8, "data.patch_size 3 does not divide the image size 8x8; choose one of 1, 2, 4, 8"),
        (0, 8, 12, "data.patch_size 0 does not divide .* 8x12; choose one of 1, 2, 4$"),
    ],
)
def test_error_of_a_wrong_patch_size_lists_the_choices(
    patch_size,
    height,
    width,
    message,
):
    images = torch.zeros(1, 1, height, width)
    with pytest.raises(InputError, match=message):
        patchify(images, patch_size)


def test_normalize_matches_torchvision():
    images = random_images(4, 3, 8, 8)
    before = images.clone()
    scaled = TF.to_dtype(images, torch.float32, scale=True)
    expected = TF.normalize(scaled, MEAN, STD)

    assert_close(normalize(images, MEAN, STD), expected, rtol=0, atol=1e-5)
    assert torch.equal(images, before)


def test_normalize_rejects_float_images():
    with pytest.raises(InputError, match="images must be uint8"):
        normalize(torch.rand(2, 3, 4, 4), MEAN, STD)
