"""Patches and their inverse, and normalization."""

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from batches import random_images

from src.errors import InputError
from src.transforms.patchify import Patchify, normalize, patchify, unpatchify

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


def test_patches_go_row_by_row_with_channels_last():
    image = torch.tensor(
        [[[[1, 2, 3, 4], [5, 6, 7, 8]], [[10, 20, 30, 40], [50, 60, 70, 80]]]]
    )  # [1, 2, 2, 4]
    expected = [[[1, 10, 2, 20, 5, 50, 6, 60], [3, 30, 4, 40, 7, 70, 8, 80]]]
    assert patchify(image, 2).tolist() == Patchify(2)(image).tolist() == expected


@pytest.mark.parametrize(
    "channels, size, patch_size", [(1, 28, 7), (3, (8, 12), 4), (2, 6, 1), (3, 4, 4)]
)
def test_unpatchify_is_the_inverse(channels, size, patch_size):
    height, width = size if isinstance(size, tuple) else (size, size)
    images = random_images(2, channels, height, width)
    patches = patchify(images, patch_size)
    assert patches.shape == (2, height * width // patch_size**2, patch_size**2 * channels)
    assert torch.equal(unpatchify(patches, patch_size, size, channels), images)


def test_a_patch_size_that_does_not_fit_names_those_that_do():
    message = "patch_size 5 does not divide the image size 28x28; choose one of 1, 2, 4, 7, 14, 28"
    with pytest.raises(InputError, match=message):
        patchify(torch.zeros(1, 1, 28, 28), 5)
    with pytest.raises(
        InputError, match="does not divide the image size 8x12; choose one of 1, 2, 4$"
    ):
        unpatchify(torch.zeros(1, 1, 1), 8, (8, 12), 1)
    with pytest.raises(InputError, match="patch_size 0 does not divide"):
        patchify(torch.zeros(1, 1, 28, 28), 0)


def test_normalize_equals_torchvision():
    images = random_images(4, 3, 8, 8)
    before = images.clone()
    expected = TF.normalize(TF.to_dtype(images, torch.float32, scale=True), MEAN, STD)
    torch.testing.assert_close(normalize(images, MEAN, STD), expected, rtol=0, atol=1e-5)
    assert torch.equal(images, before)


def test_normalize_refuses_other_types_and_channels():
    with pytest.raises(InputError, match="images must be uint8"):
        normalize(torch.rand(2, 3, 4, 4), MEAN, STD)
    with pytest.raises(InputError, match="images have 1 channels, but mean has 3 values and std 3"):
        normalize(random_images(2, 1, 4, 4), MEAN, STD)
