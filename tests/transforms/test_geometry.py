"""Test the composition of coordinate maps, random crops and boxes.

Resampling, translation, rotation, scale and shear are tested in `test_augment.py`.
"""

from types import SimpleNamespace

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from batches import generator, random_images
from scipy import stats
from torch.testing import assert_close

from src.randomness import Draw
from src.transforms.geometry import box_mask, compose, crop_maps, resample


def test_compose_is_the_matrix_product_of_each_sample():
    first = torch.randn(3, 3, 5)
    then = torch.randn(3, 3, 5)

    expected = torch.einsum("ijb,jkb->ikb", first, then)
    assert_close(compose(first, then), expected, rtol=0, atol=1e-5)


def test_crop_matches_torchvision():
    """Compare a crop of 16x16 pixels whose top left corner is at row 6 and column 12."""
    # Area, log aspect ratio, and x and y of the center (from -0.5 to 0.5).
    draws = iter([0.25, 0.0, 0.25, -0.125])
    draw = SimpleNamespace(
        size=1,
        device="cpu",
        uniform=lambda low, high: torch.tensor([next(draws)]),
    )
    images = random_images(1, 3, 32, 32)

    actual = resample(images, crop_maps(0.08, draw, 32, 32))
    expected = TF.resized_crop(images.float(), 6, 12, 16, 16, [32, 32], antialias=False)

    inner = slice(1, -1)  # only our code samples beyond the crop border
    assert_close(actual[..., inner, inner], expected[..., inner, inner], rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "height, width",
    [
        (32, 32),
        (20, 40),
        (48, 16),
    ],
)
def test_crops_lie_inside_the_image(height, width):
    """The maps contain the center, in pixels, and the size, as a fraction of the image."""
    maps = crop_maps(0.1, Draw(20_000, generator()), height, width)

    right = maps[0, 2].abs() + maps[0, 0] * width / 2
    bottom = maps[1, 2].abs() + maps[1, 1] * height / 2
    assert right.max() <= width / 2 + 1e-4
    assert bottom.max() <= height / 2 + 1e-4


def test_crops_have_uniform_area_and_allowed_aspect_ratios():
    maps = crop_maps(0.1, Draw(20_000, generator()), 32, 32)

    width = maps[0, 0]
    height = maps[1, 1]
    area = (width * height).double()
    assert stats.kstest(area, "uniform", (0.1, 0.9)).pvalue > 1e-3

    ratio = width / height
    assert ratio.min() > 0.749
    assert ratio.max() < 1.334


def test_boxes_are_clipped_at_the_border():
    top, left = torch.tensor([[1, -2], [2, 3]])
    height, width = torch.tensor([[2, 3], [1, 9]])

    expected = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    expected[0, :, 1:3, 2] = True
    expected[1, :, 0, 3:] = True

    assert torch.equal(box_mask(top, left, height, width, 4, 5), expected)
