"""Test affine maps, crops and boxes; rotation, scale and shear are tested with what uses them."""

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from batches import generator, random_images
from scipy import stats
from torch.testing import assert_close

from src.randomness import Draw
from src.transforms.geometry import affine, box_mask, compose, crop_maps, resample


def test_resample_by_the_identity_and_by_whole_pixels():
    images = random_images(2, 3, 6, 9)
    draw = Draw(2, generator())
    assert_close(resample(images, affine(draw)), images.float(), rtol=0, atol=0.05)

    actual = resample(images, affine(draw, x0=torch.tensor([0.0, 2.0]), y0=-1.0))
    expected = torch.zeros(2, 3, 6, 9)
    expected[0, :, 1:] = images[0, :, :-1]
    expected[1, :, 1:, :-2] = images[1, :, :-1, 2:]
    assert_close(actual, expected, rtol=0, atol=0.05)


def test_compose_is_the_matrix_product_of_each_sample():
    first, then = torch.randn(3, 3, 5), torch.randn(3, 3, 5)
    expected = torch.einsum("ijb,jkb->ikb", first, then)
    assert_close(compose(first, then), expected, rtol=0, atol=1e-5)


def test_crop_matches_torchvision():
    area, ratio, x, y = 0.25, 0.0, 0.25, -0.125  # logarithm of the ratio; center from -0.5 to 0.5
    draws = iter([area, ratio, x, y])

    class FixedDraw(Draw):
        def uniform(self, low, high):
            return torch.tensor([next(draws)])

    images = random_images(1, 3, 32, 32)
    actual = resample(images, crop_maps(0.08, FixedDraw(1, generator()), 32, 32))
    expected = TF.resized_crop(images.float(), 6, 12, 16, 16, [32, 32], antialias=False)
    inner = slice(1, -1)  # at the border, only ours interpolates with pixels outside the crop
    assert_close(actual[..., inner, inner], expected[..., inner, inner], rtol=0, atol=0.05)


@pytest.mark.parametrize("height, width", [(32, 32), (20, 40), (48, 16)])
def test_crops_lie_inside_the_image(height, width):
    maps = crop_maps(0.1, Draw(20_000, generator()), height, width)
    right = maps[0, 2].abs() + maps[0, 0] * width / 2
    bottom = maps[1, 2].abs() + maps[1, 1] * height / 2
    assert right.max() <= width / 2 + 1e-4
    assert bottom.max() <= height / 2 + 1e-4


def test_crops_have_uniform_area_and_allowed_aspect_ratios():
    maps = crop_maps(0.1, Draw(20_000, generator()), 32, 32)
    width, height = maps[0, 0], maps[1, 1]
    area = (width * height).double().numpy()
    assert stats.kstest(area, stats.uniform(0.1, 0.9).cdf).pvalue > 1e-3
    ratio = width / height
    assert ratio.min() > 0.749
    assert ratio.max() < 1.334
    assert ratio.log().mean().abs() < 0.01


def test_boxes_are_clipped_at_the_border():
    top, left = torch.tensor([[1, -2, 0], [2, 3, 0]])
    height, width = torch.tensor([[2, 3, 0], [1, 9, 5]])
    masks = box_mask(top, left, height, width, 4, 5)[:, 0]
    assert masks[0].nonzero().tolist() == [[1, 2], [2, 2]]
    assert masks[1].nonzero().tolist() == [[0, 3], [0, 4]]
    assert not masks[2].any()
